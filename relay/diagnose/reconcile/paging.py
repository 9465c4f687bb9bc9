"""Reads a long answer a page at a time, in one snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg

_PAGE_ROWS: Final = 10_000


async def each_row(
    connection: asyncpg.Connection, query: str, *values: Any
) -> AsyncIterator[tuple[Any, ...]]:
    """Yield every row; the statement runs in a transaction of its own, which changes nothing."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        cursor = await connection.cursor(query, *values)
        while rows := await cursor.fetch(_PAGE_ROWS):
            for row in rows:
                yield tuple(row)
