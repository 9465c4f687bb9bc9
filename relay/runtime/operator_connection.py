"""The connection that a person's decisions are made on.

Invariant: to the primary and to this program's schema; a login that may not act is told so, and
which role it needs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from relay.runtime.database import connect
from relay.runtime.migrations import require_schema

_SETTINGS: Final = {
    # Selections are many optional conditions: only a plan for the values at hand uses an index.
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
}


class NotPermittedError(Exception):
    """This login may not do that; the message is the database's own."""

    hint = "it needs the role relay_operator: GRANT relay_operator TO <login>"


@asynccontextmanager
async def operator_connection(dsn: str | None, what: str) -> AsyncIterator[asyncpg.Connection]:
    """Open a connection for `what`, its application name behind `relay-`.

    Raises:
        NotPermittedError: a statement inside needs relay_operator.
        DatabaseError, SchemaVersionError: there is no such database, or none of this version.
    """
    connection = await connect(dsn, f"relay-{what}", server_settings=_SETTINGS)
    try:
        await require_schema(connection)
        yield connection
    except asyncpg.InsufficientPrivilegeError as error:
        raise NotPermittedError(str(error)) from error
    finally:
        connection.terminate()
