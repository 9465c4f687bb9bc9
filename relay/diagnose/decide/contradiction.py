"""Hop 5: does a final status stand against the order's returns? Pure functions.

Invariant: said only with the return in hand that says otherwise: one that was applied, or one that
is held. A status that no return ever spoke of contradicts nothing.
"""

from relay.diagnose.causes import Cause
from relay.diagnose.decide.finding import Finding
from relay.diagnose.evidence.order import Evidence, OrderSeen, Place, ReturnSeen
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.fate import fate_of
from relay.diagnose.verdicts import Fate, Hop, Verdict

_HELD = frozenset({"held", "release_requested"})


def contradiction(evidence: Evidence) -> Finding | None:
    """Say that an order's final status is another than a return says; None: none does."""
    if overwritten(evidence) is not None:
        return Finding(Verdict.RETURN_SKIPPED, Cause.STATUS_OVERWRITTEN)
    held = held_conflict(evidence)
    if held is None:
        return None
    pending = held.state == "release_requested"
    cause = Cause.RELEASE_PENDING if pending else Cause.RETURN_CONFLICTS
    return Finding(Verdict.RETURN_QUARANTINED, cause)


def overwritten(evidence: Evidence) -> ReturnSeen | None:
    """Return the last return that ended the order, if its final status is none of theirs."""
    order = _final(evidence)
    if order is None:
        return None
    ended = [one for one in _returns(evidence) if one.became is not None and one.terminal]
    if not ended or any(one.became == order.status for one in ended):
        return None
    return ended[-1]


def held_conflict(evidence: Evidence) -> ReturnSeen | None:
    """Return the last return that is held because it contradicts a status that no return gave.

    Where one did, the order is answered, and another answer that is held waits in quarantine.
    """
    returns = _returns(evidence)
    if _final(evidence) is None:
        return None
    if any(one.place is Place.INBOX and one.terminal for one in returns):
        return None
    held = [
        one
        for one in returns
        if one.place is Place.QUARANTINE and one.reason == "conflict" and one.state in _HELD
    ]
    return held[-1] if held else None


def _final(evidence: Evidence) -> OrderSeen | None:
    """Return the order, if returns are written to its status, and that is a final one."""
    order = evidence.order
    decides = evidence.around.status_decides
    if not decides or not isinstance(order, OrderSeen) or order.later:
        return None
    return order if order.terminal else None


def _returns(evidence: Evidence) -> tuple[ReturnSeen, ...]:
    return () if isinstance(evidence.returns, Missing) else evidence.returns


def with_status_unknown(evidence: Evidence, finding: Finding) -> Finding:
    """Judge no order as lost whose status the flow does not know: it may be settled long since."""
    order = evidence.order
    if not isinstance(order, OrderSeen) or order.known or not evidence.around.status_decides:
        return finding
    if finding.cause is Cause.RETURN_CONFLICTS:
        return Finding(Verdict.RETURN_QUARANTINED, Cause.ORDER_STATUS_UNKNOWN)
    if fate_of(finding.verdict, finding.cause) is not Fate.LOST or _held(finding):
        return finding
    missing = Missing(
        "what the order's status means",
        Cause.ORDER_STATUS_UNKNOWN,
        f"the order is {order.status!r}, which is none of the flow's statuses",
        "name it in the flow's status_ranks, or in later_statuses if it follows the return",
    )
    return Finding(Verdict.UNKNOWN, Cause.ORDER_STATUS_UNKNOWN, finding.hop or Hop.CONFIRM, missing)


def _held(finding: Finding) -> bool:
    return finding.verdict in (Verdict.RETURN_QUARANTINED, Verdict.PARKED)
