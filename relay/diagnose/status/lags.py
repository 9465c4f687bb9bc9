"""Hops 3 to 5: asks the broker how far the processor's groups and our consumer are behind the logs.

Invariant: reads only. The age of what waits is the time of the first record not passed, read from
the log itself. A topic or a group that is not there is told as such, not as "nothing waits".
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.gather.copies import other_topics
from relay.diagnose.gather.reading import broker_missing
from relay.diagnose.gather.topics import other_members
from relay.diagnose.gather.transactions import open_transactions
from relay.diagnose.report.transactions import transaction_text
from relay.diagnose.status.traces import (
    Answered,
    Position,
    RecordTraces,
    read_record_traces,
)
from relay.kafka.broker import EARLIEST, LATEST, Broker, connected
from relay.kafka.failures import READING_FAILURES
from relay.kafka.groups import GroupMembers
from relay.kafka.partition import Partition
from relay.kafka.ranges import RangeReader, fetch, seen
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.times import of_milliseconds

_CLIENT_ID: Final = "relay-status"
_SECONDS: Final = 8.0
_REQUEST_SECONDS: Final = 3.0
_FETCH_ROUNDS: Final = 3
# So few records are counted one by one; of more, the offsets are.
_COUNTED_AT_MOST: Final = 5000
_COUNT_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Lag:
    """How far somebody is behind the ends of logs.

    Attributes:
        count: records not passed.
        oldest_at: the time of the first of them, as its record says.
        missing_topics: those that do not exist.
        transactions: open ones that hold up what waits, in words.
    """

    count: int
    oldest_at: datetime | None = None
    missing_topics: tuple[str, ...] = ()
    transactions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lags:
    """What the broker knows; each part may be Missing.

    Attributes:
        groups: who is in the processor's groups, and in ours.
        other_readers: groups with members that read the events, where the processor's have none.
        record_traces: trace ids of the answered orders' records, by place and event.
    """

    process: Lag | Missing
    confirm: Lag | Missing
    groups: Mapping[str, GroupMembers] = field(default_factory=dict)
    other_readers: tuple[str, ...] = ()
    record_traces: RecordTraces = field(default_factory=dict)


async def read_lags(
    kafka: KafkaConnection,
    flow: Flow,
    next_offsets: Mapping[Partition, int] | None,
    *,
    canaries: Collection[Position] = (),
    answered: Sequence[Answered] = (),
) -> Lags:
    """Ask the broker.

    Args:
        kafka: how to reach it.
        flow: names topics and groups.
        next_offsets: the database's word on our consumer; None: it is not known, and the group's
            committed offsets (which follow it) stand in.
        canaries: where canaries stand: they are no business.
        answered: the orders whose records' traces are read back.
    """
    try:
        async with (
            asyncio.timeout(_SECONDS),
            connected(kafka, _CLIENT_ID, request_seconds=_REQUEST_SECONDS) as broker,
        ):
            lags = await _read(broker, flow, next_offsets, canaries, answers=bool(answered))
            return replace(lags, record_traces=await read_record_traces(broker, answered))
    except READING_FAILURES as error:
        missing = broker_missing("the broker", error)
        return Lags(missing, missing)


async def _read(
    broker: Broker,
    flow: Flow,
    next_offsets: Mapping[Partition, int] | None,
    canaries: Collection[Position],
    *,
    answers: bool,
) -> Lags:
    groups = {
        name: await broker.members(name) for name in (*flow.processor_groups, flow.confirm_group)
    }
    alone = all(groups[name].members == 0 for name in flow.processor_groups)
    others = await other_members(broker, flow) if alone else ()
    process = await _processed(broker, flow, groups, canaries, answers=answers)
    passed = next_offsets
    if passed is None:
        passed = await broker.committed(flow.confirm_group)
    confirm = await _lag(broker, [flow.returns_topic], passed, canaries)
    return Lags(process, confirm, groups, others)


async def _processed(
    broker: Broker,
    flow: Flow,
    groups: Mapping[str, GroupMembers],
    canaries: Collection[Position],
    *,
    answers: bool,
) -> Lag:
    """Tell how far the slowest of the processor's groups is behind."""
    lags = []
    for name in flow.processor_groups:
        passed = await broker.passed(name, groups[name].kind)
        # Orders are answered, and it never read an event: it reads a mirror of them.
        mirrored = answers and all(topic not in flow.topics for topic, _number in passed)
        instead = other_topics(flow, groups[name].subscribed, passed) if mirrored else set()
        lags.append(await _lag(broker, sorted(instead or flow.topics), passed, canaries))
    return max(lags, key=lambda lag: lag.count, default=Lag(0))


