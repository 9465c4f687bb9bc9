"""Hop 5: takes note of returns and writes no order (`apply = "observe"`).

Invariant: the inbox is the only memory: an order's status is the highest that its returns reached.
One batch at a time, whatever the number of consumers, so that two of them cannot both find an order
open. Orders are not looked up, so none is unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import asyncpg

from relay.consumers.apply.applying import Decided, Identified, by_order
from relay.consumers.apply.inbox import write_inbox
from relay.consumers.returns.fold import Statuses, fold

# A row, and not an advisory lock's key: every login of the database could hold that.
_ONE_AT_A_TIME = "SELECT FROM relay.lease WHERE duty = 'observe' FOR NO KEY UPDATE"

_REACHED = """
SELECT DISTINCT aggregate_id, new_status FROM relay.inbox
 WHERE aggregate_id = ANY ($1::text[]) AND new_status IS NOT NULL
   AND consumer_group <> ALL ($2::text[])
"""


@dataclass(frozen=True, slots=True)
class Observer:
    """Takes note of returns.

    Args:
        statuses: the flow's; `change` is Outcome.OBSERVED.
        initial_status: of an order without returns.
        group: the consumer group.
        other_groups: of the other flows, whose ids may be the same.
    """

    statuses: Statuses
    initial_status: str
    group: str
    other_groups: tuple[str, ...] = ()

    async def decide(
        self, connection: asyncpg.Connection, returns: Sequence[Identified]
    ) -> Decided:
        """Decide from what the inbox knows."""
        await connection.execute(_ONE_AT_A_TIME)
        groups, decided = by_order(returns), Decided()
        reached = await self._reached(connection, list(groups))
        for order_id, found in groups.items():
            current = reached.get(order_id, self.initial_status)
            fold(self.statuses, current, found, decided.steps, decided.refused)
        return decided

    async def open_among(
        self, _connection: asyncpg.Connection, _order_ids: Collection[str]
    ) -> set[str]:
        """Return none: it does not look at orders."""
        return set()

    async def write(self, connection: asyncpg.Connection, group: str, decided: Decided) -> None:
        """Write the inbox: nothing else is ours to write."""
        await write_inbox(connection, group, decided.steps)

    async def _reached(
        self, connection: asyncpg.Connection, order_ids: Sequence[str]
    ) -> dict[str, str]:
        highest: dict[str, str] = {}
        for order_id, status in await connection.fetch(
            _REACHED, order_ids, list(self.other_groups)
        ):
            known = highest.get(order_id)
            if known is None or self._rank(status) > self._rank(known):
                highest[order_id] = status
        return highest

    def _rank(self, status: str) -> int:
        return self.statuses.ranks.get(status, -1)
