"""The closed list of causes, what each means, which verdicts it explains, what to do.

Invariant: every verdict has at least one cause, every cause at least one verdict, and every cause
a sentence that someone who has never seen the system understands. Nothing here can fail.
"""

from collections.abc import Mapping
from types import MappingProxyType

from relay.diagnose.causes.anywhere import ANYWHERE
from relay.diagnose.causes.codes import Cause
from relay.diagnose.causes.confirm import CONFIRM
from relay.diagnose.causes.external import EXTERNAL
from relay.diagnose.causes.meaning import CauseMeaning
from relay.diagnose.causes.place import FINE, PLACE
from relay.diagnose.causes.process import PROCESS, RETURN
from relay.diagnose.causes.publish import PUBLISH
from relay.diagnose.verdicts import Verdict

__all__ = [
    "MEANINGS",
    "MOVING_BY_ITSELF",
    "PROVISIONAL",
    "Cause",
    "CauseMeaning",
    "causes_of",
    "for_incident",
    "meaning_of",
]

MEANINGS: Mapping[Cause, CauseMeaning] = MappingProxyType(
    FINE | PLACE | PUBLISH | EXTERNAL | PROCESS | RETURN | CONFIRM | ANYWHERE
)

_OF_ANOTHER_VERSION = CauseMeaning(
    frozenset(), "this version does not know this cause", "", ("relay diagnose {order}",)
)


def meaning_of(code: str) -> CauseMeaning:
    """Return the row of a cause that was stored: by another version, perhaps, or by hand."""
    known = Cause(code) if code in MEANINGS else None
    return _OF_ANOTHER_VERSION if known is None else MEANINGS[known]


# These end by themselves: before the deadline an order with one of them is merely on its way.
MOVING_BY_ITSELF = frozenset(
    {
        Cause.RELAY_BEHIND,
        Cause.PUBLISHER_BEHIND,
        Cause.RELEASE_PENDING,
        Cause.PROCESSOR_LAGGING,
        Cause.PROCESSOR_REBALANCING,
        Cause.CONSUMER_LAGGING,
        Cause.TRANSACTION_OPEN,
        Cause.ORDER_ROW_LOCKED,
        Cause.RETURN_NEVER_SENT,
        Cause.RETURNS_STOPPED,
        Cause.FINAL_RETURN_MISSING,
    }
)

# What is said of a process whose last heartbeat is fresh; it may have been killed right after it.
PROVISIONAL = frozenset(
    {Cause.RELAY_BEHIND, Cause.PUBLISHER_BEHIND, Cause.PROCESSOR_LAGGING, Cause.CONSUMER_LAGGING}
)

# What holds the orders of an incident in quarantine, in the quarantine's own word.
_HELD_FOR: Mapping[Cause, str] = MappingProxyType(
    {
        Cause.TOO_LARGE: "too_large",
        Cause.NO_TOPIC_MAPPED: "no_topic",
        Cause.REFUSED_BY_BROKER: "refused_by_broker",
        Cause.RETURN_MALFORMED: "malformed",
        Cause.RETURN_UNKNOWN_SCHEMA: "unknown_schema",
        Cause.RETURN_UNKNOWN_ORDER: "unknown_order",
        Cause.RETURN_UNKNOWN_STATUS: "unknown_status",
        Cause.RETURN_CONFLICTS: "conflict",
        Cause.APPLY_FAILED: "apply_failed",
        Cause.STATUS_NOT_KEPT: "status_not_kept",
        Cause.RETURN_NAMES_DIFFER: "names_differ",
        Cause.CODEC_MISSING: "unreadable",
        Cause.ORDER_HIDDEN: "unknown_order",
    }
)


def for_incident(command: str, cause: str, incident: str) -> str:
    """Return a cause's command for all orders of an incident, with `{order}` where it is for one.

    Args:
        command: of `MEANINGS[cause].next`.
        cause: the incident's.
        incident: its name, such as I-17.
    """
    if command.startswith("relay replay returns"):
        # Returns that were passed over are given again by the incident's replay, too.
        return f"relay replay --incident {incident}"
    if command.startswith("relay replay --order {order}"):
        return command.replace("--order {order}", f"--incident {incident}")
    if command.startswith("relay quarantine") and cause in _HELD_FOR:
        return command.replace("--order {order}", f"--held-for {_HELD_FOR[Cause(cause)]}")
    return command


def causes_of(verdict: Verdict) -> tuple[Cause, ...]:
    """Every cause that can explain a verdict, in the order of the list."""
    return tuple(cause for cause in Cause if verdict in MEANINGS[cause].verdicts)
