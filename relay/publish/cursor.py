"""Hop 2: reads the outbox, one window after the other, a page at a time.

Invariant: every committed row is in exactly one page, no rolled-back row is in any, and pages come
in the order of ids inside a window. The cost of a read depends neither on how many rows are
retained nor on how long somebody else's transaction stays open. Nothing is written here: after a
failure a new cursor begins at the checkpoint and reads the same rows again.

Each read is one statement, so no snapshot is held while the broker is waited for. What a page of a
window holds does not depend on when it is read: the outbox is append-only, and a transaction that
`cur` sees has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final

import asyncpg

from relay.publish.page import Page, cut_to_bytes
from relay.publish.window import LOWEST_ID, Paging, Position, Snapshot, ended_between

READER_SETTINGS: Final = {
    # The window's plans must not depend on statistics (a backlog is what ANALYZE has not seen) nor
    # on how often a statement ran: asyncpg prepares, and PostgreSQL would try five custom plans.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "default_transaction_read_only": "on",
    "DateStyle": "ISO",
    "TimeZone": "UTC",
    # A read is a few milliseconds; this is for a plan that went wrong all the same.
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "10s",
}

# The *_send functions give the bytes that go to Kafka as they are: 0.98 us a row here and 1.5 us in
# the server, against 2.2 and 1.9 for text, uuid and timestamptz values (benchmarks/drain).
# A large payload is left out and read on its own, so that a page's memory is bounded.
_COLUMNS: Final = """id, uuid_send(event_id), textsend(aggregate_id), event_type,
    CASE WHEN octet_length(payload::text) + coalesce(octet_length(headers::text), 0) <= {inline}
         THEN json_send(payload) END,
    octet_length(payload::text) + coalesce(octet_length(headers::text), 0),
    CASE WHEN octet_length(headers::text) <= {inline} THEN json_send(headers) END,
    left(traceparent, 256), left(tracestate, 1024), timestamptz_send(created_at)"""

# What is read of a partition: bare columns, so that the expressions above are prepared once and not
# once a partition: 0.18 ms a read of 31 partitions, against 0.30 (benchmarks/polls).
_BARE: Final = """id, txid, event_id, aggregate_id, event_type, payload, headers, traceparent,
    tracestate, created_at"""

# One statement, one snapshot: its first row is the snapshot itself, in the place of a traceparent.
_SNAPSHOT: Final = """
WITH now AS MATERIALIZED (SELECT pg_current_snapshot() AS cur)
SELECT NULL::bigint, NULL::bytea, NULL::bytea, NULL::text, NULL::bytea, NULL::int, NULL::bytea,
       now.cur::text, NULL::text, NULL::bytea
  FROM now
UNION ALL
"""

# Transactions that were new. Ordered as the index is, so that no statistics can choose another way.
# A row whose txid lies ahead of the cluster's (restored) is not visible in cur; without that clause
# every poll would return it. $1 xmax of `prev`, $2 a page and one.
_NEW: Final = f"""
SELECT {_BARE} FROM relay.outbox
 WHERE txid >= $1::xid8 AND pg_visible_in_snapshot(txid, (SELECT cur FROM now))
 ORDER BY txid, id LIMIT $2
"""  # noqa: S608 - constants of this module

# Transactions that were in progress ($4) and are over. Those still in progress are not looked up (a
# bulk load would be walked through at every poll), nor those that were rolled back. As one array:
# PostgreSQL 17 and newer go down the index once for all that stand together (200 of them: 1.2 ms;
# by LATERAL 3.2; benchmarks/polls).
_ENDED: Final = f"""
SELECT {_BARE} FROM relay.outbox
 WHERE txid = ANY (ARRAY(SELECT was FROM unnest($4::xid8[]) AS was
                          WHERE pg_visible_in_snapshot(was, (SELECT cur FROM now))
                            AND pg_xact_status(was) IS DISTINCT FROM 'aborted'))
 LIMIT $2
