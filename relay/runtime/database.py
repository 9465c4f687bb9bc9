"""Opens connections to PostgreSQL, and says in typed errors why one cannot be had.

Invariant: a caller that needs the primary never gets a standby (a relay that read one would trust a
checkpoint of the past). Whether an error is worth another attempt is told by its type.
"""

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg

from relay.runtime.client_failure import ClientFailure
from relay.runtime.database_url import (
    NOT_A_URL,
    DatabaseUrl,
    DatabaseUrlError,
    read_database_url,
)
from relay.runtime.session_settings import apply_session_settings
from relay.runtime.times import read_any_time
from relay.runtime.tls import TlsProblem, said_by_tls, tls_problem

CONNECT_TIMEOUT_SECONDS = 10.0
_UNSHOWN = "the server that DATABASE_URL names"

_IN_RECOVERY = "SELECT pg_catalog.pg_is_in_recovery()"


class DatabaseError(Exception):
    """No connection to PostgreSQL; the message says why and what to do next."""


class DatabaseUnreachableError(DatabaseError):
    """Nobody answers, or the server is starting or stopping: worth another attempt."""


class DatabaseRefusedError(DatabaseError):
    """The server refuses: wrong password, no such database, no permission. Somebody must act."""

    failure = ClientFailure.SETTINGS_REFUSED


_TLS_FIXES = {
    TlsProblem.UNTRUSTED: "name the authority's certificates: sslrootcert=FILE in DATABASE_URL",
    TlsProblem.EXPIRED: "renew the server's certificate",
    TlsProblem.NOT_YET: "correct the clock, or the server's certificate",
    TlsProblem.OTHER_HOST: "use the host name that is in the certificate in DATABASE_URL",
    TlsProblem.CLIENT_NEEDED: "add sslcert=FILE and sslkey=FILE to DATABASE_URL",
    TlsProblem.CLIENT_REFUSED: "correct sslcert and sslkey in DATABASE_URL, or the server's "
    "ssl_ca_file",
    TlsProblem.NO_TLS: "turn TLS on in the server, or take sslmode out of DATABASE_URL",
    TlsProblem.NOTHING_IN_COMMON: "allow TLS 1.2 or 1.3 in the server",
}


class NotPrimaryError(DatabaseUnreachableError):
    """The server is a standby; worth another attempt, since a failover may be under way."""

    failure = ClientFailure.STANDBY


DRIVER_FAILURES: Final = (
    DatabaseError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # How asyncpg notices, between two statements, that it was cut off.
    asyncpg.InternalClientError,
)
"""What PostgreSQL, or its driver, says."""

DATABASE_FAILURES: Final = (*DRIVER_FAILURES, OSError, TimeoutError)
"""Every way in which a database, or the way to it, fails; any other error is a fault of ours."""


async def connect(
    dsn: str | None,
    application_name: str,
    *,
    require_primary: bool = True,
    timeout_seconds: float | None = None,
    command_timeout_seconds: float | None = None,
    server_settings: Mapping[str, str] | None = None,
) -> asyncpg.Connection:
    """Open one connection; without a DSN libpq's variables (`PGHOST`, ...) say where.

    It has the session settings of every connection of ours, and `server_settings` beside them.
    `timeout_seconds` is at most what DATABASE_URL's connect_timeout allows, which else is 10 s.

    Raises:
        DatabaseUnreachableError: nobody answers within that time, or it is a standby.
        DatabaseRefusedError: the server refuses the user, the database or the settings.
    """
    try:
        url = read_database_url(dsn, os.environ)
        seconds = connect_seconds(url, timeout_seconds)
        connection = await asyncpg.connect(
            url.dsn,
            servicefile=url.servicefile,
            timeout=seconds,
            command_timeout=command_timeout_seconds,
            server_settings=_startup(url, application_name),
            target_session_attrs="primary" if require_primary else None,
        )
    except Exception as error:
        translated = connection_error(error, dsn)
        if translated is None:
            raise
        # What the driver could not parse may be a part of the password: it is in no traceback.
        raise translated from (None if _is_unparsed(error) else error)
    _keep_alive(connection, url.keepalive)
    try:
        await apply_session_settings(connection, server_settings or {}, timeout_seconds=seconds)
        await read_any_time(connection)
        if require_primary:
            await _refuse_standby(connection, dsn, seconds)
    except BaseException as error:
        # Cancelled, too: nobody else knows of this connection.
        connection.terminate()
        ours = isinstance(error, DatabaseError)
        translated = None if ours else connection_error(error, dsn)
        if translated is None:
            raise
        raise translated from error
    return connection


def connect_seconds(url: DatabaseUrl, wanted: float | None) -> float:
    """Return how long an attempt may take: what the caller and the URL say, the shorter of them."""
    if url.timeout_seconds is None:
        return CONNECT_TIMEOUT_SECONDS if wanted is None else wanted
    return url.timeout_seconds if wanted is None else min(wanted, url.timeout_seconds)


