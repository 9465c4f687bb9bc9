"""What came of a replay: which of its events have their orders returned by now.

Invariant: reads only; "sent" is never counted as "returned": an event counts once its order has a
terminal status. Memory and statements are by the thousand items, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import asyncpg

from relay.orders.catalog import orders_table, with_key_column
from relay.orders.keys import canonical_order_id
from relay.publish.reading.replays import PART_ITEMS
from relay.runtime.flow import ApplyColumns, Flow


@dataclass(frozen=True, slots=True)
class Counted:
    """Events that were sent again.

    Attributes:
        expected: those whose order is to return.
        returned: those of them whose order has.
        waiting: orders that have not.
    """

    expected: int = 0
    returned: int = 0
    waiting: tuple[str, ...] = ()

    @property
    def all_returned(self) -> bool:
        """Whether nothing is waited for."""
        return self.returned >= self.expected


# The orders of a stretch of a part; what was refused was not sent.
_ORDERS: Final = """
WITH item AS MATERIALIZED (
    SELECT unnest(outbox_ids[$3:$4]) AS id
      FROM relay.replay_part WHERE replay_id = $1 AND number = $2
), sent AS MATERIALIZED (
    SELECT id FROM item
     WHERE NOT EXISTS (SELECT FROM relay.replay_refused AS r
                        WHERE r.replay_id = $1 AND r.outbox_id = item.id)
)
SELECT e.aggregate_id FROM relay.outbox_summary AS e
 WHERE e.id = ANY (ARRAY(SELECT id FROM sent)) AND e.event_type = ANY ($5::text[])
 UNION ALL
SELECT e.aggregate_id FROM relay.kept_summary AS e
 WHERE e.id = ANY (ARRAY(SELECT id FROM sent)) AND e.event_type = ANY ($5::text[])
"""

_IN_INBOX: Final = """
SELECT DISTINCT aggregate_id FROM relay.inbox
 WHERE aggregate_id = ANY ($1::text[]) AND status = ANY ($2::text[])
   AND consumer_group <> ALL ($3::text[])
"""


async def returned_orders(
    connection: asyncpg.Connection, flow: Flow, orders: Iterable[str]
) -> set[str]:
    """Return which of these orders have a terminal status.

    Raises:
        FlowTableError: the flow's settings name what the database does not have.
    """
    asked = list(set(orders))
    if not isinstance(flow.apply, ApplyColumns):
        words = [*flow.terminal_statuses, *flow.status_aliases]
        ending = [
            one for one in words if flow.status_aliases.get(one, one) in flow.terminal_statuses
        ]
        others = list(flow.others.groups)
        return {row[0] for row in await connection.fetch(_IN_INBOX, asked, ending, others)}
    table = await orders_table(connection, flow)
    clean = canonical_order_id(await with_key_column(connection, flow))
    keys = {one: key for one in asked if (key := clean(one)) is not None}
    query = (
        f"SELECT {table.id_of()} FROM {table.table} o "  # noqa: S608 - from the catalog
        f"WHERE o.{table.key} = ANY ({table.as_keys('$1')}) "
        f"AND {table.status_of()} = ANY ($2::text[])"
    )
    terminal = sorted(flow.terminal_statuses)
    rows = await connection.fetch(query, list(set(keys.values())), terminal)
    found = {row[0] for row in rows}
    return {one for one, key in keys.items() if key in found}


@dataclass(slots=True)
class Follower:
    """Follows one replay; counts again only what is not yet settled.

    Attributes:
        written: orders whose event was written first, and goes the ordinary way.
    """

    connection: asyncpg.Connection
    flow: Flow
    replay_id: UUID
    written: tuple[str, ...] = ()
    _settled: Counted = field(default_factory=Counted)
    _open: dict[int, Counted] = field(default_factory=dict)
    _written: Counted = field(default_factory=Counted)
    _sent: int = 0
    _next: int = 0

    async def first(self, count: int) -> Counted:
        """Count the first few items alone."""
        return await self._count(0, 0, min(count, PART_ITEMS))

    async def look(self, sent_count: int, at_most: int = 20) -> Counted:
        """Count again, at most so many parts of the open ones; return the sums."""
        for number in range(self._sent // PART_ITEMS, -(-sent_count // PART_ITEMS)):
            self._open.setdefault(number, Counted())
        if self.written and not (self._written.expected and self._written.all_returned):
            self._written = await self._judge(self.written)
        new, self._sent = self._sent // PART_ITEMS, sent_count
        for number in self._turn(at_most, new):
            upto = min(PART_ITEMS, sent_count - number * PART_ITEMS)
            found = await self._count(number, 0, upto)
            if found.all_returned and upto == PART_ITEMS:
                self._settle(number, found)
            else:
                self._open[number] = found
        return self.counted()

    def counted(self) -> Counted:
        """Return what is known."""
        found = [self._settled, self._written, *self._open.values()]
        return Counted(sum(one.expected for one in found), sum(one.returned for one in found))

    def waiting(self, at_most: int) -> list[str]:
        """Return orders that have not returned."""
        open_ones = (self._written, *self._open.values())
        return [order for one in open_ones for order in one.waiting][:at_most]

    def _turn(self, at_most: int, new: int) -> Sequence[int]:
        """Choose parts: the new ones, which nobody counted, and then the others in turn."""
        numbers = sorted(self._open)
        if len(numbers) <= at_most:
            return numbers
        fresh = [number for number in numbers if number >= new][:at_most]
        start = self._next % len(numbers)
        self._next += at_most
        others = (numbers[start:] + numbers[:start])[: at_most - len(fresh)]
        return list(dict.fromkeys([*fresh, *others]))

    def _settle(self, number: int, found: Counted) -> None:
        self._open.pop(number, None)
        self._settled = Counted(
            self._settled.expected + found.expected, self._settled.returned + found.returned
        )

    async def _count(self, number: int, first: int, beyond: int) -> Counted:
        expecting = list(self.flow.deadlines)
        rows = await self.connection.fetch(
            _ORDERS, self.replay_id, number, first + 1, beyond, expecting
        )
        return await self._judge([row[0] for row in rows])

    async def _judge(self, orders: Sequence[str]) -> Counted:
        returned = await returned_orders(self.connection, self.flow, orders) if orders else set()
        waiting = tuple(one for one in orders if one not in returned)
        return Counted(len(orders), len(orders) - len(waiting), waiting)
