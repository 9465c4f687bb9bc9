"""Hops 2 and 3: which records of topics a reader has not come to, ends of transactions left out.

Invariant: reads only. A position before the log's end says nothing by itself: what is left may be
markers of transactions, which no reader is ever given. A position in a topic that was made anew
since is none. What an open transaction hides is unread: nobody knows what it comes to.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from relay.kafka.broker import EARLIEST, LATEST, Broker
from relay.kafka.partition import Partition
from relay.kafka.ranges import fetch
from relay.kafka.topic_descriptions import topic_ids

_BYTES: Final = 100_000
_ROUNDS: Final = 20


class ReadTo(NamedTuple):
    """Where a reader goes on, and in which of the topics that had this name; None: not known."""

    next_offset: int
    topic_id: str | None = None


class Logs(NamedTuple):
    """Where logs end at some moment, and which topics they are of."""

    ends: Mapping[Partition, int]
    topic_ids: Mapping[str, str | None]


async def logs_now(broker: Broker, topics: Collection[str]) -> Logs:
    """Return where the logs of these topics end, records of open transactions included.

    Raises:
        KafkaError: not permitted, or the broker is away.
    """
    ids = await topic_ids(broker.client, sorted(topics))
    there = [one for topic in sorted(topics) for one in broker.partitions(topic)]
    ends = await broker.offsets(there, LATEST)
    # Without a leader nobody can say where it ends.
    return Logs({one: ends.get(one, -1) for one in there}, ids)


async def unread(
    broker: Broker, logs: Logs, read_to: Mapping[Partition, ReadTo]
) -> dict[Partition, int]:
    """Return the partitions with records from the reader's position on, and about how many.

    Args:
        broker: connected.
        logs: up to where it should have read.
        read_to: where it goes on; a partition that it never came to is missing.

    Raises:
        KafkaError: not permitted, or the broker is away.
    """
    starts = await broker.offsets(logs.ends.keys(), EARLIEST)
    positions = {
        one: max(position_in(read_to.get(one), logs.topic_ids.get(one[0])), starts.get(one, 0))
        for one in logs.ends
    }
    found = {
        one: end - positions[one] if end >= 0 else 1
        for one, end in logs.ends.items()
        if end < 0 or positions[one] < end
    }
    looked = {one: positions[one] for one in found if logs.ends[one] >= 0}
    for _ in range(_ROUNDS):
        if not looked:
            break
        got = await fetch(broker, looked, bytes_each=_BYTES, committed=True, pass_over=True)
        for one, fetched in got.items():
            at, end = looked.pop(one), logs.ends[one]
            if fetched.unreadable or any(record.offset < end for record in fetched.records):
                continue
            if fetched.next_offset >= end:
                del found[one]
            elif fetched.next_offset > at:
                looked[one] = fetched.next_offset
    return found


def position_in(read_to: ReadTo | None, topic_id: str | None) -> int:
    """Return where a reader goes on in the log that is there now; 0: it has not begun there."""
    if read_to is None:
        return 0
    other = None not in (read_to.topic_id, topic_id) and read_to.topic_id != topic_id
    return 0 if other else read_to.next_offset
