"""Hops 1, 2, 4 and 5: the whole reconciliation, over a range of time or of outbox ids.

Invariant: read-only, and bounded in memory: a long range of ids is taken in parts. A partition that
could not be read to its end is named, and then nothing of it is called proven.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import asyncpg

from relay.diagnose.gather.looks import Bounds
from relay.diagnose.gather.transactions import open_transactions
from relay.diagnose.reconcile.applied import reconcile_applied
from relay.diagnose.reconcile.events import EventsWalk
from relay.diagnose.reconcile.findings import Tally
from relay.diagnose.reconcile.open_cases import OpenCases, open_cases
from relay.diagnose.reconcile.orders import reconcile_gone, reconcile_orders
from relay.diagnose.reconcile.outbox_rows import load_rows
from relay.diagnose.reconcile.returns import (
    ReturnsWalk,
    next_offsets,
    reconcile_statuses,
)
from relay.diagnose.report.transactions import transaction_text
from relay.kafka.broker import EARLIEST, LATEST, Broker, connected
from relay.kafka.partition import Partition
from relay.kafka.ranges import RangeReader
from relay.orders.catalog import as_far_as_known
from relay.runtime.database import connect
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.times import to_milliseconds

APPLICATION_NAME: Final = "relay-reconcile"
_ROWS_AT_A_TIME: Final = 4_000_000

_IDS: Final = """
SELECT coalesce(min(id) - 1, 0), coalesce(max(id), 0) FROM relay.outbox
 WHERE ($1::timestamptz IS NULL OR created_at >= $1)
   AND ($2::timestamptz IS NULL OR created_at < $2)
   AND ($3::bigint IS NULL OR id >= $3) AND ($4::bigint IS NULL OR id <= $4)
"""

Progress = Callable[[str, int, int], None]
Compare = Callable[[Partition, Sequence[Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Range:
    """What to look at; None: no bound on that side."""

    since: datetime | None = None
    until: datetime | None = None
    first_id: int | None = None
    last_id: int | None = None

    @property
    def is_everything(self) -> bool:
        """Whether there is no bound at all."""
        return (self.since, self.until, self.first_id, self.last_id) == (None,) * 4

    @property
    def by_id(self) -> bool:
        """Whether it is a range of outbox ids: returns and statuses have none."""
        return self.first_id is not None or self.last_id is not None


@dataclass(slots=True)
class Reconciliation:
    """What came of it.

    Attributes:
        unread: partitions that were not read to their end.
        unlooked: what else could not be looked at, in words.
        open_cases: what is known to be open, by kind.
    """

    tally: Tally = field(default_factory=Tally)
    unread: set[Partition] = field(default_factory=set)
    unlooked: list[str] = field(default_factory=list)
    open_cases: dict[str, OpenCases] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether all was read."""
        return not self.unread and not self.unlooked

    @property
    def proven(self) -> bool:
        """Whether all was read, nothing was found, and nothing is open."""
        return self.tally.clean and self.complete and not self.open_cases


async def reconcile(
    dsn: str | None,
    kafka: KafkaConnection,
    flow: Flow,
    within: Range,
    *,
    progress: Progress = lambda _what, _done, _total: None,
    at_most_seconds: float = 3600.0,
) -> Reconciliation:
    """Compare database, Kafka and statuses.

    Args:
        dsn: the database; None: libpq's variables say where.
        kafka: the broker.
        flow: names tables, topics and groups.
        within: what to look at.
        progress: told (what, done, total) records as it goes.
        at_most_seconds: for reading each topic; what is left then is named.

    Raises:
        DatabaseError, KafkaError, OSError: one of the two cannot be reached.
    """
    done = Reconciliation()
    connection = await connect(dsn, APPLICATION_NAME)
    try:
        flow = await as_far_as_known(connection, flow)
        async with connected(kafka, APPLICATION_NAME) as broker:
            deadline = asyncio.get_running_loop().time() + at_most_seconds
            reading = _Reading(broker, deadline, progress, done)
            await _events(connection, reading, flow, within)
            if not within.by_id:
                await _returns(connection, reading, flow, within)
        done.open_cases, unread = await open_cases(connection, flow)
        done.unlooked += unread
    finally:
        await connection.close()
    return done