async def _lag(
    broker: Broker,
    topics: list[str],
    passed: Mapping[Partition, int],
    canaries: Collection[Position],
) -> Lag:
    missing = tuple(topic for topic in topics if not broker.partitions(topic))
    partitions = [one for topic in topics for one in broker.partitions(topic)]
    starts = await broker.offsets(partitions, EARLIEST)
    ends = await broker.offsets(partitions, LATEST)
    behind = {
        one: max(passed.get(one, 0), starts.get(one, 0))
        for one, end in ends.items()
        if end > max(passed.get(one, 0), starts.get(one, 0))
    }
    waiting = await _waiting(broker, behind, ends)
    known = set(canaries)
    count, times = 0, []
    for one, records in waiting.items():
        left = [at for offset, at in records if (one, offset) not in known]
        count += len(left)
        times += left[:1]
    rest = {one: at for one, at in behind.items() if one not in waiting}
    count += sum(ends[one] - at for one, at in rest.items())
    count -= sum(one in rest and rest[one] <= offset < ends[one] for one, offset in known)
    first = await _oldest(broker, rest)
    oldest = min(times if first is None else [*times, first], default=None)
    return Lag(count, oldest, missing, await _held_up(broker, behind, ends))


async def _waiting(
    broker: Broker, behind: Mapping[Partition, int], ends: Mapping[Partition, int]
) -> dict[Partition, list[tuple[int, datetime]]]:
    """Read short lags: offsets and times of their records; markers and aborted ones do not wait."""
    spans = {
        one: (at, ends[one]) for one, at in behind.items() if ends[one] - at <= _COUNTED_AT_MOST
    }
    reader = RangeReader(broker, dict(spans), committed=False, pass_over=True)
    found: dict[Partition, list[tuple[int, datetime, int | None]]] = {one: [] for one in spans}
    async for one, records in reader.rounds(asyncio.get_running_loop().time() + _COUNT_SECONDS):
        writers = reader.writers
        found[one] += [
            (r.offset, of_milliseconds(r.timestamp), writers.get((one, r.offset))) for r in records
        ]
    outcomes = reader.outcomes
    return {
        one: [
            (offset, at)
            for offset, at, writer in records
            if writer is None or outcomes.committed(one, writer, offset) is not False
        ]
        for one, records in found.items()
        if one not in reader.left and one not in reader.lost
    }


async def _held_up(
    broker: Broker, behind: Mapping[Partition, int], ends: Mapping[Partition, int]
) -> tuple[str, ...]:
    """Return the open transactions that those who are behind stand before, in words."""
    stable = await broker.offsets(list(behind), LATEST, committed_only=True)
    begun = {one: at for one, at in stable.items() if behind[one] <= at < ends[one]}
    found = await open_transactions(broker, begun)
    return tuple(transaction_text(one, seen) for one, seen in sorted(found.items()))


async def _oldest(broker: Broker, behind: Mapping[Partition, int]) -> datetime | None:
    """Read the first record of each partition; transaction markers alone have no time."""
    left, times = dict(behind), []
    for _ in range(_FETCH_ROUNDS):
        if not left:
            break
        for one, fetched in (
            await fetch(broker, left, bytes_each=1, committed=False, pass_over=True)
        ).items():
            del left[one]
            times += [seen(one, record).recorded_at for record in fetched.records[:1]]
    return min(times, default=None)
