"""Hop 5: applies returns to the columns of the orders' own table (`apply = "columns"`).

Invariant: a status is written only under the lock of the order's row, from the status that was read
under it. An order whose row is locked by somebody else is not waited for: its returns come back as
locked, and those of all other orders go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from relay.consumers.apply.applying import Decided, Identified, by_order, unknown_order
from relay.consumers.apply.inbox import step_values
from relay.consumers.apply.statements import ColumnStatements, column_statements
from relay.consumers.returns.fold import Statuses, fold
from relay.consumers.returns.packing import packed
from relay.orders.table import OrdersTable

# Unix time of the year 9999: beyond, PostgreSQL itself can no longer add a day.
_LATEST: Final = 253_370_764_800.0


def plausible(submitted: float | None) -> float | None:
    """Return when an order was submitted, Unix time; None for year 1, infinity and their like."""
    return submitted if submitted is not None and 0 < submitted < _LATEST else None


class StatusNotWrittenError(Exception):
    """A trigger or rule of the orders' table swallowed the update of a status."""


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
        rows = await connection.fetch(self._statements.exist, packed(missing))
        locked = {row["order_id"] for row in rows}
        for order_id, found in groups.items():
            if order_id in locked:
                decided.locked += [returned for _, returned in found]
            elif order_id in missing:
                decided.refused += unknown_order(found, self.orders.table)

    async def write(self, connection: asyncpg.Connection, group: str, decided: Decided) -> None:
        """Write inbox, history and statuses.

        Raises:
            StatusNotWrittenError: the table did not take a status.
            asyncpg.UniqueViolationError: an identity is in the inbox already (`inbox.is_copy`).
        """
        if not decided.steps:
            return
        values: tuple[Any, ...] = step_values(decided.steps, decided.changes, decided.places, group)
        if self._statements.asks_terminal:
            values += (sorted(self.statuses.terminal),)
        done = await connection.execute(self._statements.write, *values)
        count = int(done.rpartition(" ")[2])
        if count != len(decided.changes):
            raise StatusNotWrittenError(
                f"{self.orders.table} took {count} of {len(decided.changes)} statuses: look at "
                "its triggers and rules"
            )
