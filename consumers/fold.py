"""Hop 5: what a batch of returns comes to for one order.

Invariant: pure. A status only moves to a higher rank, a terminal one never moves, and every return
is accounted for: a step (that changed the status or did not), or a refusal. The result is the same
as if the returns had been applied one by one, in this order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from consumers.refusals import Reason, Refusal
from consumers.returns import Return


class Outcome(StrEnum):
    """What became of a return; stands in relay.inbox.outcome."""

    APPLIED = "applied"
    """The order's status changed."""
    NO_CHANGE = "no_change"
    """The order has this status already, or one of a higher rank."""
    OBSERVED = "observed"
    """As applied, in a flow whose orders are not written."""


@dataclass(frozen=True, slots=True)
class Step:
    """One return, decided.

    Attributes:
        identity: what the inbox knows it by.
        old_status: the order's status before; None when that is not known.
        new_status: the order's status after.
    """

    identity: str
    returned: Return
    outcome: Outcome
    old_status: str | None
    new_status: str


@dataclass(frozen=True, slots=True)
class Statuses:
    """The flow's statuses.

    Attributes:
        ranks: a status only moves to a higher one.
        terminal: never move again.
        change: what a step that changes the status is called.
    """

    ranks: Mapping[str, int]
    terminal: frozenset[str]
    change: Outcome = Outcome.APPLIED


@dataclass(slots=True)
class Folded:
    """What the returns of one order come to.

    Attributes:
        status: the order's status after them.
        changes: how many steps changed it.
        reason: of the last step that changed it.
    """

    status: str
    changes: int = 0
    reason: str | None = None
    steps: list[Step] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)


def fold(statuses: Statuses, current: str, returns: Iterable[tuple[str, Return]]) -> Folded:
    """Decide the returns of one order, in the order they came.

    Args:
        statuses: of the flow.
        current: the order's status now, its row locked.
        returns: with the identity that each goes by.
    """
    folded = Folded(current)
    for identity, returned in returns:
        old = folded.status
        problem = _conflict(statuses, old, returned.status)
        if problem is not None:
            folded.refused.append(refusal(returned, identity, Reason.CONFLICT, problem))
        elif statuses.ranks[returned.status] > statuses.ranks[old]:
            folded.status, folded.reason = returned.status, returned.reason
            folded.changes += 1
            step = Step(identity, returned, statuses.change, old, returned.status)
            folded.steps.append(step)
        else:
            folded.steps.append(Step(identity, returned, Outcome.NO_CHANGE, old, old))
    return folded


def _conflict(statuses: Statuses, old: str, said: str) -> str | None:
    if old not in statuses.ranks:
        return f"the order is {old!r}, which has no rank in the flow; the return says {said!r}"
    if old != said and old in statuses.terminal and said in statuses.terminal:
        return f"the order is {old!r} for good; the return says {said!r}"
    return None


def refusal(returned: Return, identity: str, reason: Reason, detail: str) -> Refusal:
    """Refuse a return that could be read."""
    return Refusal(
        returned.record, reason, detail, returned.order_id, identity, returned.traceparent
    )