@dataclass(slots=True)
class _Reading:
    broker: Broker
    deadline: float
    progress: Progress
    done: Reconciliation

    async def bounds(self, topics: Iterable[str]) -> dict[Partition, Bounds]:
        """Return where the logs begin and end; name those that an open transaction holds up."""
        topics = list(topics)
        places = [place for topic in topics for place in self.broker.partitions(topic)]
        self.done.unlooked += [
            f"topic {topic} does not exist" for topic in topics if not self.broker.partitions(topic)
        ]
        ends = await self.broker.offsets(places, LATEST)
        stable = await self.broker.offsets(places, LATEST, committed_only=True)
        starts = await self.broker.offsets(places, EARLIEST)
        there = starts.keys() & ends.keys() & stable.keys()
        self.done.unread.update(set(places) - there)
        held_up = {place: stable[place] for place in there if stable[place] < ends[place]}
        begun = await open_transactions(self.broker, held_up)
        self.done.unlooked += [
            f"{ends[place] - stable[place]} records stand behind an {transaction_text(place, seen)}"
            for place, seen in sorted(begun.items())
        ]
        return {
            place: Bounds(
                starts[place],
                min(stable[place], ends[place]) if place in begun else ends[place],
                ends[place],
            )
            for place in there
        }

    async def through(
        self,
        what: str,
        spans: Mapping[Partition, tuple[int, int]],
        compare: Compare,
        *,
        committed: bool = True,
    ) -> None:
        reader = RangeReader(self.broker, dict(spans), committed=committed, pass_over=True)
        total = sum(end - first for first, end in spans.values())
        async for place, records in reader.rounds(self.deadline):
            if records:
                await compare(place, records)
            self.progress(what, reader.count, total)
        self.done.unread.update(reader.left.keys() | reader.lost)
        self.done.unlooked += [
            f"{place[0]}[{place[1]}], offsets {low} to {high - 1}: {what} that cannot be read"
            for place, ranges in sorted(reader.unreadable.items())
            for low, high in ranges
        ]


async def _events(
    connection: asyncpg.Connection, reading: _Reading, flow: Flow, within: Range
) -> None:
    after, upto = await connection.fetchrow(
        _IDS, within.since, within.until, within.first_id, within.last_id
    )
    bounds = await reading.bounds(sorted(flow.topics))
    parts = list(_parts(after, upto))
    for low, high in parts:
        rows = await load_rows(connection, flow, (low, high), within.since, within.until)
        walk = EventsWalk(connection, rows, reading.done.tally)
        # Ghosts are looked for in the whole log once; with several parts, where their records are.
        everything = within.is_everything and len(parts) == 1
        logs = {place: (log.start, log.end) for place, log in bounds.items()}
        spans = await walk.begin(logs, whole_log=everything)
        stable = {place: log.stable_end for place, log in bounds.items()}
        before = {place: (low, min(high, stable[place])) for place, (low, high) in spans.items()}
        await reading.through("events", before, walk.compare)
        # What we published stands in no transaction: it is there, whatever is open before it.
        behind = {place: (max(low, stable[place]), high) for place, (low, high) in spans.items()}
        await reading.through("events", behind, walk.compare, committed=False)
        await walk.settle()


def _parts(after: int, upto: int) -> Iterator[tuple[int, int]]:
    """Cut a range of ids; an empty one is one part: records without rows are found all the same."""
    yield after, min(upto, after + _ROWS_AT_A_TIME)
    for low in range(after + _ROWS_AT_A_TIME, upto, _ROWS_AT_A_TIME):
        yield low, min(upto, low + _ROWS_AT_A_TIME)


async def _returns(
    connection: asyncpg.Connection, reading: _Reading, flow: Flow, within: Range
) -> None:
    bounds = await reading.bounds([flow.returns_topic])
    group_is_at = await next_offsets(connection, flow.confirm_group)
    reading.done.unlooked += [
        f"{place[0]}[{place[1]}]: returns {group_is_at[place]} to {log.start - 1} were deleted "
        "before the consumer read them"
        for place, log in sorted(bounds.items())
        if group_is_at.get(place, log.start) < log.start
    ]
    logs = {place: (log.start, log.stable_end) for place, log in bounds.items()}
    spans = await _timed(reading.broker, logs, within)
    walk = ReturnsWalk(connection, flow, reading.done.tally, group_is_at)
    await reading.through("returns", spans, walk.compare)
    await reconcile_statuses(connection, flow, within.since, within.until, reading.done.tally)
    await reconcile_applied(connection, flow, within.since, within.until, reading.done.tally)
    reading.done.unlooked += await reconcile_orders(
        connection, flow, within.since, within.until, reading.done.tally
    )
    await reconcile_gone(
        connection, flow, within.since, within.until, reading.done.tally, told=walk.gone
    )


async def _timed(
    broker: Broker, bounds: Mapping[Partition, tuple[int, int]], within: Range
) -> dict[Partition, tuple[int, int]]:
    """Cut the log by the records' own timestamps, through Kafka's time index."""
    spans = dict(bounds)
    if within.since is not None:
        first = await broker.offsets(spans, to_milliseconds(within.since))
        spans = {place: (first.get(place, end), end) for place, (_, end) in spans.items()}
    if within.until is not None:
        last = await broker.offsets(spans, to_milliseconds(within.until))
        spans = {place: (start, last.get(place, end)) for place, (start, end) in spans.items()}
    return spans