"""  # noqa: S608 - constants of this module

# $3 the largest payload taken along.
WINDOW_OF_NEW: Final = f"""{_SNAPSHOT}
SELECT {_COLUMNS.format(inline="$3")} FROM ({_NEW}) AS found
"""  # noqa: S608 - constants of this module

WINDOW: Final = f"""{_SNAPSHOT}
SELECT {_COLUMNS.format(inline="$3")} FROM (({_NEW}) UNION ALL ({_ENDED})) AS found
"""  # noqa: S608 - constants of this module

# Larger windows: a page of the transactions that were new, by the primary key.
# $1 and $2 the ids between which to look, $3 xmax of `prev`, $4 `cur`.
PAGE_OF_NEW: Final = f"""
SELECT {_COLUMNS.format(inline="$6")} FROM (
    SELECT {_BARE} FROM relay.outbox
     WHERE id > $1 AND id <= $2 AND txid >= $3::xid8
       AND pg_visible_in_snapshot(txid, $4::text::pg_snapshot)
     ORDER BY id LIMIT $5
) AS found
"""  # noqa: S608 - constants of this module

# ... and of those that were in progress and are over ($3): by transaction, since by id it would
# walk through the rows of others. OFFSET 0 keeps one index probe a transaction.
PAGE_OF_ENDED: Final = f"""
SELECT {_COLUMNS.format(inline="$5")} FROM (
    SELECT ended.*
      FROM unnest($3::xid8[]) AS prev(txid)
     CROSS JOIN LATERAL (
           SELECT {_BARE} FROM relay.outbox
            WHERE outbox.txid = prev.txid AND id > $1 AND id <= $2
            ORDER BY txid, id LIMIT $4 OFFSET 0
          ) AS ended
     ORDER BY id LIMIT $4
) AS found
"""  # noqa: S608 - constants of this module

# Where the rows before a window end, about: the last of them by transaction.
LAST_BEFORE: Final = """
SELECT max(id) FROM (
    SELECT id FROM relay.outbox WHERE txid < $1::xid8 ORDER BY txid DESC, id DESC LIMIT 1000
) AS recent
"""

# The lowest id of a window's new transactions, if it is not above the hint $3. Ordered as the index
# is, and fenced: planned as "the first by primary key" it would walk all the retained rows. Entries
# above the hint are dismissed inside the index, 10 million in half a second.
LOWEST_OF_NEW: Final = """
SELECT min(id) FROM (
    SELECT id FROM relay.outbox
     WHERE txid >= $1::xid8 AND txid < $2::xid8 AND id <= $3
     ORDER BY txid, id OFFSET 0
) AS below_hint
"""

LOWEST_OF_ENDED: Final = """
SELECT min(first.id)
  FROM unnest($1::xid8[]) AS prev(txid)
 CROSS JOIN LATERAL (
       SELECT id FROM relay.outbox WHERE outbox.txid = prev.txid ORDER BY txid, id LIMIT 1 OFFSET 0
      ) AS first
