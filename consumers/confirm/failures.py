"""Hop 5: what a failed statement says: is it one return, all of them, or the database?

Invariant: pure. Only what the database holds against particular rows may end in quarantine; a
failure that every return would meet (no connection, no permission, no disk) is waited out.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

import asyncpg

from relay.consumers.apply.inbox import is_copy
from relay.orders.catalog import FlowTableError
from relay.runtime.database import DatabaseError, DatabaseRefusedError, is_connection_loss


class Failure(Enum):
    """What to do about an error."""

    RETRY = auto()
    """Somebody was in the way (deadlock, serialization, cancelled): the same batch, at once."""
    AWAY = auto()
    """The connection is gone: connect anew."""
    BLOCKED = auto()
    """The database refuses everything: say what, and wait until somebody mended it."""
    LOCKED = auto()
    """A row is locked, and the flow's function does not wait: let that return wait."""
    REFUSED = auto()
    """The database refuses some row: find which."""


_RETRY: Final = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.QueryCanceledError,
    asyncpg.InvalidCachedStatementError,
)

# The first two characters of SQLSTATE (PostgreSQL documentation, appendix A).
_BLOCKED_CLASSES: Final = frozenset(
    {
        "08",  # connection exception
        "0A",  # feature not supported: a cached plan, another server version
        "25",  # invalid transaction state: read-only after a failover, idle for too long
        "26",  # a prepared statement that is gone: a pooler between us
        "28",  # invalid authorization
        "3D",  # invalid database
        "3F",  # invalid schema
        "42",  # no such table, no such column, permission denied
        "53",  # no disk, no memory, too many connections
        "55",  # object not in the state needed
        "57",  # operator intervention
        "58",  # system error
        "72",  # snapshot too old
        "F0",  # configuration file
        "XX",  # internal error, corrupted data
    }
)

_DATA_EXCEPTION: Final = "22"
_INTEGRITY: Final = "23"


def classify(error: Exception) -> Failure:
    """Tell what a failed batch means."""
    if _refuses_everything(error):
        return Failure.BLOCKED
    if isinstance(error, DatabaseError | OSError) or is_connection_loss(error):
        return Failure.AWAY
    if isinstance(error, _RETRY) or (isinstance(error, asyncpg.PostgresError) and is_copy(error)):
        return Failure.RETRY
    if isinstance(error, asyncpg.LockNotAvailableError):
        return Failure.LOCKED
    return Failure.REFUSED


def _refuses_everything(error: Exception) -> bool:
    if isinstance(error, (*_RETRY, asyncpg.LockNotAvailableError)) or is_connection_loss(error):
        return False
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "XX")[:2] in _BLOCKED_CLASSES
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)  # the driver's word on a value: about one return
    return isinstance(error, DatabaseRefusedError | FlowTableError)


def described(error: BaseException) -> str:
    """Return what a person needs to know of an error: SQLSTATE, text, and where it arose."""
    if not isinstance(error, asyncpg.PostgresError):
        return f"{type(error).__name__}: {error}"
    parts = [f"{error.sqlstate}: {error}", error.detail, error.hint, error.constraint_name]
    return "; ".join(str(part) for part in parts if part)


def about_a_value(error: BaseException) -> bool:
    """Tell whether the database holds it against the data, and not against us.

    A data exception names a value, a constraint has a name; what a trigger raises has neither,
    whichever SQLSTATE its author chose.
    """
    if not isinstance(error, asyncpg.PostgresError):
        return False
    sqlstate = error.sqlstate or ""
    if sqlstate[:2] == _INTEGRITY:
        return bool(error.constraint_name or error.column_name)
    return sqlstate[:2] == _DATA_EXCEPTION


def without_values(error: BaseException) -> str:
    """Return what a person needs to know of a refused return, without what the return holds.

    A constraint's message names the constraint, its DETAIL the row; a data exception's message
    quotes the value. What a function of the database's own raises is its author's to word.
    """
    if not isinstance(error, asyncpg.PostgresError):
        return type(error).__name__
    parts = [f"{error.sqlstate} {type(error).__name__}"]
    if (error.sqlstate or "")[:2] != _DATA_EXCEPTION:
        parts.append(str(error.args[0] if error.args else ""))  # str(error) has the DETAIL, too
    for what, name in (("constraint", error.constraint_name), ("column", error.column_name)):
        if name:
            parts.append(f"{what} {name}")
    return "; ".join(parts)
