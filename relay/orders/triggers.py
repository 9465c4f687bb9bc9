"""Hop 5: which triggers and rules of the orders table may answer for a status that did not stand.

Invariant: reads the catalog only; names what fires at that moment, and blames none of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

_NAMED_AT_MOST: Final = 3

# tgtype: 1 row, 2 before, 16 update, 64 instead of. Those of a partition alone fire, too. What
# names the status column stands first.
_NAMES: Final = """
WITH RECURSIVE tables AS (
    SELECT pg_catalog.to_regclass($1)::oid AS oid
     UNION
    SELECT i.inhrelid FROM tables t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid
), found AS (
    SELECT DISTINCT 'trigger ' || t.tgname || ' ('
           || CASE WHEN t.tgtype & 2 <> 0 THEN 'BEFORE' WHEN t.tgtype & 64 <> 0 THEN 'INSTEAD OF'
                   ELSE 'AFTER' END
           || ' UPDATE, function ' || t.tgfoid::pg_catalog.regproc || ')' AS name,
           pg_catalog.strpos(p.prosrc, $2) > 0 AS names_status
      FROM tables r
      JOIN pg_catalog.pg_trigger t ON t.tgrelid = r.oid
      JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
     WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 16 <> 0
       AND (t.tgtype & 66 <> 0) = $3
     UNION ALL
    SELECT 'rule ' || w.rulename, true
      FROM tables r JOIN pg_catalog.pg_rewrite w ON w.ev_class = r.oid
     WHERE w.ev_type = '2' AND $3
)
SELECT name FROM found ORDER BY names_status DESC, name
"""


async def answerable(
    connection: asyncpg.Connection, table: str, status_column: str, *, at_once: bool
) -> Sequence[str]:
    """Return triggers and rules that can keep an UPDATE from standing.

    Args:
        connection: any role.
        table: as the catalog writes it.
        status_column: its name, unquoted or as the catalog writes it.
        at_once: those that change the row while it is written; else those that run after it.
    """
    rows = await connection.fetch(_NAMES, table, status_column, at_once)
    names = [row["name"] for row in rows]
    more = len(names) - _NAMED_AT_MOST
    return [*names[:_NAMED_AT_MOST], f"{more} more"] if more > 0 else names
