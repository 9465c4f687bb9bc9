"""Reads one part of the evidence, and turns every way to fail into a `Missing`.

Invariant: a part that cannot be read never keeps another one from being read: each has a savepoint
of its own, and a lost connection leaves all that follow `Missing`, with what the server said. A
savepoint costs two statements beside the one that it guards: `in_parts` does without them first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final, TypeVar
from weakref import WeakSet

import asyncpg
from aiokafka.errors import UnsupportedCodecError

from relay.consumers.returns.decoding import DecoderUnavailableError
from relay.diagnose.causes import Cause
from relay.diagnose.decide.duty import cause_of_code
from relay.diagnose.evidence.system_state import Missing
from relay.kafka.refusal import KafkaRefusedError
from relay.runtime.database import DATABASE_FAILURES
from relay.runtime.failure_code import failure_code

T = TypeVar("T")

_WITHOUT_SAVEPOINTS: Final = ContextVar("_WITHOUT_SAVEPOINTS", default=False)
# Their login lacks a right, as an observer's may: the next reading would fail in the same way.
_FAILED_ONCE: Final[WeakSet[asyncpg.Connection]] = WeakSet()


class _PartFailedError(Exception):
    """A part failed that had no savepoint: the transaction is lost."""


async def in_parts(connection: asyncpg.Connection, read: Callable[[], Awaitable[T]]) -> T:
    """Call `read`, which begins a transaction of its own and reads `part`s in it.

    It is called with no savepoint first, and once more with one for each part if any of them fails.
    """
    if connection not in _FAILED_ONCE:
        token = _WITHOUT_SAVEPOINTS.set(True)
        try:
            return await read()
        except _PartFailedError:
            _FAILED_ONCE.add(connection)
        finally:
            _WITHOUT_SAVEPOINTS.reset(token)
    return await read()


async def part(
    connection: asyncpg.Connection | None, what: str, read: Callable[[], Awaitable[T]]
) -> T | Missing:
    """Read one part in a savepoint of the caller's transaction."""
    if connection is None or connection.is_closed():
        return _away(what, "no connection")
    if _WITHOUT_SAVEPOINTS.get():
        try:
            return await read()
        except DATABASE_FAILURES as error:
            raise _PartFailedError from error
    try:
        async with connection.transaction():
            return await read()
    except DATABASE_FAILURES as error:
        return database_missing(what, error)


def database_missing(what: str, error: BaseException) -> Missing:
    """Say why the database did not give a part."""
    detail = str(error) or type(error).__name__
    if isinstance(error, asyncpg.QueryCanceledError | TimeoutError):
        how = "again when the database is less busy, or for fewer orders"
        return Missing(what, Cause.TIMED_OUT, str(error) or "no answer in time", how)
    cause = cause_of_code(failure_code(error, "database"))
    if cause is Cause.PERMISSION_DENIED:
        how = "grant what `relay check` names, or ask as relay_operator"
        return Missing(what, cause, detail, how)
    if isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError):
        how = "relay migrate --verify; flow.*.columns in the settings"
        return Missing(what, Cause.DATABASE_REFUSES, detail, how)
    if cause is Cause.DATABASE_REFUSES:
        return Missing(what, cause, detail, "fix what the error says, then again")
    return _away(what, detail)


def _away(what: str, detail: str) -> Missing:
    return Missing(what, Cause.DATABASE_UNREACHABLE, detail, "bring the database back, then again")


def broker_missing(what: str, error: BaseException) -> Missing:
    """Say why the broker did not give a part."""
    detail = str(error) or type(error).__name__
    if isinstance(error, DecoderUnavailableError):
        return Missing(what, Cause.REGISTRY_UNREACHABLE, detail, error.hint)
    if isinstance(error, UnsupportedCodecError):
        return Missing(
            what, Cause.CODEC_MISSING, detail, "relay quarantine list --held-for unreadable"
        )
    if cause_of_code(failure_code(error, "broker")) is Cause.PERMISSION_DENIED:
        how = "allow Describe and Read on topics and groups (`relay check` names the ACLs)"
        hint = error.hint if isinstance(error, KafkaRefusedError) else how
        return Missing(what, Cause.PERMISSION_DENIED, detail, hint)
    if isinstance(error, KafkaRefusedError):
        return Missing(what, Cause.BROKER_UNREACHABLE, detail, error.hint)
    return Missing(what, Cause.BROKER_UNREACHABLE, detail, "bring the broker back, then again")
