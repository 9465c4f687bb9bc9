"""Hops 2 and 3: which records of a topic a reader has not come to, ends of transactions left out.

Invariant: reads only. A position before the log's end says nothing by itself: what is left may be
markers of transactions, which no reader is ever given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from relay.kafka.broker import EARLIEST, LATEST, Broker
from relay.kafka.partition import Partition
from relay.kafka.ranges import fetch

_BYTES: Final = 100_000
_ROUNDS: Final = 20


async def unread(broker: Broker, positions: Mapping[Partition, int]) -> dict[Partition, int]:
    """Return the partitions with records from their position on, and about how many offsets.

    Args:
        broker: connected.
        positions: where the reader goes on, by partition; a position before the log's start counts
            from there.

    Raises:
        KafkaError: not permitted, or the broker is away.
    """
    ends = await broker.offsets(positions.keys(), LATEST, committed_only=True)
    starts = await broker.offsets(positions.keys(), EARLIEST)
    left = {
        one: max(at, starts.get(one, 0))
        for one, at in positions.items()
        if max(at, starts.get(one, 0)) < ends.get(one, at + 1)
    }
    found = {one: ends[one] - at if one in ends else 1 for one, at in left.items()}
    looked = dict(left)
    for _ in range(_ROUNDS):
        if not looked:
            break
        got = await fetch(broker, looked, bytes_each=_BYTES, committed=True, pass_over=True)
        for one in list(looked):
            fetched = got.get(one)
            if fetched is None:
                continue
            if fetched.records or fetched.unreadable or fetched.out_of_range:
                del looked[one]
            elif one in ends and fetched.next_offset >= ends[one]:
                del looked[one], found[one]
            else:
                looked[one] = max(looked[one], fetched.next_offset)
    return found
