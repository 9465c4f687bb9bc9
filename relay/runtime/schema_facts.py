"""Setup: says what a database's schema is, fact by fact, and how it differs from what it should be.

Invariant: the expected facts are read from a freshly migrated database and committed beside the
migrations (`schemas/sql/expected.json`; a test compares them), so that `relay migrate --verify`
needs no second database and takes no lock. Daily partitions come and go and are no facts. A fact is
the same on every version of PostgreSQL, however that one writes it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import asyncpg

from relay.runtime.resources import sql_folder

EXPECTED_FILE = "expected.json"

_WHOLE = ("relation ", "function ")

Facts = Mapping[str, str]
"""What is there -> how it is: "column relay.outbox.id" -> "bigint not null ..."."""

# Ours: everything in the schema relay but the daily partitions, and the sample's two tables.
_FACTS = """
WITH ours AS (
    SELECT c.oid, c.relkind, c.relowner, c.relacl, c.relispartition, n.nspname,
           n.nspname || '.' || c.relname AS name
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE (n.nspname = 'relay' OR (n.nspname = 'public'
                                    AND c.relname IN ('orders', 'order_status_history')))
       AND c.relkind IN ('r', 'p', 'v')
       AND (NOT EXISTS (SELECT FROM pg_catalog.pg_inherits
                         WHERE inhrelid = c.oid AND inhparent = to_regclass('relay.outbox'))
            OR c.relname = 'outbox_default')
), functions AS (
    SELECT p.*, concat('relay.', proname, '(', pg_get_function_identity_arguments(p.oid), ')')
                AS name
      FROM pg_catalog.pg_proc p WHERE pronamespace = 'relay'::regnamespace
), acls AS (
    SELECT 'schema relay' AS what, nspacl AS acl FROM pg_catalog.pg_namespace
     WHERE nspname = 'relay'
    UNION ALL SELECT 'table ' || name, relacl FROM ours
    UNION ALL SELECT 'column ' || name || '.' || attname, attacl
      FROM ours JOIN pg_catalog.pg_attribute ON attrelid = ours.oid
     WHERE attacl IS NOT NULL AND NOT attisdropped
    UNION ALL SELECT 'function ' || name, proacl FROM functions
)
SELECT 'owner of schema relay' AS what, nspowner::regrole::text AS how
  FROM pg_catalog.pg_namespace WHERE nspname = 'relay'
UNION ALL
SELECT 'owner of ' || name, relowner::regrole::text FROM ours WHERE nspname = 'relay'
UNION ALL
SELECT 'owner of ' || name, proowner::regrole::text FROM functions
UNION ALL
SELECT 'relation ' || name,
       CASE relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' ELSE 'view' END
  FROM ours
UNION ALL
SELECT 'column ' || name || '.' || attname,
       concat_ws(' ', format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'not null' END,
                 -- A partition says so itself since PostgreSQL 17 only: the parent is asked.
                 CASE WHEN NOT relispartition THEN
                     CASE attidentity WHEN 'a' THEN 'identity always' WHEN 'd' THEN 'identity' END
                 END,
                 'default ' || pg_get_expr(adbin, adrelid))
  FROM ours JOIN pg_catalog.pg_attribute a ON attrelid = ours.oid
       LEFT JOIN pg_catalog.pg_attrdef ON adrelid = attrelid AND adnum = attnum
 WHERE attnum > 0 AND NOT attisdropped
UNION ALL
SELECT 'index ' || name || ': ' || ic.relname,
       pg_get_indexdef(indexrelid) || CASE WHEN indisvalid THEN '' ELSE ' (not valid)' END
  FROM ours JOIN pg_catalog.pg_index ON indrelid = ours.oid
       JOIN pg_catalog.pg_class ic ON ic.oid = indexrelid
UNION ALL
SELECT 'constraint ' || name || ': ' || conname, pg_get_constraintdef(c.oid)
  FROM ours JOIN pg_catalog.pg_constraint c ON conrelid = ours.oid WHERE contype <> 'n'
UNION ALL
SELECT 'trigger ' || name || ': ' || tgname, pg_get_triggerdef(t.oid)
  FROM ours JOIN pg_catalog.pg_trigger t ON tgrelid = ours.oid WHERE NOT tgisinternal
UNION ALL
SELECT 'policy ' || name || ': ' || polname,
       concat(CASE WHEN relrowsecurity THEN 'on' ELSE 'off' END, ' ', polcmd, ' using ',
              pg_get_expr(polqual, polrelid), ' check ', pg_get_expr(polwithcheck, polrelid))
  FROM ours JOIN pg_catalog.pg_class USING (oid) JOIN pg_catalog.pg_policy ON polrelid = ours.oid
