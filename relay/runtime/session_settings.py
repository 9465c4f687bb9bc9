"""The session settings that each of our connections has, whatever server it reached.

Invariant: what a statement answers does not depend on how somebody set up the server, the database
or the role. A text that one session made is read alike by the next (times, intervals, floats,
bytea, names), and no limit that was meant for others ends our statements. They are set after the
login, never in the startup packet: PgBouncer refuses or drops what it does not know there, and in
its session mode a setting made later stays.

Deliberately not set:
    search_path: the columns of an orders table may be of types whose operators live in a schema of
        the customer's own, and his triggers and functions run in our sessions. All names of ours
        are written with their schema, and a text that depends on the path is not compared.
    default_transaction_read_only: whoever made a database read-only meant us too. `relay check`
        and `relay status` say so.
    idle_in_transaction_session_timeout: a guard against us as against others. Where a frozen
        process of ours would hold locks, its connections ask for one.
    client_min_messages, row_security: they change no value, and no row silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import asyncpg

PINNED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TimeZone": "UTC",  # days of partitions, casts between date, timestamp and timestamptz
        "DateStyle": "ISO, MDY",  # the text of a time, and how '01/02/2026' is read
        "IntervalStyle": "postgres",
        "extra_float_digits": "1",  # the shortest text that is the same float again
        "bytea_output": "hex",
        "array_nulls": "on",  # NULL in the text of an array is no word
        "quote_all_identifiers": "off",  # pg_get_indexdef and its like, regclass as text
        "standard_conforming_strings": "on",  # a backslash is a backslash
        "transform_null_equals": "off",
        "client_encoding": "UTF8",
        # The functions that make and drop partitions look again under a lock, and a batch of
        # returns reads statuses that others may have changed: both need READ COMMITTED.
        "default_transaction_isolation": "read committed",
    }
)
"""Set on every connection; nothing overrides them but the connection's own settings."""

LIMITS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # Each statement that needs a limit has one of its own. One made for web requests would end
        # a migration, the drop of a day, or the read of a backlog, again at each attempt.
        "statement_timeout": "0",
        "lock_timeout": "0",
        "transaction_timeout": "0",  # PostgreSQL 17
        # The relay's connections are silent while nothing happens.
        "idle_session_timeout": "0",
    }
)
"""Set unless DATABASE_URL's own `options` (or PGOPTIONS) ask for another limit: those mean us."""

# Messages in English where the server lets us: for people. Causes are judged by codes. Only a
# superuser may set it.
_LANGUAGE: Final = ("lc_messages", "C")

_APPLY: Final = """
SELECT pg_catalog.count(pg_catalog.set_config(w.name, w.value, false))
  FROM unnest($1::text[], $2::text[], $3::text[]) AS w (name, value, how)
  LEFT JOIN pg_catalog.pg_settings AS s
         ON pg_catalog.lower(s.name) = pg_catalog.lower(w.name)
 WHERE CASE w.how
           WHEN 'wanted' THEN true
           WHEN 'pinned' THEN s.name IS NOT NULL
           WHEN 'limit' THEN s.name IS NOT NULL AND s.source <> 'client'
           ELSE pg_catalog.current_setting('is_superuser') = 'on'
       END
"""


async def apply_session_settings(
    connection: asyncpg.Connection,
    wanted: Mapping[str, str],
    *,
    timeout_seconds: float | None = None,
) -> None:
    """Give a new connection the settings that all have, and those that it is opened with.

    Args:
        connection: outside of any transaction.
        wanted: of this connection alone; they win.
        timeout_seconds: for the one statement; None: the connection's own limit.

    Raises:
        asyncpg.PostgresError: the server does not know a wanted setting, or refuses its value.
    """
    rows = {_LANGUAGE[0]: (_LANGUAGE[1], "language")}
    rows |= {name: (value, "pinned") for name, value in PINNED.items()}
    rows |= {name: (value, "limit") for name, value in LIMITS.items()}
    rows |= {name: (value, "wanted") for name, value in wanted.items()}
    values, kinds = zip(*rows.values(), strict=True)
    await connection.fetchval(_APPLY, list(rows), values, kinds, timeout=timeout_seconds)
