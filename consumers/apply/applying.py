"""Hop 5: what the three ways of applying returns have in common.

Invariant: every return given comes back exactly once: as a step, refused, or locked. Whatever is
written is written on the caller's connection, in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import asyncpg

from relay.consumers.returns.fold import Change, Step, refusal
from relay.consumers.returns.reader import Return
from relay.consumers.returns.refusals import Reason, Refusal

Identified = tuple[str, Return]


@dataclass(slots=True)
class Decided:
    """What a batch of returns came to.

    Attributes:
        changes: what the rows of the steps' orders are to become ...
        places: ... and where these rows stand, while they are locked; None: not known.
        locked: their orders are locked by somebody else: they wait.
        submitted: when each order was submitted, Unix time, where that is known.
        canaries: steps of canaries, which are no orders.
    """

    steps: list[Step] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    places: list[str | None] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    locked: list[Return] = field(default_factory=list)
    submitted: dict[str, float | None] = field(default_factory=dict)
    canaries: list[Step] = field(default_factory=list)


class Applier(Protocol):
    """One way of applying returns; both calls are in one transaction."""

    async def decide(
        self, connection: asyncpg.Connection, returns: Sequence[Identified]
    ) -> Decided:
        """Decide a batch, in the order it came; what that rests on stays so until the commit."""

    async def open_among(
        self, connection: asyncpg.Connection, order_ids: Collection[str]
    ) -> set[str]:
        """Return those that are orders and wait for a return; none where that is not known."""

    async def write(self, connection: asyncpg.Connection, group: str, decided: Decided) -> None:
        """Write what was decided: the inbox, and the orders if they are ours to write.

        Raises:
            asyncpg.UniqueViolationError: an identity is in the inbox already (`inbox.is_copy`).
        """


def by_order(returns: Iterable[Identified]) -> dict[str, list[Identified]]:
    """Group returns by order; within an order they stay in the order they came."""
    groups: dict[str, list[Identified]] = {}
    for one in returns:
        groups.setdefault(one[1].order_id, []).append(one)
    return groups


def unknown_order(returns: Iterable[Identified], where: str) -> list[Refusal]:
    """Refuse the returns of an order that is not there."""
    detail = f"no such order in {where}"
    return [refusal(one, name, Reason.UNKNOWN_ORDER, detail) for name, one in returns]
