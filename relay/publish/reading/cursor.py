"""Hop 2: reads the outbox, one window after the other, a page at a time.

Invariant: every committed row is in exactly one page, no rolled-back row is in any, and pages come
in the order of ids inside a window. The cost of a read depends neither on how many rows are
retained nor on how long somebody else's transaction stays open. Nothing is written here: after a
failure a new cursor begins at the checkpoint and reads the same rows again.

Each read is one statement, so no snapshot is held while the broker is waited for. What a page of a
window holds does not depend on when it is read: the outbox is append-only, and a transaction that
`cur` sees has ended. Where nothing happens in the whole server, only its snapshot is asked for:
while that is the same, no transaction has ended, and there can be no new row.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final

import asyncpg

from relay.publish.reading.outbox_sql import (
    BOUNDS,
    BY_ID,
    LARGE_PAYLOADS,
    LAST_BEFORE,
    LONG_IDS,
    LOWEST_OF_ENDED,
    LOWEST_OF_NEW,
    NEXT_ID,
    PAGE_OF_ENDED,
    PAGE_OF_NEW,
    SNAPSHOT,
    WINDOW,
    WINDOW_OF_NEW,
)
from relay.publish.reading.page import Page, cut_to_bytes
from relay.publish.reading.window import LOWEST_ID, Paging, Position, Snapshot, ended_between

# A transaction id costs an index entry or more; so many are looked through in well under a second.
_TXIDS_AT_A_TIME: Final = 5_000_000
_FEWEST_ROWS: Final = 8


class OutboxCursor:
    """Reads on from a position.

    `hint_id` is the highest id handed over before, if known. `page_rows` and `largest_bytes` (a
    larger payload is not read) may be changed between two pages.
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
        self.largest_bytes = largest_bytes
        self._hint_id = hint_id
        # How many rows are looked at for a page: few, while those are so large that few fill one.
        # To learn how large a payload is, PostgreSQL reads all of it.
        self._rows_at_once = page_rows
        self._statements: dict[str, Any] = {}
        # The snapshot of the last two reads: no transaction ended between them, and perhaps none
        # has since.
        self._still: str | None = None

    @property
    def connection(self) -> asyncpg.Connection:
        """The connection it reads on, for other small reads between two pages."""
        return self._connection

    @property
    def position(self) -> Position:
        """How far was read."""
        return self._position

    def move_to(self, position: Position) -> None:
        """Go on from another position: somebody else's records prove that it was reached."""
        self._position, self._paging, self._still = position, None, None

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
        await self.complete(page, self.largest_bytes)
        return page

    async def _small_window(self) -> Page | None:
        """Read a whole window at once; None: it is larger than a page, and is now open."""
        if self._still is not None and (await self.fetch(SNAPSHOT))[0][0] == self._still:
            return Page.empty(self._position)
        prev, limit = self._position.prev, self.page_rows + 1
        arguments = (prev.xmax, limit, self._inline_bytes)
        if prev.xip:
            records = await self.fetch(WINDOW, *arguments, prev.xip)
        else:
            records = await self.fetch(WINDOW_OF_NEW, *arguments)
        cur = Snapshot.parse(records[0][7])
        self._still = records[0][7] if cur == prev else None
        page = Page.of_records(sorted(records[1:], key=_id), Position(cur))
        if len(page.ids) < limit and page.payload_bytes <= self._page_bytes:
            await self.complete(page, self.largest_bytes)
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
        limit = min(self.page_rows, self._rows_at_once)
        records = await self._read(paging, limit)
        page = Page.of_records(records, paging.position)
        kept = cut_to_bytes(page.sizes, self._page_bytes)
        if kept < len(records):
            self._rows_at_once = max(2 * kept, _FEWEST_ROWS)
            limit, page = kept, page.first(kept)
        elif kept == limit:
            self._rows_at_once = max(2 * limit, self._rows_at_once)
        last_id = page.ids[-1] if page.ids else paging.last_id
        self._paging = paging.after(len(page.ids), last_id, limit)
        if self._paging is not None and self._paging.crosses_gap:
            next_id = await self._connection.fetchval(NEXT_ID, self._paging.last_id)
            self._paging = None if next_id is None else self._paging.at(next_id - 1)
        after = Position(paging.cur) if self._paging is None else self._paging.position
        page = page.ending_at(after)
        await self.complete(page, self.largest_bytes)
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

    async def complete(self, page: Page, largest_bytes: int) -> None:
        """Read what was too large to come along; no payload that is larger than this."""
        missing = page.without_key()
        if missing:
            page.set_keys(dict(await self._connection.fetch(LONG_IDS, missing)))
        missing = page.without_payload(largest_bytes)
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
