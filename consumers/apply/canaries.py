"""Hop 5: takes note of the returns of canaries (`relay probe`), which are no orders.

Invariant: only what `relay.probe_run` knows is a canary, and its return is written to the inbox
alone, in the transaction of the batch. Every other return goes its way untouched; one whose id
merely looks like a canary's costs a look.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from relay.consumers.apply.applying import Applier, Decided, Identified
from relay.consumers.apply.inbox import write_inbox
from relay.consumers.returns.fold import Outcome, Step
from relay.runtime.canary import looks_like_canary

_KNOWN: Final = """
SELECT aggregate_id FROM relay.probe_run WHERE aggregate_id = ANY ($1::text[])
"""


@dataclass(frozen=True, slots=True)
class BesideCanaries:
    """Applies returns as `orders` does, and keeps canaries from it."""

    orders: Applier

    async def decide(
        self, connection: asyncpg.Connection, returns: Sequence[Identified]
    ) -> Decided:
        """Decide a batch; canaries get a step that changes nothing."""
        maybe = {one.order_id for _, one in returns if looks_like_canary(one.order_id)}
        if not maybe:
            return await self.orders.decide(connection, returns)
        rows = await connection.fetch(_KNOWN, sorted(maybe))
        canaries = {row["aggregate_id"] for row in rows}
        others = [one for one in returns if one[1].order_id not in canaries]
        decided = await self.orders.decide(connection, others) if others else Decided()
        decided.canaries += [
            Step(identity, one, Outcome.CANARY, None, one.status)
            for identity, one in returns
            if one.order_id in canaries
        ]
        return decided

    async def open_among(
        self, connection: asyncpg.Connection, order_ids: Collection[str]
    ) -> set[str]:
        """Return those that are open orders."""
        return await self.orders.open_among(connection, order_ids)

    async def write(self, connection: asyncpg.Connection, group: str, decided: Decided) -> None:
        """Write what was decided.

        Raises:
            asyncpg.UniqueViolationError: an identity is in the inbox already (`inbox.is_copy`).
        """
        await self.orders.write(connection, group, decided)
        await write_inbox(connection, group, decided.canaries)
