"""Hop 5: applies returns to the columns of the orders' own table (`apply = "columns"`).

Invariant: a status is written only under the lock of the order's row, from the status that was read
under it. An order whose row is locked by somebody else is not waited for: its returns come back as
locked, and those of all other orders go on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from relay.consumers.apply.applying import Decided, Identified, by_order, unknown_order
from relay.consumers.apply.inbox import step_values
from relay.consumers.apply.statements import ColumnStatements, column_statements
from relay.consumers.returns.fold import Statuses, fold
from relay.consumers.returns.packing import packed
from relay.orders.table import OrdersTable
from relay.orders.triggers import answerable

# Unix time of the year 9999: beyond, PostgreSQL itself can no longer add a day.
_LATEST: Final = 253_370_764_800.0


def plausible(submitted: float | None) -> float | None:
    """Return when an order was submitted, Unix time; None for year 1, infinity and their like."""
    return submitted if submitted is not None and 0 < submitted < _LATEST else None


class StatusNotKeptError(Exception):
    """Statuses were written and do not stand: a trigger or rule of the orders' table.

    Attributes:
        orders: what stands in place of each, in words, by order id.
    """

    def __init__(self, orders: Mapping[str, str]) -> None:
        super().__init__(next(iter(orders.values()), ""))
        self.orders = orders


@dataclass(frozen=True, slots=True)
class ColumnsApplier:
    """Applies returns to `flow.apply`'s columns.

    Args:
        statuses: the flow's.
        orders: the table, as the catalog has it.
    """

    statuses: Statuses
    orders: OrdersTable
    _statements: ColumnStatements = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_statements", column_statements(self.orders))

    async def decide(
        self, connection: asyncpg.Connection, returns: Sequence[Identified]
    ) -> Decided:
        """Lock the orders, and decide from their statuses."""
        groups, decided = by_order(returns), Decided()
        locked = await connection.fetch(self._statements.lock, packed(groups))
        for order_id, status, submitted, place in locked:
            decided.submitted[order_id] = plausible(submitted)
            change = fold(self.statuses, status, groups[order_id], decided.steps, decided.refused)
            if change is not None:
                decided.changes.append(change)
                decided.places.append(place)
        missing = groups.keys() - decided.submitted.keys()
        if missing:
            await self._sort_missing(connection, groups, missing, decided)
        return decided

    async def _sort_missing(
        self,
        connection: asyncpg.Connection,
        groups: dict[str, list[Identified]],
        missing: set[str],
        decided: Decided,
    ) -> None:
        """Tell orders that are locked from those that are not there."""
        rows = await connection.fetch(self._statements.shown, packed(missing))
        locked = {row["order_id"] for row in rows}
        for order_id, found in groups.items():
            if order_id in locked:
                decided.locked += [returned for _, returned in found]
            elif order_id in missing:
                decided.refused += unknown_order(found, self.orders.table)

    async def open_among(
        self, connection: asyncpg.Connection, order_ids: Collection[str]
    ) -> set[str]:
        """Return those that are orders and wait for a return."""
        rows = await connection.fetch(self._statements.shown, packed(order_ids))
        ranks = self.statuses.ranks
        highest = max(ranks[one] for one in self.statuses.terminal)
        return {row["order_id"] for row in rows if ranks.get(row["status"], highest) < highest}

    async def write(self, connection: asyncpg.Connection, group: str, decided: Decided) -> None:
        """Write inbox, history and statuses.

        Raises:
            StatusNotKeptError: the table does not hold a status that was written.
            asyncpg.UniqueViolationError: an identity is in the inbox already (`inbox.is_copy`).
        """
        if not decided.steps:
            return
        values: tuple[Any, ...] = step_values(decided.steps, decided.changes, decided.places, group)
        if self._statements.asks_terminal:
            values += (sorted(self.statuses.terminal),)
        count, others, triggers_after = await connection.fetchrow(self._statements.write, *values)
        at_once = bool(others) or count != len(decided.changes)
        if at_once or (triggers_after and decided.changes):
            await self._look_again(connection, decided, at_once=at_once)

    async def _look_again(
        self, connection: asyncpg.Connection, decided: Decided, *, at_once: bool
    ) -> None:
        """See what stands after every trigger has run, deferred ones too, before the commit."""
        if not at_once:
            await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        steps = [decided.steps[change.last_step] for change in decided.changes]
        wanted = {step.returned.order_id: step.new_status for step in steps}
        stands = dict(await connection.fetch(self._statements.shown, packed(wanted)))
        # Whoever takes a row elsewhere once it has its status, keeps it: an archive.
        unkept = {
            order_id: (status, stands.get(order_id))
            for order_id, status in wanted.items()
            if stands.get(order_id, None if at_once else status) != status
        }
        if not unkept:
            return
        table, column = self.orders.table, self.orders.status
        names = await answerable(connection, table, column, at_once=at_once)
        by = ", ".join(names) or "no trigger or rule that is known"
        raise StatusNotKeptError(
            {
                order_id: f"{by}: {status!r} was written to {table}, and "
                f"{'no row' if found is None else repr(found)} stands there"
                for order_id, (status, found) in unkept.items()
            }
        )
