"""Hop 5: applies returns by a SQL function of the user's own (`apply = "function"`).

The contract of the function:

    f(order_id text, status text, reason text, return_id text, payload json) RETURNS text

It is called once for each return, in the order they came, in the transaction of the batch; copies
never reach it. It returns the status that the order had before the call, NULL when there is no
such order, and sets the new one if, and only if, that has a higher rank. For an order whose row is
locked it should raise `lock_not_available` (`FOR UPDATE NOWAIT` does), so that other orders go on.

Invariant: what is recorded of a return is decided here from the status that the function returns,
by the same rule as everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import asyncpg

from relay.consumers.apply.applying import Decided, Identified, unknown_order
from relay.consumers.apply.inbox import write_inbox
from relay.consumers.returns.fold import Statuses, fold


def call_statement(function: str) -> str:
    """Put together the call; `function` is qualified and quoted by the catalog."""
    # unnest yields its rows in order, and a volatile function is called once for each.
    return f"""
        SELECT {function}(r.order_id, r.status, r.reason, r.return_id, r.payload::json)
          FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
               AS r (order_id, status, reason, return_id, payload)
    """  # noqa: S608 - an identifier from the catalog


@dataclass(frozen=True, slots=True)
class FunctionApplier:
    """Applies returns by the flow's function.

    Args:
        statuses: the flow's.
        function: its name, qualified and quoted.
    """

    statuses: Statuses
    function: str

    async def decide(
        self, connection: asyncpg.Connection, returns: Sequence[Identified]
    ) -> Decided:
        """Call the function for each return."""
        rows = await connection.fetch(
            call_statement(self.function),
            [one.order_id for _, one in returns],
            [one.status for _, one in returns],
            [one.reason for _, one in returns],
            [name for name, _ in returns],
            [(one.record.value or b"null").decode() for _, one in returns],
        )
        decided = Decided()
        for one, row in zip(returns, rows, strict=True):
            if row[0] is None:
                decided.refused += unknown_order([one], f"the flow's function {self.function}")
            else:
                fold(self.statuses, row[0], [one], decided.steps, decided.refused)
        return decided

    async def open_among(
        self, _connection: asyncpg.Connection, _order_ids: Collection[str]
    ) -> set[str]:
        """Return none: it does not look at orders."""
        return set()

    async def write(self, connection: asyncpg.Connection, group: str, decided: Decided) -> None:
        """Write the inbox: the function has written the rest."""
        await write_inbox(connection, group, decided.steps)
