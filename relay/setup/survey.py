"""Setup: what the user's database holds: tables, their columns and keys, the status words in use.

Invariant: reads the catalog, and of one table a bounded number of rows within a bounded time;
writes nothing. Names come back quoted by the server, as `to_regclass` takes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
        is_unique: a unique index is on it alone; in a partitioned table beside the columns that it
            is divided by, which PostgreSQL demands in each unique index.
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
    """A table, or a view.

    Attributes:
        name: schema.table, quoted where it must be.
        bare_name: the table's own name, not quoted.
        key: the column of its primary key, when it has one of one column; columns that a
            partitioned table is divided by, which PostgreSQL demands in it, do not count.
        rows: the planner's estimate; -1: never counted.
        references: how many foreign keys of other tables point to it.
        owner: the role, and whether it can log in and is no superuser.
        checks: its CHECK constraints.
        primary_key: all its columns.
        divided_by: the columns that a partitioned table is divided by.
        is_view: rows are another table's; only one that is named is looked at.
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
    primary_key: tuple[str, ...] = ()
    divided_by: tuple[str, ...] = ()
    is_view: bool = False

    def column(self, name: str) -> ColumnSeen | None:
        """Find a column by its name."""
        return next((one for one in self.columns if one.name == name), None)


_TABLES: Final = """
SELECT c.oid, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name,
       c.relname::text AS bare_name, c.reltuples::bigint AS rows,
       pg_catalog.pg_get_userbyid(c.relowner)::text AS owner,
       (SELECT r.rolcanlogin AND NOT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.oid = c.relowner)
           AS owner_is_login,
       ARRAY(SELECT a.attname::text FROM pg_catalog.pg_index i
              CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (num, at)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num
              WHERE i.indrelid = c.oid AND i.indisprimary AND k.at <= i.indnkeyatts
              ORDER BY k.at) AS primary_key,
       -- A partition may be divided again.
       ARRAY(SELECT DISTINCT a.attname::text FROM pg_catalog.pg_partition_tree(c.oid) t
               JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = t.relid
               JOIN pg_catalog.pg_attribute a
                 ON a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs::int2[])
             ) AS divided_by,
       ARRAY(SELECT pg_catalog.array_to_json(ARRAY(
                        SELECT a.attname::text
                          FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (num, at)
                          JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num
                         WHERE k.at <= i.indnkeyatts ORDER BY k.at))::text
               FROM pg_catalog.pg_index i
              WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL
                AND i.indexprs IS NULL) AS unique_indexes,
       c.relkind = 'v' AS is_view,
       (SELECT count(DISTINCT f.conrelid)::int FROM pg_catalog.pg_constraint f
         WHERE f.confrelid = c.oid AND f.contype = 'f' AND f.conrelid <> c.oid) AS references,
       ARRAY(SELECT pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k
              WHERE k.conrelid = c.oid AND k.contype = 'c') AS checks
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
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
              ORDER BY e.enumsortorder) AS labels
  FROM types s
  JOIN pg_catalog.pg_type t ON t.oid = s.type AND t.typtype <> 'd'
  JOIN pg_catalog.pg_attribute a ON a.attrelid = s.attrelid AND a.attnum = s.attnum
 ORDER BY s.attrelid, s.attnum
"""


async def tables(connection: asyncpg.Connection) -> list[TableSeen]:
    """Return the user's tables, in the order of their names."""
    rows = await connection.fetch(_TABLES)
    columns: dict[int, list[ColumnSeen]] = {}
    unique = {row["oid"]: _unique(row["unique_indexes"], row["divided_by"]) for row in rows}
    for row in await connection.fetch(_COLUMNS, [one["oid"] for one in rows]):
        found = _column(row, is_unique=row["name"] in unique[row["oid"]])
        columns.setdefault(row["oid"], []).append(found)
    return [
        TableSeen(
            name=row["name"],
            bare_name=row["bare_name"],
            key=_key(row["primary_key"], row["divided_by"]),
            rows=row["rows"],
            references=row["references"],
            owner=row["owner"],
            owner_is_login=row["owner_is_login"],
            columns=tuple(columns.get(row["oid"], ())),
            checks=tuple(row["checks"]),
            primary_key=tuple(row["primary_key"]),
            divided_by=tuple(row["divided_by"]),
            is_view=row["is_view"],
        )
        for row in rows
    ]


def _unique(indexes: Sequence[str], divided_by: Sequence[str]) -> set[str]:
    """Return the columns whose values tell rows apart, as far as an index can say so."""
    found = (json.loads(index) for index in indexes)
    return {first for first, *others in found if set(others) <= set(divided_by)}


def _key(primary_key: Sequence[str], divided_by: Sequence[str]) -> str | None:
    """Return the one column that tells rows apart; None: it takes several, or there is no key."""
    if len(primary_key) == 1:
        return primary_key[0]
    # An index serves a search by its first column.
    own = [one for one in primary_key if one not in divided_by]
    return own[0] if len(own) == 1 and primary_key[0] == own[0] else None


def _column(row: asyncpg.Record, *, is_unique: bool) -> ColumnSeen:
    return ColumnSeen(
        row["name"],
        row["quoted"],
        row["type_name"],
        row["kind"],
        _literal(row["default"]),
        tuple(row["labels"]),
        is_unique,
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