def create_pool(
    dsn: str | None,
    application_name: str,
    *,
    connections: int,
    timeout_seconds: float,
    command_timeout_seconds: float,
    server_settings: Mapping[str, str],
    reset: Any,
) -> asyncpg.Pool:
    """Make a pool of connections to the primary, with the session settings of all of ours.

    It connects when it is first used. `reset` is called with each connection that comes back.

    Raises:
        DatabaseRefusedError: DATABASE_URL cannot be used.
    """
    try:
        url = read_database_url(dsn, os.environ)
    except DatabaseUrlError as error:
        raise DatabaseRefusedError(str(error)) from None

    async def prepare(connection: asyncpg.Connection) -> None:
        _keep_alive(connection, url.keepalive)
        await apply_session_settings(connection, server_settings, timeout_seconds=timeout_seconds)

    return asyncpg.create_pool(
        url.dsn,
        servicefile=url.servicefile,
        min_size=0,
        max_size=connections,
        timeout=connect_seconds(url, timeout_seconds),
        command_timeout=command_timeout_seconds,
        init=prepare,
        reset=reset,
        server_settings=_startup(url, application_name),
        target_session_attrs="primary",
    )


def _startup(url: DatabaseUrl, application_name: str) -> dict[str, str]:
    # No more than this: a pooler refuses or drops what else stands in the startup packet.
    return {"application_name": application_name} | (
        {"options": url.options} if url.options else {}
    )


_KEEPALIVE: Final = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
}


def _keep_alive(connection: asyncpg.Connection, wanted: Mapping[str, int]) -> None:
    """Do what libpq does: TCP keepalives are on, with the system's times where none is given."""
    transport = getattr(connection, "_transport", None)
    opened = transport.get_extra_info("socket") if transport is not None else None
    if opened is None or opened.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # A system without one of these settings keeps its own times.
    with suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, wanted.get("keepalives", 1))
        for word, name in _KEEPALIVE.items():
            if wanted.get(word) and hasattr(socket, name):
                opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), wanted[word])


async def _refuse_standby(connection: asyncpg.Connection, dsn: str | None, seconds: float) -> None:
    # target_session_attrs believes what the server said at login; a pooler may have said it.
    if await connection.fetchval(_IN_RECOVERY, timeout=seconds):
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


# One SQLSTATE (28000) for all of these; which of them it is, the server says in its own language.
_LOGIN_FIX = (
    "correct the user in DATABASE_URL, or let it in by the server's pg_hba.conf; where that wants "
    "TLS, add sslmode=verify-full&sslrootcert=FILE; where it wants a client certificate, add "
    "sslcert=FILE and sslkey=FILE"
)


def connection_error(error: BaseException, dsn: str | None) -> DatabaseError | None:
    """Return our error for one that asyncpg raised while connecting; None: it is not about that."""
    where = shown_dsn(dsn)
    refused = _refusal(error, dsn)
    if refused is not None:
        return DatabaseRefusedError(f"PostgreSQL at {where} cannot be used: {refused}")
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return _not_primary(dsn)
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return DatabaseUnreachableError(f"PostgreSQL at {where} did not answer in time")
    if isinstance(error, _AWAY):
        return DatabaseUnreachableError(f"PostgreSQL at {where} cannot be reached: {error}")
    if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | ValueError):
        return DatabaseRefusedError(f"PostgreSQL at {where} refuses the connection: {error}")
    return None


def _is_unparsed(error: BaseException) -> bool:
    return isinstance(error, ValueError) and not isinstance(error, asyncpg.InterfaceError | OSError)


def _refusal(error: BaseException, dsn: str | None) -> str | None:
    """Return what is wrong and how to mend it, for what no waiting mends."""
    if _is_unparsed(error):
        return str(error) if isinstance(error, DatabaseUrlError) else NOT_A_URL
    said = str(error)
    match error:
        case asyncpg.InvalidPasswordError():
            return f"{said}: correct user and password in DATABASE_URL (or PGPASSFILE)"
        case asyncpg.InvalidAuthorizationSpecificationError():
            return f"{said}: {_LOGIN_FIX}"
        case asyncpg.InvalidCatalogNameError():
            return f"{said}: correct its name in DATABASE_URL, or create it"
        case FileNotFoundError() | PermissionError() if file := _unreadable_file(dsn):
            return f"{file} cannot be read: correct the path, or its permissions"
    return _tls_refusal(error)


def _tls_refusal(error: BaseException) -> str | None:
    no_tls = isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error)
    problem = TlsProblem.NO_TLS if no_tls else tls_problem(error)
    if problem is None:
        return None
    said = said_by_tls(error)
    return f"{problem}{f' ({said})' if said else ''}: {_TLS_FIXES[problem]}"


_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")


def _unreadable_file(dsn: str | None) -> str | None:
    """Return the file that the settings name and that cannot be read; None: it is the socket."""
    try:
        named = parse_qs(urlsplit(dsn or "").query)
    except ValueError:
        return None
    for name in _FILES:
        file = named.get(name, [os.environ.get(f"PG{name.upper()}", "")])[-1]
        if file and not os.access(file, os.R_OK):
            return f"{name} {file}"
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
        return _UNSHOWN
    # A keyword string has no scheme; an @ further on is a password that was not percent-encoded.
    if (
        parts.scheme not in ("postgresql", "postgres")
        or "@" in parts.path + parts.query + parts.fragment
    ):
        return _UNSHOWN
    hosts = parts.netloc.rpartition("@")[2]
    return f"{hosts or 'the local socket'}{parts.path}"
