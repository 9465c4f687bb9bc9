"""Hop 2: what the cursor asks where nothing happens in the server, and that it misses nothing."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from relay.publish.reading.cursor import OutboxCursor
from relay.publish.reading.outbox_sql import SNAPSHOT, WINDOW, WINDOW_OF_NEW
from relay.publish.reading.window import LOWEST_ID, Position, Snapshot

SOMEBODY_OPEN = "12:20:12"
ALL_OVER = "20:20:"
NEWER_OVER = "12:21:12"
BOTH = (SOMEBODY_OPEN, [])
ROW = (
    *(7, b"e" * 16, b"order-1", "order.placed", b"{}", 2, None, None, None, b"t" * 8),
    *("order", None),
)


@dataclass
class Server:
    """Answers each statement with the snapshot and the rows that are next, and notes what it was.

    `moments`: the snapshot, and the rows that a window up to it has.
    """

    moments: list[tuple[str, list[tuple]]]
    asked: list[str] = field(default_factory=list)

    async def prepare(self, sql: str) -> "Statement":
        return Statement(self, sql)


@dataclass
class Statement:
    server: Server
    sql: str

    async def fetch(self, *_arguments: object) -> list[tuple]:
        self.server.asked.append(self.sql)
        if self.sql == SNAPSHOT:
            snapshot, rows = self.server.moments[0]
            if not rows:
                self.server.moments.pop(0)
            return [(snapshot,)]
        snapshot, rows = self.server.moments.pop(0)
        head = (None, None, None, None, None, None, None, snapshot, None, None, None)
        return [head, *rows]


async def read(*moments: tuple[str, list[tuple]]) -> tuple[list[list[int]], list[str]]:
    """Read until the moments are over, from SOMEBODY_OPEN on; return pages' ids and statements."""
    server: Any = Server(list(moments))
    position = Position(Snapshot.parse(SOMEBODY_OPEN))
    cursor = OutboxCursor(
        server, position, page_rows=10, page_bytes=1000, largest_bytes=1000, hint_id=LOWEST_ID
    )
    pages = []
    while server.moments:
        pages.append(list((await cursor.next_page()).ids))
    return pages, server.asked


async def test_where_nothing_happens_only_the_snapshot_is_asked_for() -> None:
    pages, asked = await read(BOTH, BOTH, BOTH)
    assert pages == [[], [], []]
    assert asked == [WINDOW, SNAPSHOT, SNAPSHOT]


@pytest.mark.parametrize("ended", [ALL_OVER, NEWER_OVER], ids=["the older one", "a newer one"])
async def test_whatever_transaction_ends_its_rows_are_read_at_once(ended: str) -> None:
    pages, asked = await read(BOTH, BOTH, (ended, [ROW]))
    assert pages == [[], [], [7]]
    assert asked == [WINDOW, SNAPSHOT, SNAPSHOT, WINDOW]


async def test_where_transactions_end_all_the_time_nothing_is_asked_twice() -> None:
    pages, asked = await read((ALL_OVER, []), ("21:21:", [ROW]), ("22:22:", []))
    assert pages == [[], [7], []]
    assert asked == [WINDOW, WINDOW_OF_NEW, WINDOW_OF_NEW]
