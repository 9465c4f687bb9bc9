"""Hop 5: applies returns to the columns of the orders' own table (`apply = "columns"`).

Invariant: a status is written only under the lock of the order's row, from the status that was read
under it. An order whose row is locked by somebody else is not waited for: its returns come back as
locked, and those of all other orders go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from consumers.applying import Decided, Identified, by_order, unknown_order
from consumers.fold import Folded, Outcome, Statuses, Step, fold
from consumers.statements import ColumnStatements, OrdersTable, column_statements


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

    async def apply(self, connection: asyncpg.Connection, returns: Sequence[Identified]) -> Decided:
        """Lock the orders, decide, write the statuses and the history.

        Raises:
            StatusNotWrittenError: the table did not take a status.
        """
        groups, decided, changed = by_order(returns), Decided(), []
        locked = await connection.fetch(self._statements.lock, list(groups))
        for order_id, status, submitted in locked:
            folded = fold(self.statuses, status, groups[order_id])
            decided.add(folded)
            decided.submitted[order_id] = submitted
            if folded.changes:
                changed.append((order_id, status, folded))
        missing = groups.keys() - decided.submitted.keys()
        if missing:
            await self._sort_missing(connection, groups, missing, decided)
        await self._write(connection, changed)
        await self._write_history(connection, decided.steps)
        return decided

    async def _sort_missing(
        self,
        connection: asyncpg.Connection,
        groups: dict[str, list[Identified]],
        missing: set[str],
        decided: Decided,
    ) -> None:
        """Tell orders that are locked from those that are not there."""
        rows = await connection.fetch(self._statements.exist, sorted(missing))
        locked = {row["order_id"] for row in rows}
        for order_id, found in groups.items():
            if order_id in locked:
                decided.locked += [returned for _, returned in found]
            elif order_id in missing:
                decided.refused += unknown_order(found, self.orders.table)

    async def _write(
        self, connection: asyncpg.Connection, changed: Sequence[tuple[str, str, Folded]]
    ) -> None:
        if not changed:
            return
        done = await connection.execute(
            self._statements.update,
            [order_id for order_id, _, _ in changed],
            [old for _, old, _ in changed],
            [folded.status for _, _, folded in changed],
            [folded.changes for _, _, folded in changed],
            [folded.status in self.statuses.terminal for _, _, folded in changed],
            [folded.reason for _, _, folded in changed],
        )
        if int(done.rpartition(" ")[2]) != len(changed):
            raise StatusNotWrittenError(
                f"{self.orders.table} took {done.rpartition(' ')[2]} of {len(changed)} statuses: "
                "look at its triggers and rules"
            )

    async def _write_history(self, connection: asyncpg.Connection, steps: Sequence[Step]) -> None:
        changes = [step for step in steps if step.outcome is Outcome.APPLIED]
        if self._statements.history is None or not changes:
            return
        await connection.execute(
            self._statements.history,
            [step.returned.order_id for step in changes],
            [step.old_status for step in changes],
            [step.new_status for step in changes],
            [step.returned.reason for step in changes],
            [step.identity for step in changes],
        )
