"""Hops 4 and 5: every return against what was decided on it, every final status against its return.

Invariant: a return is decided when the inbox knows its identity and content (by hop 5's own rule),
or quarantine or the pending table hold its position. What the consumer has not come to yet waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from relay.consumers.apply.inbox import look_up
from relay.consumers.returns.reader import Return, ReturnReader
from relay.consumers.returns.refusals import Refusal
from relay.consumers.returns.stored_record import stored_record
from relay.diagnose.gather.database import read_orders
from relay.diagnose.reconcile.findings import Difference, Finding, Tally
from relay.diagnose.reconcile.paging import each_row
from relay.kafka.consumer.partitions import Record
from relay.kafka.partition import Partition
from relay.orders.catalog import orders_table
from relay.orders.table import OrdersTable
from relay.runtime.flow import ApplyColumns, Flow

_NEXT_OFFSETS: Final = """
SELECT topic, partition, next_offset FROM relay.consumer_offset WHERE consumer_group = $1
"""

_HELD: Final = """
SELECT record_offset FROM relay.quarantine
 WHERE kind = 'return' AND consumer_group = $1 AND topic = $2 AND partition = $3
   AND record_offset = ANY ($4::bigint[])
UNION ALL
SELECT at.record_offset
  FROM unnest($4::bigint[]) AS at (record_offset)
 CROSS JOIN LATERAL (
       SELECT from_offset FROM relay.quarantine
        WHERE kind = 'return' AND consumer_group = $1 AND topic = $2 AND partition = $3
          AND record_offset >= at.record_offset AND from_offset IS NOT NULL
        ORDER BY record_offset LIMIT 16) AS q
 WHERE q.from_offset <= at.record_offset
UNION ALL
SELECT record_offset FROM relay.pending_return
 WHERE consumer_group = $1 AND topic = $2 AND partition = $3 AND record_offset = ANY ($4::bigint[])
"""

_GAPS: Final = """
SELECT from_offset, to_offset, reason FROM relay.offset_gap
 WHERE consumer_group = $1 AND topic = $2 AND partition = $3
