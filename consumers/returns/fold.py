"""Hop 5: what a batch of returns comes to for one order.

Invariant: pure. A status only moves to a higher rank, a terminal one never moves, and every return
is accounted for: a step (that changed the status or did not), or a refusal. The result is the same
as if the returns had been applied one by one, in this order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from relay.consumers.returns.reader import Return
from relay.consumers.returns.refusals import Reason, Refusal


class Outcome(StrEnum):
    """What became of a return; stands in relay.inbox.outcome."""

    APPLIED = "applied"
    """The order's status changed."""
    NO_CHANGE = "no_change"
    """The order has this status already, or one of a higher rank."""
    OBSERVED = "observed"
    """As applied, in a flow whose orders are not written."""
    CANARY = "canary"
    """The return of a canary: it came back, and there is no order to change."""


class Step(NamedTuple):
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


class Change(NamedTuple):
    """What an order's row is to become: what the last step that changed the status says.

    Attributes:
        last_step: its place among the steps.
        changes: how many steps of the order changed the status.
    """

    last_step: int
    changes: int


def fold(
    statuses: Statuses,
    current: str,
    returns: Iterable[tuple[str, Return]],
    steps: list[Step],
    refused: list[Refusal],
) -> Change | None:
    """Decide the returns of one order, in the order they came.

    Args:
        statuses: of the flow.
        current: the order's status now, its row locked.
        returns: with the identity that each goes by.
        steps: gets one for each return that is not refused.
        refused: gets the others.

    Returns:
        What the order's row is to become; None: it stays as it is.
    """
    ranks, status, changes, last_step = statuses.ranks, current, 0, 0
    for identity, returned in returns:
        said = returned.status
        problem = _conflict(statuses, status, said)
        if problem is not None:
            refused.append(refusal(returned, identity, Reason.CONFLICT, problem))
        elif ranks[said] > ranks[status]:
            changes, last_step = changes + 1, len(steps)
            steps.append(Step(identity, returned, statuses.change, status, said))
            status = said
        else:
            steps.append(Step(identity, returned, Outcome.NO_CHANGE, status, status))
    return Change(last_step, changes) if changes else None


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
