"""All hops: is an incident's cause gone, by what proof, and what must not be done about it.

Invariant: "gone" is said only of a hop at which, of orders that were placed later and are due, none
is missing; without such orders it is not proven yet, whatever runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from relay.diagnose.fate import fate_of
from relay.diagnose.status.minutes import Minutes
from relay.diagnose.verdicts import Fate, Verdict


class Gone(StrEnum):
    """Whether a cause is gone."""

    YES = "gone"
    NO = "not gone"
    UNPROVEN = "not proven yet"


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What became of the orders that were placed after an incident's last one.

    Attributes:
        due: of them, those that are past their deadline.
        missing: of those, at the incident's hop.
        exact: False: `due` is an estimate.
    """

    gone: Gone
    since: datetime
    due: int
    missing: int
    exact: bool = True


def due_stretch(
    to_at: datetime, looked_at: datetime, deadline_seconds: float, longest: timedelta
) -> tuple[datetime, datetime] | None:
    """Return from when to when orders were placed that prove something; None: none are due yet.

    Args:
        to_at: when the incident's last order was placed.
        looked_at: the watchdog's last completed round: it judged what was due then.
        deadline_seconds: the longest deadline of the flow's events.
        longest: so much is read at most.
    """
    end = looked_at - timedelta(seconds=deadline_seconds)
    # The last order of the incident itself is none that came after it.
    start = max(to_at + timedelta(microseconds=1), end - longest)
    return (start, end) if start < end else None


def decide_aftermath(hop: str, since: datetime, later: Minutes | None) -> Aftermath:
    """Judge what came after an incident; None: nothing that is due."""
    if later is None:
        return Aftermath(Gone.UNPROVEN, since, 0, 0)
    due = sum(one.placed for one in later.buckets)
    missing = sum(one.stuck.get(hop, 0) for one in later.buckets)
    gone = Gone.NO if missing else Gone.YES if due and later.whole else Gone.UNPROVEN
    return Aftermath(gone, since, due, missing, later.exact)


@dataclass(frozen=True, slots=True)
class Effect:
    """What a replay of an incident would do, as far as is recorded: a plan says it for certain."""

    sent: int
    left: int


def expected_effect(breakdown: Mapping[str, int]) -> Effect:
    """Return how many of an incident's orders would be sent again, and how many are left alone."""
    sent = breakdown.get(Fate.LOST.value, 0)
    return Effect(sent, sum(breakdown.values()) - sent)


DELAYED: Final = (
    "Do not replay: these orders move by themselves once their hop works, and would only be "
    "duplicated."
)
TOO_EARLY: Final = (
    "Do not replay before the cause is gone: what is sent again would be lost in the same way."
)
NO_RESET: Final = (
    "Do not set the group's offset back: every order since would be processed again, those that "
    "were answered, too."
)
NO_REPLAY_HELD: Final = (
    "Do not replay: what quarantine holds is released once the cause is gone, and a replay leaves "
    "it alone."
)
NO_DISCARD: Final = "Do not discard what is in quarantine: it would never be sent or applied."
NO_STATUS: Final = "Do not write the order's status by hand: its return would contradict it later."


def held_kind(verdict: str) -> str | None:
    """Return what of such orders is in quarantine: an event or a return; None: nothing."""
    kinds = {Verdict.PARKED.value: "event", Verdict.RETURN_QUARANTINED.value: "return"}
    return kinds.get(verdict)


def lacks_its_event(verdict: str) -> bool:
    """Tell whether the event has to be written first: there is none to send again."""
    return verdict == Verdict.NO_OUTBOX_ROW.value


def must_not(
    hop: str, verdict: str, cause: str, gone: Gone, *, is_replayed: bool
) -> tuple[str, ...]:
    """Return what must not be done about orders of a kind.

    Args:
        hop: where they are missing.
        verdict: what became of them.
        cause: why.
        gone: whether the cause is.
        is_replayed: a replay is the repair, by the rules of a plan.
    """
    found = [DELAYED] if fate_of(verdict, cause) is Fate.DELAYED else []
    if held_kind(verdict) is not None and not is_replayed:
        found = [NO_REPLAY_HELD]
    if is_replayed and not found and gone is not Gone.YES:
        found.append(TOO_EARLY)
    if hop in ("process", "return"):
        found.append(NO_RESET)
    if held_kind(verdict) is not None:
        found.append(NO_DISCARD)
    return (*found, NO_STATUS)