UNION ALL
-- Where there is one table only, columns stand without its name since PostgreSQL 16.
SELECT 'view ' || name,
       regexp_replace(regexp_replace(pg_get_viewdef(oid), '\\s+', ' ', 'g'),
                      '(?<!(FROM|JOIN) )\\m\\w+\\.(?=\\w)', '', 'g')
  FROM ours WHERE relkind = 'v'
UNION ALL
SELECT 'sequence ' || seqrelid::regclass, concat('cache ', seqcache, ' increment ', seqincrement)
  FROM ours JOIN pg_catalog.pg_depend ON refobjid = ours.oid AND deptype = 'i'
       JOIN pg_catalog.pg_sequence ON seqrelid = objid
UNION ALL
SELECT 'function ' || name,
       concat_ws(' ', CASE WHEN prosecdef THEN 'security definer' END,
                 -- Quoted where quote_all_identifiers was on when it was made.
                 replace(array_to_string(proconfig, ' '), '"', ''),
                 md5(regexp_replace(prosrc, '\\s+', ' ', 'g')))
  FROM functions
UNION ALL
SELECT 'grant on ' || what || ' to ' || coalesce(r.rolname, 'public'),
       string_agg(DISTINCT privilege_type, ', ' ORDER BY privilege_type)
  FROM acls CROSS JOIN LATERAL aclexplode(acl) x LEFT JOIN pg_catalog.pg_roles r ON r.oid = grantee
 WHERE r.rolname IN ('relay_writer', 'relay_publisher', 'relay_confirmer', 'relay_operator',
                     'relay_observer') OR grantee = 0
 GROUP BY 1
"""


# Names are written out in full only when the path does not lead to them, and in quotes only where
# they need them. A foreign connection reads the same.
_PLAIN_NAMES = """
SET LOCAL search_path = pg_catalog;
SET LOCAL quote_all_identifiers = off;
SET LOCAL standard_conforming_strings = on;
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact that is not as it should be; None: it is not there at all."""

    what: str
    expected: str | None
    found: str | None

    def __str__(self) -> str:
        """Say it in one line."""
        if self.found is None:
            return f"missing: {self.what} ({self.expected})"
        if self.expected is None:
            return f"unexpected: {self.what} ({self.found})"
        return f"different: {self.what}: expected {self.expected}, found {self.found}"


async def read_facts(connection: asyncpg.Connection) -> dict[str, str]:
    """Return what the schema is; everybody may read this."""
    async with connection.transaction(readonly=True):
        await connection.execute(_PLAIN_NAMES)
        rows = await connection.fetch(_FACTS)
    return {row["what"]: _same_for_versions(row["how"]) for row in sorted(rows)}


def _same_for_versions(how: str) -> str:
    # The outbox takes uuidv7 where there is one: PostgreSQL 18.
    return re.sub(r"\buuidv7\(\)", "gen_random_uuid()", how)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the migrations make: without the sample's, and what those add or change."""

    production: Facts
    sample: Facts

    def facts(self, *, sample: bool) -> Facts:
        """Return the facts of one kind of installation."""
        return {**self.production, **self.sample} if sample else self.production

    def as_json(self) -> str:
        """Return the committed file's text."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def load_expected() -> Expected:
    """Return what is committed."""
    return Expected(**json.loads((sql_folder() / EXPECTED_FILE).read_text("utf-8")))


def differences(expected: Facts, found: Facts) -> tuple[Difference, ...]:
    """Compare; a table or function that is missing, or not ours, is one difference with all in it.

    The sample's tables count only where they are expected: elsewhere such names are somebody's own.
    """
    sample = any(what.startswith("relation public.") for what in expected)
    names = sorted(what for what in {*expected, *found} if sample or " public.order" not in what)
    differing = [
        Difference(name, expected.get(name), found.get(name))
        for name in names
        if expected.get(name) != found.get(name)
    ]
    whole = [
        d.what for d in differing if d.what.startswith(_WHOLE) and None in (d.expected, d.found)
    ]
    parts = tuple(what.partition(" ")[2] for what in whole)
    return tuple(d for d in differing if d.what in whole or not _belongs(d.what, parts))


def _belongs(what: str, relations: tuple[str, ...]) -> bool:
    return any(re.search(rf" {re.escape(name)}(\W|_|$)", what) for name in relations)
