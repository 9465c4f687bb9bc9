"""Hops 1 to 5: may every role do on the user's own tables what it will have to do?

Invariant: asked of the roles and of the logins that have them, before any service runs; reads the
catalogs only. A right that a login has by other means counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import asyncpg

from relay.diagnose.check.result import Result, failed, ok, warning
from relay.orders.rights import ColumnRight, column_rights
from relay.runtime.flow import Flow

_NAME: Final = "orders.grants"
_SHOWN: Final = 4

# Of the role itself, and of each login that has it. A view has no system columns.
_LACKING: Final = """
SELECT u.rolname::text AS username, u.rolname = $1 AS is_role,
       ARRAY(SELECT pg_catalog.quote_ident(c.name) FROM pg_catalog.unnest($4::text[]) AS c(name)
                JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attname = c.name
              WHERE NOT pg_catalog.has_column_privilege(u.oid, t.oid, a.attnum, $2)) AS lacking,
       pg_catalog.has_schema_privilege(u.oid, t.relnamespace, 'USAGE') AS may_use_schema,
       t.oid::pg_catalog.regclass::text AS table_name,
       (SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_namespace n
         WHERE n.oid = t.relnamespace) AS schema_name
  FROM pg_catalog.pg_class t, pg_catalog.pg_roles u
 WHERE t.oid = pg_catalog.to_regclass($3)
   AND (u.rolname = $1
        OR u.rolcanlogin AND NOT u.rolsuper
           AND pg_catalog.pg_has_role(u.oid, $1, 'MEMBER')
           AND pg_catalog.has_database_privilege(u.oid, pg_catalog.current_database(), 'CONNECT'))
"""


async def check_table_rights(connection: asyncpg.Connection, flow: Flow) -> list[Result]:
    """Return one result for each role that the flow needs on the user's tables."""
    by_role: dict[str, list[tuple[ColumnRight, Sequence[Mapping[str, Any]]]]] = {}
    for right in column_rights(flow):
        rows = await connection.fetch(
            _LACKING, right.role, right.privilege, right.table, list(right.columns)
        )
        by_role.setdefault(right.role, []).append((right, [dict(row) for row in rows]))
    return [result for role, found in by_role.items() for result in _judge(role, found)]


def _judge(
    role: str, found: Sequence[tuple[ColumnRight, Sequence[Mapping[str, Any]]]]
) -> Iterator[Result]:
    name = f"{_NAME}:{role}"
    lacks: list[str] = []
    grants: list[str] = []
    refused: set[str] = set()
    members = False
    for right, rows in found:
        members = members or any(not row["is_role"] for row in rows)
        for row in rows:
            if not row["lacking"] and row["may_use_schema"]:
                continue
            if row["is_role"]:
                lacks.append(_lack(right, row))
                grants.extend(_grants(right, row))
            else:
                refused.add(row["username"])
    if not any(rows for _, rows in found):
        return  # there is no such table: another check says so
    if not lacks:
        yield ok(name, "may do what it has to on the orders' tables")
    elif members and not refused:
        yield ok(name, "its logins have by other means what they need on the orders' tables")
    elif refused:
        few = ", ".join(sorted(refused)[:_SHOWN])
        yield failed(name, f"{few}: {'; '.join(lacks)}", " ".join(grants))
    else:
        yield warning(name, f"{'; '.join(lacks)}; nobody has this role yet", " ".join(grants))


def _lack(right: ColumnRight, row: Mapping[str, Any]) -> str:
    if not row["may_use_schema"]:
        return f"may not use the schema {row['schema_name']}"
    return f"may not {right.privilege} {', '.join(row['lacking'])} of {row['table_name']}"


def _grants(right: ColumnRight, row: Mapping[str, Any]) -> Iterator[str]:
    if not row["may_use_schema"]:
        yield f"GRANT USAGE ON SCHEMA {row['schema_name']} TO {right.role};"
    if row["lacking"]:
        listed = ", ".join(row["lacking"])
        yield f"GRANT {right.privilege} ({listed}) ON {row['table_name']} TO {right.role};"
