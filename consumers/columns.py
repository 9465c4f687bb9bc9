"""Hop 5: applies returns to the columns of the orders' own table (`apply = "columns"`).

Invariant: a status is written only under the lock of the order's row, from the status that was read
under it. An order whose row is locked by somebody else is not waited for: its returns come back as
locked, and those of all other orders go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg

from consumers.applying import Decided, Identified, by_order, unknown_order
from consumers.fold import Change, Outcome, Statuses, Step, fold
from consumers.packing import packed, packed_nullable, packed_numbers
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
        groups, decided = by_order(returns), Decided()
        changes: dict[str, Change] = {}
        locked = await connection.fetch(self._statements.lock, packed(groups))
        for order_id, status, submitted in locked:
            decided.submitted[order_id] = submitted
            change = fold(self.statuses, status, groups[order_id], decided.steps, decided.refused)
            if change is not None:
                changes[order_id] = change
        missing = groups.keys() - decided.submitted.keys()
        if missing:
            await self._sort_missing(connection, groups, missing, decided)
        await self._write(connection, changes)
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
        rows = await connection.fetch(self._statements.exist, packed(missing))
        locked = {row["order_id"] for row in rows}
        for order_id, found in groups.items():
            if order_id in locked:
                decided.locked += [returned for _, returned in found]
            elif order_id in missing:
                decided.refused += unknown_order(found, self.orders.table)

    async def _write(self, connection: asyncpg.Connection, changes: Mapping[str, Change]) -> None:
        if not changes:
            return
        terminal, rows = self.statuses.terminal, changes.values()
        done = await connection.execute(
            self._statements.update,
            packed(changes),
            packed([row.old_status for row in rows]),
            packed([row.new_status for row in rows]),
            packed_numbers([row.changes for row in rows]),
            packed(["t" if row.new_status in terminal else "f" for row in rows]),
            packed_nullable([row.reason for row in rows]),
        )
        count = int(done.rpartition(" ")[2])
        if count != len(changes):
            raise StatusNotWrittenError(
                f"{self.orders.table} took {count} of {len(changes)} statuses: look at its "
                "triggers and rules"
            )

    async def _write_history(self, connection: asyncpg.Connection, steps: Sequence[Step]) -> None:
        changes = [step for step in steps if step.outcome is Outcome.APPLIED]
        if self._statements.history is None or not changes:
            return
        await connection.execute(
            self._statements.history,
            packed([step.returned.order_id for step in changes]),
            packed_nullable([step.old_status for step in changes]),
            packed([step.new_status for step in changes]),
            packed_nullable([step.returned.reason for step in changes]),
            packed([step.identity for step in changes]),
        )
