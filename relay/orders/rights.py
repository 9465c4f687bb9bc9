"""Hops 1 to 5: what each of the relay's roles must be allowed on the user's own tables.

Invariant: one list, from which `relay init` and `relay migrate --grants` print the GRANTs, and by
which `relay check` judges every role before anything runs. Least privilege: the status columns are
the confirmation consumer's alone, and only with `apply = "columns"`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from relay.orders.catalog import FlowTableError
from relay.orders.functions import TEXT_TYPE, find_function, signature_of
from relay.runtime.flow import ApplyColumns, ApplyFunction, Flow

# Which transaction wrote an order tells what happened to its event, where it has none.
_WATCH_SYSTEM: Final = ("xmin",)
# With ctid the consumer need not look up again what it has locked.
_CONFIRM_SYSTEM: Final = ("ctid", "xmin")
_HISTORY: Final = ("order_id", "old_status", "new_status", "reason", "event_id")


@dataclass(frozen=True, slots=True)
class ColumnRight:
    """A role's right on columns of one of the user's tables.

    Attributes:
        privilege: SELECT, UPDATE or INSERT.
        table: as the settings name it.
    """

    role: str
    privilege: str
    table: str
    columns: tuple[str, ...]


def column_rights(flow: Flow) -> list[ColumnRight]:
    """Return every right that the flow's roles need on the user's tables, beside those of ours."""
    names = flow.orders_columns
    if names is None:
        return []
    rights = [
        ColumnRight(role, "SELECT", names.table, _looked_at(names, _WATCH_SYSTEM))
        for role in ("relay_publisher", "relay_operator", "relay_observer")
    ]
    rights.append(
        ColumnRight("relay_confirmer", "SELECT", names.table, _looked_at(names, _CONFIRM_SYSTEM))
    )
    if isinstance(flow.apply, ApplyColumns):
        rights.append(ColumnRight("relay_confirmer", "UPDATE", names.table, _written(names)))
        if names.history_table is not None:
            rights.append(ColumnRight("relay_confirmer", "INSERT", names.history_table, _HISTORY))
    return rights


def _looked_at(names: ApplyColumns, system: Sequence[str]) -> tuple[str, ...]:
    named = (
        names.key_column,
        names.status_column,
        names.submitted_at_column,
        names.version_column,
        names.returned_at_column,
        names.reason_column,
        *names.lookup_columns,
    )
    return (*dict.fromkeys(one for one in named if one is not None), *system)


def _written(names: ApplyColumns) -> tuple[str, ...]:
    named = (
        names.status_column,
        names.version_column,
        names.returned_at_column,
        names.reason_column,
    )
    return tuple(one for one in named if one is not None)


_QUOTED: Final = """
SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name,
       pg_catalog.quote_ident(n.nspname) AS schema,
       ARRAY(SELECT pg_catalog.quote_ident(u) FROM pg_catalog.unnest($2::text[]) AS u) AS columns,
       c.relkind <> 'v' AS has_system_columns
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = pg_catalog.to_regclass($1)
"""
_PUBLIC: Final = "public"


async def grant_statements(connection: asyncpg.Connection, flow: Flow) -> list[str]:
    """Return the GRANTs, with names quoted by the server; those of a missing table are left out."""
    said: dict[str, None] = {}
    for right in column_rights(flow):
        found = await connection.fetchrow(_QUOTED, right.table, list(right.columns))
        if found is None:
            continue
        if found["schema"] != _PUBLIC:
            said[f"GRANT USAGE ON SCHEMA {found['schema']} TO {right.role};"] = None
        has_system = found["has_system_columns"]
        listed = ", ".join(c for c in found["columns"] if has_system or c not in _CONFIRM_SYSTEM)
        said[f"GRANT {right.privilege} ({listed}) ON {found['name']} TO {right.role};"] = None
    async for one in _function_grants(connection, flow):
        said[one] = None
    return list(said)


_FUNCTION: Final = """
SELECT p.oid::pg_catalog.regprocedure::text AS name, pg_catalog.quote_ident(n.nspname) AS schema
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE p.oid = pg_catalog.to_regprocedure($1)
"""
APPLY_ARGUMENTS: Final = ("text", "text", "text", "text", "json")
"""What the flow's function is called with: order_id, status, reason, return_id, payload."""


async def _function_grants(connection: asyncpg.Connection, flow: Flow) -> AsyncIterator[str]:
    if not isinstance(flow.apply, ApplyFunction):
        return
    signature = signature_of(flow.apply.function, APPLY_ARGUMENTS)
    found = await connection.fetchrow(_FUNCTION, signature)
    if found is None:
        return
    if found["schema"] != _PUBLIC:
        yield f"GRANT USAGE ON SCHEMA {found['schema']} TO relay_confirmer;"
    yield f"GRANT EXECUTE ON FUNCTION {found['name']} TO relay_confirmer;"


async def function_name(connection: asyncpg.Connection, function: str) -> str:
    """Return the quoted name of the flow's function, which must take `APPLY_ARGUMENTS`.

    Raises:
        FlowTableError: there is no such function.
    """
    signature, named = signature_of(function, APPLY_ARGUMENTS), f"function = {function!r}"
    found = await find_function(connection, signature, TEXT_TYPE, named)
    if found is None or found.returns_set:
        raise FlowTableError(f"{named}: there is no function {signature} that returns text")
    return found.name
