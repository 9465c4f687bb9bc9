"""Every hop: opens connections to PostgreSQL, and says in typed errors why one cannot be had.

Invariant: a caller that needs the primary never gets a standby (a relay that read one would trust a
checkpoint of the past). Whether an error is worth another attempt is told by its type.
"""

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

import asyncpg

CONNECT_TIMEOUT_SECONDS = 10.0

_IN_RECOVERY = "SELECT pg_catalog.pg_is_in_recovery()"


class DatabaseError(Exception):
    """No connection to PostgreSQL; the message says why and what to do next."""


class DatabaseUnreachableError(DatabaseError):
    """Nobody answers, or the server is starting or stopping: worth another attempt."""


class DatabaseRefusedError(DatabaseError):
    """The server refuses: wrong password, no such database, no permission. Somebody must act."""


class NotPrimaryError(DatabaseUnreachableError):
    """The server is a standby; worth another attempt, since a failover may be under way."""


async def connect(
    dsn: str | None,
    application_name: str,
    *,
    require_primary: bool = True,
    timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    command_timeout_seconds: float | None = None,
    server_settings: Mapping[str, str] | None = None,
) -> asyncpg.Connection:
    """Open one connection; without a DSN libpq's variables (`PGHOST`, ...) say where.

    Raises:
        DatabaseUnreachableError: nobody answers within `timeout_seconds`, or it is a standby.
        DatabaseRefusedError: the server refuses the user, the database or the settings.
    """
    settings = {"application_name": application_name, **(server_settings or {})}
    try:
        connection = await asyncpg.connect(
            dsn or None,
            timeout=timeout_seconds,
            command_timeout=command_timeout_seconds,
            server_settings=settings,
            target_session_attrs="primary" if require_primary else None,
        )
    except Exception as error:
        translated = connection_error(error, dsn)
        if translated is None:
            raise
        raise translated from error
    if require_primary:
        await _refuse_standby(connection, dsn, timeout_seconds)
    return connection


async def _refuse_standby(connection: asyncpg.Connection, dsn: str | None, seconds: float) -> None:
    # target_session_attrs believes what the server said at login; a pooler may have said it.
    try:
        if not await connection.fetchval(_IN_RECOVERY, timeout=seconds):
            return
    except Exception as error:
        connection.terminate()
        raise connection_error(error, dsn) or error from error
    connection.terminate()
    raise _not_primary(dsn)


def _not_primary(dsn: str | None) -> NotPrimaryError:
    return NotPrimaryError(
        f"PostgreSQL at {shown_dsn(dsn)} is a standby (pg_is_in_recovery): name the primary, "
        "or all the hosts, in DATABASE_URL"
    )


_AWAY = (
    OSError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.PostgresConnectionError,
    asyncpg.ConnectionDoesNotExistError,
    # What asyncpg raises when the server's last word came between two statements: after
    # pg_terminate_backend on an idle connection, one time in five.
    asyncpg.InternalClientError,
)


def connection_error(error: BaseException, dsn: str | None) -> DatabaseError | None:
    """Return our error for one that asyncpg raised while connecting; None: it is not about that."""
    where = shown_dsn(dsn)
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return _not_primary(dsn)
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return DatabaseUnreachableError(f"PostgreSQL at {where} did not answer in time")
    if isinstance(error, _AWAY):
        return DatabaseUnreachableError(f"PostgreSQL at {where} cannot be reached: {error}")
    if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | ValueError):
        return DatabaseRefusedError(f"PostgreSQL at {where} refuses the connection: {error}")
    return None


def is_connection_loss(error: BaseException) -> bool:
    """Tell whether a statement failed because the connection is gone: reconnect and reread."""
    if isinstance(error, (DatabaseUnreachableError, *_AWAY)):
        return True
    return isinstance(error, asyncpg.InterfaceError) and "closed" in str(error)


def shown_dsn(dsn: str | None) -> str:
    """Return host, port and database of a DSN, without user, password and options."""
    if not dsn:
        return "the server that PGHOST and PGDATABASE name"
    try:
        parts = urlsplit(dsn)
    except ValueError:
        return "DATABASE_URL"
    hosts = parts.netloc.rpartition("@")[2]
    return f"{hosts or 'the local socket'}{parts.path}"
