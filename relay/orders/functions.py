"""Every hop: a function of the shop's own, as the settings name it.

Invariant: the database is read, and never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from relay.orders.catalog import FlowTableError

JSON_TYPES: Final = ("pg_catalog.json", "pg_catalog.jsonb")
TEXT_TYPE: Final = ("pg_catalog.text",)

_FUNCTION: Final = """
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname) AS name,
       p.proretset AS returns_set
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE p.oid = pg_catalog.to_regprocedure($1)
   AND p.prorettype = ANY ($2::text[]::pg_catalog.regtype[])
"""


@dataclass(frozen=True, slots=True)
class FunctionSeen:
    """A function that is there.

    Attributes:
        name: with its schema, quoted by the server.
    """

    name: str
    returns_set: bool


def signature_of(name: str, arguments: Sequence[str]) -> str:
    """Return a function's name with the types of its arguments."""
    return f"{name}({', '.join(arguments)})"


async def find_function(
    connection: asyncpg.Connection, signature: str, types: Sequence[str], named: str
) -> FunctionSeen | None:
    """Return the function of a signature; None: there is none that returns one of these types.

    Args:
        connection: that sees the shop's schemas.
        signature: from `signature_of`.
        types: with their schema.
        named: what an error calls it: the setting or the option.

    Raises:
        FlowTableError: what was named cannot be a function's name.
    """
    try:
        found = await connection.fetchrow(_FUNCTION, signature, list(types))
    except (asyncpg.SyntaxOrAccessError, asyncpg.DataError) as error:
        raise FlowTableError(f"{named} is no function's name: {error}") from error
    return None if found is None else FunctionSeen(*found)