"""

# Two probes of each partition's primary key.
BOUNDS: Final = "SELECT min(id), max(id) FROM relay.outbox"

# Across a gap in the ids (a sequence that was set forward) in one step.
NEXT_ID: Final = "SELECT min(id) FROM relay.outbox WHERE id > $1"

# Rows that left quarantine, wherever they are now.
BY_ID: Final = f"""
SELECT {_COLUMNS.format(inline="$2")} FROM relay.outbox WHERE id = ANY ($1::bigint[])
UNION ALL
SELECT {_COLUMNS.format(inline="$2")} FROM relay.kept WHERE id = ANY ($1::bigint[])
"""  # noqa: S608 - the columns are a constant of this module

LARGE_PAYLOADS: Final = """
SELECT id, json_send(payload), json_send(headers) FROM relay.outbox WHERE id = ANY ($1::bigint[])
UNION ALL
SELECT id, json_send(payload), json_send(headers) FROM relay.kept WHERE id = ANY ($1::bigint[])
"""

# A transaction id costs an index entry or more; so many are looked through in well under a second.
_TXIDS_AT_A_TIME: Final = 5_000_000


class OutboxCursor:
    """Reads on from a position.

    `hint_id` is the highest id handed over before, if known; `page_rows` may be changed between two
    pages.
    """

    def __init__(
        self,
        connection: asyncpg.Connection,
        position: Position,
        *,
        page_rows: int,
        page_bytes: int,
        largest_bytes: int,
        hint_id: int,
    ) -> None:
        self._connection = connection
        self._position = position
        self._paging: Paging | None = None
        self.page_rows = page_rows
        self._page_bytes = page_bytes
        self._largest_bytes = largest_bytes
        self._hint_id = hint_id
        self._statements: dict[str, Any] = {}

    @property
    def connection(self) -> asyncpg.Connection:
        """The connection it reads on, for other small reads between two pages."""
        return self._connection

    @property
    def position(self) -> Position:
        """How far was read."""
        return self._position

    @property
    def in_window(self) -> bool:
        """Whether the next page belongs to a window that is already open."""
        return self._position.cur is not None

    async def next_page(self) -> Page:
        """Read the next page; it may be empty.

        Raises:
            asyncpg.PostgresError, OSError: the connection is lost or the statement failed.
        """
        if self._position.cur is None:
            page = await self._small_window()
            if page is not None:
                return page
        return await self._page_of_large()

    async def rows(self, outbox_ids: Sequence[int], after: Position) -> Page:
        """Read rows by id, in the order given, up to a page's bytes; the position stays."""
        records = await self.fetch(BY_ID, outbox_ids, self._inline_bytes)
        places = {outbox_id: place for place, outbox_id in enumerate(outbox_ids)}
        page = Page.of_records(sorted(records, key=lambda record: places[record[0]]), after)
        page = page.first(cut_to_bytes(page.sizes, self._page_bytes))
        await self._complete(page)
        return page

    async def _small_window(self) -> Page | None:
        """Read a whole window at once; None: it is larger than a page, and is now open."""
        prev, limit = self._position.prev, self.page_rows + 1
        arguments = (prev.xmax, limit, self._inline_bytes)
        if prev.xip:
            records = await self.fetch(WINDOW, *arguments, prev.xip)
        else:
            records = await self.fetch(WINDOW_OF_NEW, *arguments)
        cur = Snapshot.parse(records[0][7])
        page = Page.of_records(sorted(records[1:], key=_id), Position(cur))
        if len(page.ids) < limit and page.payload_bytes <= self._page_bytes:
            await self._complete(page)
            return self._advance(page)
        self._position = Position(prev, cur, LOWEST_ID)
        return None

    async def _page_of_large(self) -> Page:
        if self._paging is None:
            self._paging = await self._open()
        paging = self._paging
        if paging is None:
            assert self._position.cur is not None
            return self._advance(Page.empty(Position(self._position.cur)))
        limit = self.page_rows
        records = await self._read(paging, limit)
        page = Page.of_records(records, paging.position)
        kept = cut_to_bytes(page.sizes, self._page_bytes)
        if kept < len(records):
            limit, page = kept, page.first(kept)
        last_id = page.ids[-1] if page.ids else paging.last_id
        self._paging = paging.after(len(page.ids), last_id, limit)
        if self._paging is not None and self._paging.crosses_gap:
            next_id = await self._connection.fetchval(NEXT_ID, self._paging.last_id)
            self._paging = None if next_id is None else self._paging.at(next_id - 1)
        after = Position(paging.cur) if self._paging is None else self._paging.position
        page = page.ending_at(after)
        await self._complete(page)
        return self._advance(page)

    async def _open(self) -> Paging | None:
        """Find where the window's rows are; None: it has none."""
        position = self._position
        assert position.cur is not None
        assert position.last_id is not None
        bottom, ceiling = await self._connection.fetchrow(BOUNDS)
        if ceiling is None:
            return None
        ended = ended_between(position.prev, position.cur)
        last_id, floor = position.last_id, position.last_id
        if last_id == LOWEST_ID:
            floor = await self._floor(position.prev, position.cur, bottom)
            lowest = await self._connection.fetchval(LOWEST_OF_ENDED, ended) if ended else None
            last_id = floor if lowest is None else min(floor, lowest - 1)
        if last_id >= ceiling:
            return None
        return Paging(position.prev, position.cur, ended, floor, ceiling, last_id)

    async def _floor(self, prev: Snapshot, cur: Snapshot, bottom: int) -> int:
        """Return an id with no row of a new transaction at or below it, and few retained above."""
        last_before = await self._connection.fetchval(LAST_BEFORE, prev.xmax)
        # Either may be too low (it then costs time) or too high: what is found says which.
        hint_id = max(self._hint_id, bottom - 1 if last_before is None else last_before)
        if hint_id < bottom:
            return hint_id
        lowest: int | None = None
        for first in range(prev.xmax, cur.xmax, _TXIDS_AT_A_TIME):
            beyond = min(first + _TXIDS_AT_A_TIME, cur.xmax)
            found = await self._connection.fetchval(LOWEST_OF_NEW, first, beyond, hint_id)
            if found is not None:
                lowest = found if lowest is None else min(lowest, found)
        return hint_id if lowest is None else lowest - 1

    async def _read(self, paging: Paging, limit: int) -> list[asyncpg.Record]:
        """Read up to `limit` rows of the window, in the order of their ids."""
        records: list[asyncpg.Record] = []
        start, upto, inline = paging.from_id, paging.upto, self._inline_bytes
        if upto > start:
            xmax, cur = paging.prev.xmax, str(paging.cur)
            records = await self.fetch(PAGE_OF_NEW, start, upto, xmax, cur, limit, inline)
        if paging.ended:
            others = await self.fetch(
                PAGE_OF_ENDED, paging.last_id, upto, paging.ended, limit, inline
            )
            records = sorted(records + others, key=_id)[:limit]
        return records

    async def _complete(self, page: Page) -> None:
        """Read the payloads that were too large to come along, unless no topic takes them."""
        missing = page.without_payload(self._largest_bytes)
        if missing:
            for outbox_id, payload, headers in await self._connection.fetch(
                LARGE_PAYLOADS, missing
            ):
                page.set_payload(outbox_id, payload, headers)

    def _advance(self, page: Page) -> Page:
        if page.ids:
            self._hint_id = max(self._hint_id, page.ids[-1])
        if page.after.cur is None:
            self._paging = None
        self._position = page.after
        return page

    @property
    def _inline_bytes(self) -> int:
        return max(1024, 2 * self._page_bytes // self.page_rows)

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        """Run a statement, prepared once, and return its rows."""
        statement = self._statements.get(sql)
        if statement is None:
            statement = self._statements[sql] = await self._connection.prepare(sql)
        records: list[asyncpg.Record] = await statement.fetch(*arguments)
        return records


_id: Final = itemgetter(0)
