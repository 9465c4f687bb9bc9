"""Hop 2: the retained outbox rows, by whether the delivery ledger knows them, a part at a time.

Invariant: a row counts as published only with proof: a ledger row with its id that is not older
than the row itself. Ids are issued again after a restore, so an id alone proves nothing. Parked and
discarded rows are settled: what becomes of them is decided in quarantine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

_IDS_AT_A_TIME: Final = 100_000

# Joined ledger rows carry the time of their first record, ten seconds early at most. A replay to
# another topic is no publication of the event.
_JUDGED: Final = """
WITH proof AS MATERIALIZED (
    SELECT ids.id, max(l.published_at) AS published_at
      FROM relay.delivery_ledger AS l, unnest(l.outbox_ids) AS ids (id)
     WHERE l.id_range && int8range($1, $2, '(]') AND ids.id > $1 AND ids.id <= $2
       AND (l.replay_id IS NULL OR l.topic = ANY ($3::text[]))
     GROUP BY ids.id
), settled AS MATERIALIZED (
    SELECT outbox_id, event_id FROM relay.quarantine_summary
     WHERE kind = 'event' AND state <> 'released' AND outbox_id > $1 AND outbox_id <= $2
), judged AS (
    SELECT o.id, o.created_at, o.txid, o.event_id, s.outbox_id IS NOT NULL AS settled,
           p.published_at > o.created_at - interval '15 seconds'
               -- of two rows with one id the proof is the first one's
               AND o.created_at = min(o.created_at) OVER (PARTITION BY o.id) AS published
      FROM relay.outbox AS o
      LEFT JOIN proof AS p ON p.id = o.id
      LEFT JOIN settled AS s ON s.outbox_id = o.id AND s.event_id = o.event_id::text
     WHERE o.id > $1 AND o.id <= $2
)
"""

_COUNT: Final = f"""{_JUDGED}
SELECT count(*) AS rows,
       count(*) FILTER (WHERE published) AS published,
       count(*) FILTER (WHERE settled AND published IS NOT TRUE) AS settled,
       count(*) FILTER (WHERE published IS NOT TRUE AND NOT settled) AS unpublished,
       count(*) FILTER (WHERE (published OR settled)
                          AND NOT pg_visible_in_snapshot(txid, pg_current_snapshot())) AS foreign,
       count(*) - count(DISTINCT id) AS issued_twice,
       min(created_at) FILTER (WHERE published IS NOT TRUE AND NOT settled) AS oldest_at,
       max(created_at) FILTER (WHERE published IS NOT TRUE AND NOT settled) AS newest_at
  FROM judged
"""  # noqa: S608 - constants of this module

# The owner's: nobody else changes an event's row. It judges as `_JUDGED` does.
_RENUMBER: Final = """
SELECT behind, ahead FROM relay.renumber_rows($1, $2, $3, $4::text::pg_snapshot)
"""


@dataclass(slots=True)
class RetainedRows:
    """Counts.

    Attributes:
        settled: parked, or discarded by a person.
        unpublished: without proof of any kind: they are to be sent.
        foreign: published or settled, with a transaction number of another cluster.
        issued_twice: rows that share an id with another one.
    """

    rows: int = 0
    published: int = 0
    settled: int = 0
    unpublished: int = 0
    foreign: int = 0
    issued_twice: int = 0
    oldest_at: datetime | None = None
    newest_at: datetime | None = None

    def add(self, part: asyncpg.Record) -> None:
        """Add a part's counts."""
        for name in ("rows", "published", "settled", "unpublished", "foreign", "issued_twice"):
            setattr(self, name, getattr(self, name) + part[name])
        times = [at for at in (self.oldest_at, part["oldest_at"]) if at is not None]
        self.oldest_at = min(times, default=None)
        times = [at for at in (self.newest_at, part["newest_at"]) if at is not None]
        self.newest_at = max(times, default=None)


_FIRST_ABOVE: Final = "SELECT min(id) FROM relay.outbox WHERE id > $1"
_LAST: Final = "SELECT max(id) FROM relay.outbox"


async def parts(connection: asyncpg.Connection) -> AsyncIterator[tuple[int, int]]:
    """Yield ranges (after, upto] of ids that hold all rows that are there now."""
    last = await connection.fetchval(_LAST)
    after = -(2**63)
    while last is not None and after < last:
        first = await connection.fetchval(_FIRST_ABOVE, after)
        if first is None:
            return
        upto = min(first - 1 + _IDS_AT_A_TIME, last)
        yield first - 1, upto
        after = upto


async def count_retained(connection: asyncpg.Connection, topics: Sequence[str]) -> RetainedRows:
    """Count all retained rows; about a second for 100,000."""
    counted = RetainedRows()
    async for after, upto in parts(connection):
        counted.add(await connection.fetchrow(_COUNT, after, upto, topics))
    return counted


async def renumber(
    connection: asyncpg.Connection, part: tuple[int, int], topics: Sequence[str], snapshot: str
) -> tuple[int, int]:
    """Give a part's rows the transaction numbers that belong to `snapshot` as the checkpoint.

    For whoever took the lease of the relay on this connection. Twice does no harm: what was set
    ahead once is set ahead again.

    Returns:
        Rows set behind it, rows set ahead of it.
    """
    row = await connection.fetchrow(_RENUMBER, *part, topics, snapshot)
    return row["behind"], row["ahead"]


_UNPUBLISHED: Final = f"""{_JUDGED}
SELECT count(*) FROM judged
 WHERE published IS NOT TRUE AND NOT settled AND event_id = ANY ($4::uuid[])
"""  # noqa: S608 - constants of this module
_KNOWN: Final = """
SELECT id, event_id::text FROM relay.outbox WHERE event_id = ANY ($1::uuid[])
 UNION ALL
SELECT id, event_id::text FROM relay.kept WHERE event_id = ANY ($1::uuid[])
"""


async def look_up(
    connection: asyncpg.Connection, event_ids: Sequence[str], topics: Sequence[str]
) -> tuple[set[str], int]:
    """Return which of these events have a row, and how many of those rows are unpublished."""
    rows = await connection.fetch(_KNOWN, event_ids)
    if not rows:
        return set(), 0
    unpublished = 0
    for after, upto in spans({row["id"] for row in rows}):
        unpublished += await connection.fetchval(_UNPUBLISHED, after, upto, topics, event_ids)
    return {row["event_id"] for row in rows}, unpublished


def spans(ids: Collection[int]) -> list[tuple[int, int]]:
    """Cover these ids with ranges (after, upto] that are each looked through in one statement."""
    found: list[tuple[int, int]] = []
    for one in sorted(ids):
        if found and one <= found[-1][0] + _IDS_AT_A_TIME:
            found[-1] = (found[-1][0], one)
        else:
            found.append((one - 1, one))
    return found
