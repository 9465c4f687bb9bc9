"""Hops 1, 2 and 5: whether something on the way to PostgreSQL breaks what the services rely on.

Invariant: told by what it does, not by its name. A session setting made on one connection must stay
with it while another works, and what a connection sets at its start must hold. PgBouncer's
transaction and statement modes break the first. Its session mode breaks neither, since nothing but
a name stands in the startup packet, where it refuses or drops what it does not know.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import asyncpg

from relay.runtime.database import DATABASE_FAILURES, DatabaseError

# The services pin their plans so: a generic plan of the window's query takes seconds.
STARTUP: Final = {"plan_cache_mode": "force_custom_plan"}

_MINE: Final = "SELECT current_setting('relay.session_token', true)"
_PLANS: Final = "SELECT current_setting('plan_cache_mode')"

# A prepared statement that is another connection's or nobody's, a BEGIN that is refused.
_SHARING: Final = (
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
)

Connect = Callable[[Mapping[str, str]], Awaitable[asyncpg.Connection]]


@dataclass(frozen=True, slots=True)
class PoolerFacts:
    """What two connections saw.

    Attributes:
        shared: how sessions turned out to be shared; None: each connection kept its own.
        startup: why what a connection asks for at its start does not hold; None: it does.
        untried: why it could not be tried; None: it was.
    """

    shared: str | None = None
    startup: str | None = None
    untried: str | None = None


async def gather_pooler(connection: asyncpg.Connection, connect: Connect) -> PoolerFacts:
    """Try it, with a second connection that `connect` opens with the settings it is given."""
    token = secrets.token_hex(8)
    startup = None
    try:
        other = await connect(STARTUP)
    except DatabaseError as error:
        startup, other = str(error), None
    try:
        other = other or await connect({})
        if startup is None and await _plans(other) != STARTUP["plan_cache_mode"]:
            startup = "they are ignored"
        shared = await _shared(connection, other, token)
    except _SHARING as error:
        shared = str(error).splitlines()[0]
    except DATABASE_FAILURES as error:
        return PoolerFacts(startup=startup, untried=str(error))
    finally:
        if other is not None:
            other.terminate()
        with suppress(*DATABASE_FAILURES):
            await connection.execute("RESET relay.session_token")
    return PoolerFacts(shared, startup)


async def _plans(connection: asyncpg.Connection) -> str:
    found: str = await connection.fetchval(_PLANS)
    return found


async def _shared(
    connection: asyncpg.Connection, other: asyncpg.Connection, token: str
) -> str | None:
    # Without arguments, and so without a prepared statement.
    await connection.execute(f"SET relay.session_token = '{token}'")
    # In a transaction it keeps whatever server connection it was given: perhaps the first one's.
    await other.execute("BEGIN")
    if await other.fetchval(_MINE) == token:
        return "a setting of one connection shows in another"
    if await connection.fetchval(_MINE) != token:
        return "a connection loses its settings while another works"
    await other.execute("ROLLBACK")
    return None
