"""Hops 2 and 5: is a process of ours down, paused, waiting or moving: pure functions.

Invariant: only what a process itself recorded, or the database says of its connection, counts. A
process whose heartbeat is fresh is never called down, unless it should have come again and has no
connection left to do so.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import Enum, auto

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.surroundings import OutageSeen, ProcessSeen

# Three missed heartbeats of relay.runtime.process.
HEARTBEAT_STALE_SECONDS = 15.0
# A process that lives beats, or connects anew, at least every 5 s.
GONE_SECONDS = 6.0

_ERROR_WORDS: tuple[tuple[Cause, tuple[str, ...]], ...] = (
    (Cause.REBASELINE_NEEDED, ("rebaseline",)),
    (
        Cause.PERMISSION_DENIED,
        (
            "permission denied",
            "permission: grant",
            "insufficient_privilege",
            "insufficientprivilege",
            "authorizationfailed",
            "authorization failed",
            "not authorized",
            "authenticationfailed",
            "authentication failed",
            "password authentication",
            "row-level security",
        ),
    ),
    (
        Cause.TOPIC_MISSING,
        ("unknowntopic", "unknown topic", "topic does not exist", "no topic", "to exist: create"),
    ),
    (Cause.DATABASE_UNREACHABLE, ("postgres", "database")),
    (Cause.BROKER_UNREACHABLE, ("broker", "kafka", "bootstrap", "leader")),
)


class Standing(Enum):
    """What the process records of one kind come to."""

    DOWN = auto()
    PAUSED = auto()
    ALIVE = auto()


def alive(process: ProcessSeen, now_at: datetime) -> bool:
    """Tell whether its last heartbeat is fresh and it has not said that it stopped."""
    allowed = GONE_SECONDS if process.connected is False else HEARTBEAT_STALE_SECONDS
    fresh = now_at - process.heartbeat_at <= timedelta(seconds=allowed)
    return fresh and process.stopped_at is None


def standing(
    processes: Iterable[ProcessSeen], now_at: datetime, *, newcomer: bool = False
) -> Standing:
    """Sum up all the processes of one kind.

    Args:
        processes: as recorded.
        now_at: by the database.
        newcomer: one has connected just now, and its record is still to come.
    """
    unstopped = [one for one in processes if one.stopped_at is None]
    if newcomer or any(alive(one, now_at) for one in unstopped):
        return Standing.ALIVE
    # A killed process's connections are closed by its kernel; a paused one keeps them.
    if any(one.connected for one in unstopped):
        return Standing.PAUSED
    return Standing.DOWN


def cause_of_error(text: str) -> Cause | None:
    """Read a cause out of what a process says that it waits for or died of."""
    lowered = text.lower()
    for cause, words in _ERROR_WORDS:
        if any(word in lowered for word in words):
            return cause
    return None


def complaint(processes: Iterable[ProcessSeen], now_at: datetime) -> Cause | None:
    """Return the cause that a living process itself names."""
    for one in processes:
        if alive(one, now_at) and one.error:
            named = cause_of_error(one.error)
            if named is not None:
                return named
    return None


def last_words(processes: Iterable[ProcessSeen]) -> Cause | None:
    """Return the cause for which the last process of a kind stopped, when it named one."""
    last = max(processes, key=lambda one: one.heartbeat_at, default=None)
    if last is None or last.stopped_at is None or not last.stop_reason:
        return None
    named = cause_of_error(last.stop_reason)
    return named if named in (Cause.PERMISSION_DENIED, Cause.REBASELINE_NEEDED) else None


def open_outage(outages: Iterable[OutageSeen], kind: str) -> Cause | None:
    """Return what processes of a kind cannot reach at this moment."""
    for one in outages:
        if one.kind == kind and one.to_at is None:
            named = cause_of_error(one.error)
            if named is Cause.PERMISSION_DENIED:
                return named
            if one.resource == "broker":
                return Cause.BROKER_UNREACHABLE
            return Cause.DATABASE_UNREACHABLE
    return None