"""


@dataclass(slots=True)
class ReturnsWalk:
    """Compares records of the returns topic with the tables of hop 5.

    Attributes:
        gone: orders without a row, for which a return waits.
    """

    connection: asyncpg.Connection
    flow: Flow
    tally: Tally
    next_offsets: Mapping[Partition, int]
    gone: set[str] = field(default_factory=set)

    async def compare(self, place: Partition, records: Sequence[Any]) -> None:
        """Count or list each record."""
        next_offset = self.next_offsets.get(place, 0)
        passed = [record for record in records if record.offset < next_offset]
        waiting = [record for record in records if record.offset >= next_offset]
        self.tally.count("returns waiting for the consumer", len(waiting))
        await self._list_gone(place, waiting)
        undecided, decided = await self._sort(place, passed)
        self.tally.count("returns decided on", decided)
        if undecided:
            await self._list(place, undecided)

    async def _read(self, place: Partition, records: Sequence[Any]) -> list[Return | Refusal]:
        reader = ReturnReader(self.flow)
        await reader.prepare(records)
        return [reader.read(stored_record(place, record)) for record in records]

    async def _sort(
        self, place: Partition, records: Sequence[Any]
    ) -> tuple[list[tuple[Record, str | None]], int]:
        """Return those that no table knows, with their orders, and how many are known."""
        read = await self._read(place, records)
        returns = [one for one in read if isinstance(one, Return)]
        refusals = [one for one in read if isinstance(one, Refusal)]
        fresh = (await look_up(self.connection, returns, None)).fresh if returns else []
        doubtful: list[tuple[Record, str | None]] = [(o.record, o.order_id) for _, o in fresh]
        doubtful += [(one.record, one.order_id) for one in refusals]
        held = await self._held(place, [record.offset for record, _ in doubtful])
        undecided = [one for one in doubtful if one[0].offset not in held]
        await self._list_names(place, [one for one in returns if one.others])
        return undecided, len(read) - len(undecided)

    async def _list_gone(self, place: Partition, records: Sequence[Any]) -> None:
        """List those that wait for the consumer, and whose order has no row to take them."""
        if not records or self.flow.orders_columns is None:
            return
        returns = [one for one in await self._read(place, records) if isinstance(one, Return)]
        orders = await read_orders(
            self.connection, self.flow, sorted({one.order_id for one in returns})
        )
        for one in returns:
            if one.order_id not in orders:
                self.gone.add(one.order_id)
                where = f"{place[0]}[{place[1]}]@{one.record.offset}"
                detail = f"{one.status} waits for the consumer"
                self.tally.add(Finding(Difference.ORDER_GONE, one.order_id, where, detail))

    async def _list_names(self, place: Partition, returns: Sequence[Return]) -> None:
        """List those that name another order, too, and of which no person has decided."""
        if not returns or self.flow.names_differ == "ignore":
            return
        held = await self._held(place, [one.record.offset for one in returns])
        named = sorted({other for one in returns for other in one.others})
        orders = await read_orders(self.connection, self.flow, named)
        for one in returns:
            others = ", ".join(other for other in one.others if other in orders)
            if others and one.record.offset not in held:
                where = f"{place[0]}[{place[1]}]@{one.record.offset}"
                detail = f"its key or ce_subject names order {others}"
                self.tally.add(Finding(Difference.NAMES_DIFFER, one.order_id, where, detail))

    async def _held(self, place: Partition, offsets: Sequence[int]) -> set[int]:
        if not offsets:
            return set()
        rows = await self.connection.fetch(_HELD, self.flow.confirm_group, *place, list(offsets))
        return {row[0] for row in rows}

    async def _list(self, place: Partition, undecided: Sequence[tuple[Record, str | None]]) -> None:
        gaps = await self.connection.fetch(_GAPS, self.flow.confirm_group, *place)
        for record, order_id in undecided:
            within = [g["reason"] for g in gaps if g[0] <= record.offset < g[1]]
            why = f"in a recorded gap: {within[0]}" if within else "no table knows it"
            where = f"{place[0]}[{place[1]}]@{record.offset}"
            self.tally.add(Finding(Difference.RETURN_WITHOUT_STATUS, order_id, where, why))


async def next_offsets(connection: asyncpg.Connection, group: str) -> dict[Partition, int]:
    """Return how far the confirmation consumer is, by the database."""
    rows = await connection.fetch(_NEXT_OFFSETS, group)
    return {Partition(row[0], row[1]): row[2] for row in rows}


async def reconcile_statuses(
    connection: asyncpg.Connection, flow: Flow, since: Any, until: Any, tally: Tally
) -> None:
    """List orders whose terminal status no return set, where the flow names their table."""
    if not isinstance(flow.apply, ApplyColumns):
        return
    query = _statuses_query(await orders_table(connection, flow))
    terminal = sorted(flow.terminal_statuses)
    values = terminal, since, until, list(flow.others.groups)
    async for order_id, status, has_return in each_row(connection, query, *values):
        if has_return:
            tally.count("terminal statuses with their return")
        else:
            where = flow.apply.table
            tally.add(Finding(Difference.STATUS_WITHOUT_RETURN, order_id, where, status))


def _statuses_query(table: OrdersTable) -> str:
    at = table.submitted
    return f"""
        SELECT {table.id_of()}, {table.status_of()},
               EXISTS (SELECT FROM relay.inbox i
                        WHERE i.aggregate_id = {table.id_of()}
                          AND i.consumer_group <> ALL ($4::text[])
                          AND i.new_status = {table.status_of()})
          FROM {table.table} o
         WHERE {table.status_of()} = ANY ($1::text[])
           AND ($2::timestamptz IS NULL OR {at.since("$2::timestamptz")})
           AND ($3::timestamptz IS NULL OR {at.before("$3::timestamptz")})
    """  # noqa: S608 - identifiers from the catalog
