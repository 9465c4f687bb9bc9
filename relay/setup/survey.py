"""Setup: what the user's database holds: tables, their columns and keys, the status words in use.

Invariant: reads the catalog, and of one table a bounded number of rows within a bounded time;
writes nothing. Names come back quoted by the server, as `to_regclass` takes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

WORDS_AT_MOST: Final = 40
_ROWS_LOOKED_AT: Final = 100_000
_AT_MOST: Final = "SET LOCAL statement_timeout = '10s'"


@dataclass(frozen=True, slots=True)
class ColumnSeen:
    """A column.

    Attributes:
        quoted: as SQL writes its name.
        type_name: under its domain, without a length, as `character varying`.
        kind: S text, N number, D time, E enum, U and others: PostgreSQL's category of the type.
        default: the literal text of the default, as `new`; None: there is none, or no literal.
        labels: of an enum, in its order.
        is_unique: a unique index is on it alone.
    """

    name: str
    quoted: str
    type_name: str
    kind: str
    default: str | None
    labels: tuple[str, ...]
    is_unique: bool


@dataclass(frozen=True, slots=True)
class TableSeen:
    """A table.

    Attributes:
        name: schema.table, quoted where it must be.
        bare_name: the table's own name, not quoted.
        key: the column of its primary key, when it has one of one column.
        rows: the planner's estimate; -1: never counted.
        references: how many foreign keys of other tables point to it.
        owner: the role, and whether it can log in and is no superuser.
        checks: its CHECK constraints.
    """

    name: str
    bare_name: str
    key: str | None
    rows: int
    references: int
    owner: str
    owner_is_login: bool
    columns: tuple[ColumnSeen, ...]
    checks: tuple[str, ...]

    def column(self, name: str) -> ColumnSeen | None:
        """Find a column by its name."""
        return next((one for one in self.columns if one.name == name), None)


_TABLES: Final = """
SELECT c.oid, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name,
       c.relname::text AS bare_name, c.reltuples::bigint AS rows,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       (SELECT r.rolcanlogin AND NOT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.oid = c.relowner)
           AS owner_is_login,
       (SELECT a.attname::text FROM pg_catalog.pg_index i
          JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
         WHERE i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1) AS key,
       (SELECT count(DISTINCT f.conrelid)::int FROM pg_catalog.pg_constraint f
         WHERE f.confrelid = c.oid AND f.contype = 'f' AND f.conrelid <> c.oid) AS references,
       ARRAY(SELECT pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k
              WHERE k.conrelid = c.oid AND k.contype = 'c') AS checks
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND n.nspname NOT IN ('relay', 'information_schema') AND n.nspname !~ '^pg_'
 ORDER BY name
"""

_COLUMNS: Final = """
WITH RECURSIVE types AS (
    SELECT a.attrelid, a.attnum, a.atttypid AS type
      FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
     UNION ALL
    SELECT s.attrelid, s.attnum, t.typbasetype
      FROM types s JOIN pg_catalog.pg_type t ON t.oid = s.type WHERE t.typtype = 'd'
)
SELECT s.attrelid AS oid, a.attname::text AS name, pg_catalog.quote_ident(a.attname) AS quoted,
       pg_catalog.format_type(t.oid, NULL) AS type_name, t.typcategory::text AS kind,
       (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef d
         WHERE d.adrelid = s.attrelid AND d.adnum = s.attnum) AS default,
       ARRAY(SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid
              ORDER BY e.enumsortorder) AS labels,
       EXISTS (SELECT FROM pg_catalog.pg_index i
                WHERE i.indrelid = s.attrelid AND i.indkey[0] = s.attnum AND i.indnkeyatts = 1
                  AND i.indisunique AND i.indpred IS NULL) AS is_unique
  FROM types s
  JOIN pg_catalog.pg_type t ON t.oid = s.type AND t.typtype <> 'd'
  JOIN pg_catalog.pg_attribute a ON a.attrelid = s.attrelid AND a.attnum = s.attnum
 ORDER BY s.attrelid, s.attnum
"""


async def tables(connection: asyncpg.Connection) -> list[TableSeen]:
    """Return the user's tables, in the order of their names."""
    rows = await connection.fetch(_TABLES)
    columns: dict[int, list[ColumnSeen]] = {}
    for row in await connection.fetch(_COLUMNS, [one["oid"] for one in rows]):
        columns.setdefault(row["oid"], []).append(_column(row))
    return [
        TableSeen(
            name=row["name"],
            bare_name=row["bare_name"],
            key=row["key"],
            rows=row["rows"],
            references=row["references"],
            owner=row["owner"],
            owner_is_login=row["owner_is_login"],
            columns=tuple(columns.get(row["oid"], ())),
            checks=tuple(row["checks"]),
        )
        for row in rows
    ]


def _column(row: asyncpg.Record) -> ColumnSeen:
    return ColumnSeen(
        row["name"],
        row["quoted"],
        row["type_name"],
        row["kind"],
        _literal(row["default"]),
        tuple(row["labels"]),
        row["is_unique"],
    )


def _literal(expression: str | None) -> str | None:
    """Return the text of a default such as `'new'::character varying`."""
    if expression is None or not expression.startswith("'"):
        return None
    body, _, cast = expression[1:].rpartition("'")
    return body.replace("''", "'") if cast == "" or cast.startswith("::") else None


async def words_in_use(
    connection: asyncpg.Connection, table: TableSeen, column: ColumnSeen
) -> list[str]:
    """Return the column's values among the newest rows, the most frequent first.

    Raises:
        asyncpg.QueryCanceledError: it takes too long.
        asyncpg.InsufficientPrivilegeError: this login may not read the table.
    """
    key = None if table.key is None else table.column(table.key)
    newest = "" if key is None else f"ORDER BY {key.quoted} DESC"
    query = f"""
        SELECT o.word FROM (SELECT {column.quoted}::text AS word FROM {table.name}
                             {newest} LIMIT {_ROWS_LOOKED_AT}) AS o
         WHERE o.word IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {WORDS_AT_MOST}
    """  # noqa: S608 - identifiers that the server quoted
    async with connection.transaction():
        await connection.execute(_AT_MOST)
        return [row["word"] for row in await connection.fetch(query)]


async def types_in_use(connection: asyncpg.Connection, table: TableSeen, column: str) -> list[str]:
    """Return the values of an existing outbox table's type column."""
    found = table.column(column)
    return [] if found is None else await words_in_use(connection, table, found)
