"""Gathers the evidence about many orders: rows, then Kafka, then the rows once more.

Invariant: never raises for what cannot be had; no transaction is held while Kafka is read; the
orders and their returns are read last again, so that what arrived meanwhile accuses nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import asyncpg

from relay.diagnose.decide.duty import alive
from relay.diagnose.evidence.order import Delivery, Evidence, Place
from relay.diagnose.evidence.publisher import PublisherSeen
from relay.diagnose.evidence.rows import EventRow, Rows
from relay.diagnose.evidence.system_state import GroupSeen, Missing, SystemState
from relay.diagnose.gather.around import AroundRows, read_around, read_ledger_from_at
from relay.diagnose.gather.assemble import Joiner, LogFacts
from relay.diagnose.gather.database import read_deliveries, read_rows, reread
from relay.diagnose.gather.deleted_rows import find_deleted
from relay.diagnose.gather.logs import LogReading, read_broker, without_event
from relay.diagnose.gather.positions import Series, read_positions
from relay.diagnose.gather.publisher import wait_until_read
from relay.diagnose.gather.reading import database_missing, part
from relay.diagnose.gather.recorded_returns import read_answered, read_refused_at
from relay.diagnose.gather.succession import read_answered_past
from relay.diagnose.gather.topics import TopicFacts
from relay.diagnose.gather.undecided import undecided
from relay.diagnose.gather.unledgered import find_unledgered, unaccounted
from relay.kafka.partition import Partition
from relay.kafka.unread import ReadTo
from relay.runtime.database import DATABASE_FAILURES
from relay.runtime.flow import ApplyColumns, Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.log_ends import read_log_ends

_YIELD_EVERY = 50
# A witness that keeps up is a tenth of a second behind.
_WITNESSED_SECONDS = 3.0
# A position this old tells whether a group moves; an older one does not tell it of now.
_EARLIER_SECONDS = (2.0, 120.0)


@dataclass(frozen=True, slots=True)
class GatherOptions:
    """How much effort to make.

    Attributes:
        since: orders placed earlier are not judged; None: what the installation says.
        logs: what to read of Kafka's logs, and for how long.
    """

    since: datetime | None = None
    logs: LogReading = field(default_factory=LogReading)


@dataclass(frozen=True, slots=True)
class Gatherer:
    """Gathers over the caller's database connection, and one of its own to the broker.

    Attributes:
        connection: used by nobody else meanwhile; Missing when there is none.
    """

    connection: asyncpg.Connection | Missing
    kafka: KafkaConnection
    flow: Flow
    options: GatherOptions = field(default_factory=GatherOptions)

    async def gather(
        self, order_ids: Sequence[str], events: Mapping[str, str] | None = None
    ) -> list[Evidence]:
        """Return the evidence about these orders, in their order, each once.

        Args:
            order_ids: canonical texts.
            events: order id -> event id, where a certain event is asked about.
        """
        ids = list(dict.fromkeys(order_ids))
        found, witnessed = await self._gather(ids, events or {})
        if witnessed:
            # Their records were witnessed meanwhile: what becomes of them was not asked.
            again, _ = await self._gather(sorted(witnessed), events or {})
            newer = {one.order_id: one for one in again}
            found = [newer.get(one.order_id, one) for one in found]
        return found

    async def _gather(
        self, ids: Sequence[str], events: Mapping[str, str]
    ) -> tuple[list[Evidence], frozenset[str]]:
        """Return the evidence, and the orders whose records were witnessed after their rows."""
        around_rows, rows, read, log_ends = await self._read_database(ids)
        positions, positions_missing = ({}, read) if isinstance(read, Missing) else (read, None)
        rows = await find_deleted(
            self.kafka, self.flow, ids, rows, search_seconds=self.options.logs.scan_seconds
        )
        rows = await self._undecided(ids, rows)
        open_ids = open_orders(ids, rows, self.flow)
        read_to = _read_to(around_rows)
        rows, positions = await self._unledgered(open_ids, rows, positions, read_to)
        topics, log = await read_broker(
            self.kafka,
            self.flow,
            ids=open_ids,
            around=around_rows,
            rows=rows,
            positions=positions,
            log_ends=log_ends,
            options=self.options.logs,
        )
        log.positions, log.positions_missing = positions, positions_missing
        rows, log.answered = await self._once_more(open_ids, rows, log)
        around_rows, witnessed = await self._until_witnessed(around_rows, open_ids, rows)
        around = self._surroundings(around_rows, topics, positions)
        if open_ids and not isinstance(self.connection, Missing):
            answered = await read_answered_past(self.connection, self.flow, around, positions)
            around = replace(around, answered_past=answered)
        joiner = Joiner(self.flow, around, rows, log)
        found = []
        for number, one in enumerate(ids):
            if number % _YIELD_EVERY == 0:
                # A service that this runs beside must not wait for all of it.
                await asyncio.sleep(0)
            found.append(joiner.evidence(one, events.get(one)))
        return found, witnessed

    async def _undecided(self, ids: Sequence[str], rows: Rows) -> Rows:
        """Look for open transactions, which nobody sees into, before an id is said to be none."""
        con, orders, events = self.connection, rows.orders, rows.events
        if isinstance(con, Missing) or isinstance(orders, Missing) or isinstance(events, Missing):
            return rows
        if rows.unsearched is not None or all(one in orders or events.get(one) for one in ids):
            return rows
        return replace(rows, unsearched=await undecided(con, self.flow))

    async def _until_witnessed(
        self, around: AroundRows, open_ids: Sequence[str], rows: Rows
    ) -> tuple[AroundRows, frozenset[str]]:
        """Ask what of another publisher's records no witness has read, and whose were read since.

        The slot's place was read before the topics' ends, and these before the ledger: so a row
        that the slot confirmed has its entry here, or it has no record.
        """
        con, publisher = self.connection, around.publisher
        if publisher is None or isinstance(publisher, Missing) or isinstance(con, Missing):
            return around, frozenset()
        waiting = unpublished(open_ids, rows)
        if not waiting:
            return around, frozenset()
        try:
            seconds = _WITNESSED_SECONDS if _any_alive(publisher, around.now_at) else 0.0
            left = await wait_until_read(con, self.kafka, self.flow, within_seconds=seconds)
            since = await read_deliveries(con, self.flow, list(waiting))
        except DATABASE_FAILURES as error:
            left, since = database_missing("the delivery ledger", error), {}
        around = replace(around, publisher=replace(publisher, unread=left))
        return around, frozenset(waiting[one] for one in since)

    async def _read_database(
        self, ids: Sequence[str]
    ) -> tuple[AroundRows, Rows, Series | Missing, Mapping[int, int]]:
        con = self.connection
        if isinstance(con, Missing):
            return *_nothing_known(con), {}, {}
        try:
            async with con.transaction(isolation="repeatable_read", readonly=True):
                rows = await read_rows(con, self.flow, ids)
                around = await read_around(con, self.flow, first_placed(rows))
                if _unaccounted(rows):
                    oldest = await part(con, "the ledger", lambda: read_ledger_from_at(con))
                    around = replace(around, ledger_from_at=oldest)
                positions = await part(con, "positions", lambda: self._positions(con, ids, rows))
                ends = await part(con, "positions", lambda: self._log_ends(con, ids, rows))
        except DATABASE_FAILURES as error:
            return *_nothing_known(database_missing("the database", error)), {}, {}
        # A recorded end is a bound of the log that is there now: of one made again it is none.
        if isinstance(ends, Missing) or isinstance(around.shrinks, Missing):
            ends = {}
        return around, rows, positions, ends

    async def _unledgered(
        self,
        ids: Sequence[str],
        rows: Rows,
        positions: Series,
        read_to: Mapping[Partition, ReadTo] | None,
    ) -> tuple[Rows, Series]:
        """Find what the ledger has lost, and what was recorded of the groups around it."""
        con = self.connection
        wanted = unaccounted(ids, rows, read_to)
        if isinstance(con, Missing) or not wanted:
            return rows, positions
        seconds = self.options.logs.scan_seconds
        rows = await find_unledgered(
            con, self.kafka, self.flow, ids, rows, search_seconds=seconds, read_to=read_to
        )
        if wanted.keys() == unaccounted(ids, rows, read_to).keys():
            return rows, positions
        try:
            async with con.transaction(isolation="repeatable_read", readonly=True):
                again = await part(con, "positions", lambda: self._positions(con, ids, rows))
        except DATABASE_FAILURES:
            return rows, positions
        return rows, positions if isinstance(again, Missing) else again

    async def _log_ends(
        self, connection: asyncpg.Connection, ids: Sequence[str], rows: Rows
    ) -> dict[int, int]:
        """Return where the returns topic ended before the first of the open orders was placed.

        Of one without an event only its own clock says when, which may be any.
        """
        open_ids = open_orders(ids, rows, self.flow)
        placed = first_written(open_ids, rows)
        if placed is None or without_event(open_ids, rows):
            return {}
        return await read_log_ends(connection, self.flow.returns_topic, placed)

    async def _positions(
        self, connection: asyncpg.Connection, ids: Sequence[str], rows: Rows
    ) -> Series:
        deliveries = newest_deliveries(open_orders(ids, rows, self.flow), rows)
        if not deliveries:
            return {}
        return await read_positions(connection, self.flow.processor_groups, deliveries)

    async def _once_more(
        self, open_ids: Sequence[str], rows: Rows, log: LogFacts
    ) -> tuple[Rows, Mapping[str, datetime | None] | Missing]:
        """Read again what may have arrived while Kafka was read, and who around was answered."""
        con = self.connection
        if isinstance(con, Missing) or not open_ids:
            return rows, {}
        neighbours = {
            key.decode("utf-8", "replace")
            for keys in log.readbacks.keys.values()
            for key in keys.values()
        }
        try:
            async with con.transaction(isolation="repeatable_read", readonly=True):
                rows = await reread(con, self.flow, open_ids, rows)
                answered = await part(
                    con,
                    "the records around it",
                    lambda: read_answered(con, self.flow, neighbours),
                )
                refused = await part(
                    con,
                    "the quarantine",
                    lambda: read_refused_at(con, self.flow, log.found_positions()),
                )
        except DATABASE_FAILURES as error:
            log.refused = database_missing("the quarantine", error)
            return rows, database_missing("the records around it", error)
        log.refused = refused
        if isinstance(answered, Missing):
            return rows, answered
        return rows, dict.fromkeys(log.found_orders()) | answered

    def _surroundings(self, rows: AroundRows, topics: TopicFacts, positions: Series) -> SystemState:
        flow = self.flow
        return SystemState(
            now_at=rows.now_at,
            watched_since=self.options.since or rows.watched_since,
            returns_topic=flow.returns_topic,
            processor_groups=flow.processor_groups,
            confirm_group=flow.confirm_group,
            keeps_orders=flow.orders_columns is not None,
            events_since=rows.events_since,
            status_decides=isinstance(flow.apply, ApplyColumns),
            relays=rows.relays,
            consumers=rows.consumers,
            outages=rows.outages,
            checkpoint=rows.checkpoint,
            lease=rows.lease,
            topics=topics.topics,
            groups=_with_earlier(topics.groups, positions, rows.now_at),
            consumer=rows.consumer,
            ledger_from_at=rows.ledger_from_at,
            other_groups=topics.other_groups,
            other_readers=topics.other_readers,
            lone_readers=rows.lone_readers,
            clock_behind=rows.clock_behind,
            disabled_triggers=rows.disabled_triggers,
            newcomers=rows.newcomers,
            publisher=rows.publisher,
        )


def _any_alive(publisher: PublisherSeen, now_at: datetime) -> bool:
    witnesses = publisher.witnesses
    return not isinstance(witnesses, Missing) and any(alive(one, now_at) for one in witnesses)


def _nothing_known(missing: Missing) -> tuple[AroundRows, Rows]:
    around = AroundRows(
        now_at=datetime.now(UTC),
        watched_since=None,
        events_since=missing,
        relays=missing,
        consumers=missing,
        outages=missing,
        checkpoint=missing,
        lease=missing,
        consumer=missing,
        ledger_from_at=missing,
    )
    return around, Rows(missing, missing, missing, missing, missing)


def open_orders(ids: Sequence[str], rows: Rows, flow: Flow) -> list[str]:
    """Return the orders for which Kafka has to be asked: neither returned nor closed by hand."""
    kept = isinstance(flow.apply, ApplyColumns) and not isinstance(rows.orders, Missing)
    return [one for one in ids if not _settled(one, rows, kept=kept)]


def _settled(order_id: str, rows: Rows, *, kept: bool) -> bool:
    case = rows.cases.get(order_id)
    if case is not None and case.closed is not None:
        return True
    if kept:
        assert not isinstance(rows.orders, Missing)
        order = rows.orders.get(order_id)
        return order is not None and order.terminal
    if isinstance(rows.returns, Missing):
        return False
    answers = rows.returns.get(order_id, [])
    events = [] if isinstance(rows.events, Missing) else rows.events.get(order_id, [])
    ended = [one for one in answers if one.seen.place is Place.INBOX and one.seen.terminal]
    return len(ended) >= max(1, len(events))


def newest_deliveries(ids: Sequence[str], rows: Rows) -> list[Delivery]:
    """Return the newest publication of each event of these orders."""
    if isinstance(rows.events, Missing) or isinstance(rows.deliveries, Missing):
        return []
    return [
        rows.deliveries[event.outbox_id][-1]
        for one in ids
        for event in rows.events.get(one, [])
        if event.outbox_id in rows.deliveries
    ]


def _read_to(around: AroundRows) -> Mapping[Partition, ReadTo] | None:
    """Return how far the witnesses of another publisher have come; None: our relay publishes."""
    publisher = around.publisher
    return None if publisher is None or isinstance(publisher, Missing) else publisher.read_to


def unpublished(ids: Sequence[str], rows: Rows) -> dict[int, str]:
    """Return the rows of these orders that the ledger does not know, with their orders."""
    if isinstance(rows.events, Missing) or isinstance(rows.deliveries, Missing):
        return {}
    return {
        event.outbox_id: one
        for one in ids
        for event in rows.events.get(one, [])
        if event.outbox_id not in rows.deliveries
    }


def first_placed(rows: Rows) -> datetime | None:
    """Return when the first of these orders was placed."""
    orders = {} if isinstance(rows.orders, Missing) else rows.orders
    events: Mapping[str, list[EventRow]]
    events = {} if isinstance(rows.events, Missing) else rows.events
    times = [one.submitted_at for one in orders.values() if one.submitted_at is not None]
    times += [event.created_at for each in events.values() for event in each]
    return min(times, default=None)


def first_written(ids: Sequence[str], rows: Rows) -> datetime | None:
    """Return when the first event of these orders was written, by the database's clock."""
    if isinstance(rows.events, Missing):
        return None
    times = (event.created_at for one in ids for event in rows.events.get(one, []))
    return min(times, default=None)


def _unaccounted(rows: Rows) -> bool:
    """Tell whether the checkpoint is past a row that the ledger does not know."""
    if isinstance(rows.events, Missing) or isinstance(rows.deliveries, Missing):
        return False
    return any(
        event.handed_over and event.outbox_id not in rows.deliveries
        for each in rows.events.values()
        for event in each
    )


def _with_earlier(
    groups: Mapping[str, GroupSeen] | Missing, positions: Series, now_at: datetime
) -> Mapping[str, GroupSeen] | Missing:
    """Lay the positions of a moment ago beside those of now: does the group move?"""
    if isinstance(groups, Missing):
        return groups
    youngest, oldest = (now_at - timedelta(seconds=seconds) for seconds in _EARLIER_SECONDS)
    found: dict[str, GroupSeen] = {}
    for name, group in groups.items():
        earlier = dict(group.earlier)
        for (whose, partition), samples in positions.items():
            fitting = [one for one in samples if oldest <= one.at <= youngest]
            if whose == name and fitting and fitting[-1].committed is not None:
                earlier[partition] = fitting[-1].committed
        found[name] = replace(group, earlier=earlier)
    return found
