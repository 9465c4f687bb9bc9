"""Hops 2 and 5: is a process of ours down, paused, waiting or moving: pure functions.

Invariant: only what a process itself recorded, or the database says of its connection, counts. A
process whose heartbeat is fresh is never called down, unless it should have come again and has no
connection left to do so.
"""

from collections.abc import Iterable
from datetime import datetime
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.system_state import OutageSeen, ProcessSeen
from relay.runtime.client_failure import ClientFailure
from relay.runtime.liveness import is_alive

_SQLSTATES: Final = MappingProxyType(
    # PostgreSQL's documentation, appendix A: whole codes first, then classes.
    {
        "42501": Cause.PERMISSION_DENIED,  # no privilege; row-level security, too
        "28": Cause.PERMISSION_DENIED,  # invalid authorization: password, pg_hba.conf
        "53300": Cause.DATABASE_UNREACHABLE,  # too many connections
        "08": Cause.DATABASE_UNREACHABLE,  # connection exception
        "57": Cause.DATABASE_UNREACHABLE,  # shutting down, starting up, cancelled
    }
)
_KAFKA_REFUSALS: Final = frozenset(
    {
        "TOPIC_AUTHORIZATION_FAILED",
        "GROUP_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED",
        "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
        "DELEGATION_TOKEN_AUTHORIZATION_FAILED",
        "SASL_AUTHENTICATION_FAILED",
        "UNSUPPORTED_SASL_MECHANISM",
        "ILLEGAL_SASL_STATE",
        "SECURITY_DISABLED",
    }
)
_OWN: Final = MappingProxyType(
    {
        ClientFailure.LOGIN_REFUSED: Cause.PERMISSION_DENIED,
        ClientFailure.TOPIC_FORBIDDEN: Cause.PERMISSION_DENIED,
        ClientFailure.TOPIC_MISSING: Cause.TOPIC_MISSING,
        ClientFailure.REBASELINE_NEEDED: Cause.REBASELINE_NEEDED,
        ClientFailure.TABLE_UNFIT: Cause.DATABASE_REFUSES,
        ClientFailure.SETTINGS_REFUSED: Cause.DATABASE_REFUSES,
    }
)


class Standing(Enum):
    """What the process records of one kind come to."""

    DOWN = auto()
    PAUSED = auto()
    ALIVE = auto()


def alive(process: ProcessSeen, now_at: datetime) -> bool:
    """Tell whether its last heartbeat is fresh and it has not said that it stopped."""
    return is_alive(
        now_at - process.heartbeat_at,
        stopped=process.stopped_at is not None,
        connected=process.connected,
    )


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


def cause_of_code(code: str | None) -> Cause | None:
    """Return the cause that a failure's code stands for (relay.runtime.failure_code).

    None: there is none, or it says nothing about what to do.
    """
    speaker, _, said = (code or "").partition(":")
    if speaker == "sqlstate":
        by_class = _SQLSTATES.get(said[:2], Cause.DATABASE_REFUSES)
        return _SQLSTATES.get(said, by_class)
    if speaker == "kafka":
        if said in _KAFKA_REFUSALS:
            return Cause.PERMISSION_DENIED
        missing = said == "UNKNOWN_TOPIC_OR_PARTITION"
        return Cause.TOPIC_MISSING if missing else Cause.BROKER_UNREACHABLE
    if speaker == "publisher":
        return next((one for one in Cause if one == said), None)
    own = _OWN.get(said)  # type: ignore[call-overload]
    return own or _UNREACHABLE.get(speaker)


_UNREACHABLE: Final = MappingProxyType(
    {
        "database": Cause.DATABASE_UNREACHABLE,
        "broker": Cause.BROKER_UNREACHABLE,
        "registry": Cause.REGISTRY_UNREACHABLE,
    }
)


def complaint(processes: Iterable[ProcessSeen], now_at: datetime) -> Cause | None:
    """Return the cause that a living process itself names."""
    codes = (one.failure_code for one in processes if alive(one, now_at))
    return next((named for code in codes if (named := cause_of_code(code)) is not None), None)


def recorded_end(processes: Iterable[ProcessSeen]) -> Cause | None:
    """Return the cause for which the last process of a kind stopped, when it named one."""
    last = max(processes, key=lambda one: one.heartbeat_at, default=None)
    if last is None or last.stopped_at is None:
        return None
    named = cause_of_code(last.stop_code)
    return named if named in (Cause.PERMISSION_DENIED, Cause.REBASELINE_NEEDED) else None


def cause_of_outage(outage: OutageSeen) -> Cause:
    """Return why the resource could not be used; of an old record only which it was is known."""
    named = cause_of_code(outage.failure_code)
    return named or _UNREACHABLE.get(outage.resource, Cause.DATABASE_UNREACHABLE)


def open_outage(outages: Iterable[OutageSeen], kind: str) -> Cause | None:
    """Return what processes of a kind cannot use at this moment, and why."""
    standing_now = (one for one in outages if one.kind == kind and one.to_at is None)
    return next((cause_of_outage(one) for one in standing_now), None)
