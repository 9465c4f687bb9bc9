"""Hop 5: how much the quarantine takes; beyond that, only the places of refused returns are kept.

Invariant: nothing is lost in silence. In a full quarantine the refusals of a batch are one row for
each partition and reason, with offsets from and to and their number; the bytes are in Kafka. What
is held is counted now and then, and only while something is refused.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import asyncpg
import structlog

from relay.consumers.returns.refusals import Refusal
from relay.consumers.returns.stored_record import StoredRecord
from relay.kafka.unreadable import Fault, PartialBytes, first_offset

log = structlog.get_logger(__name__)

_COUNT_SECONDS: Final = 10.0

_HELD: Final = """
SELECT count(*), coalesce(sum(octet_length(record_value)), 0)
  FROM (SELECT record_value FROM relay.quarantine
         WHERE kind = 'return' AND consumer_group = $1 AND state IN ('held', 'release_requested')
         LIMIT $2) AS held
"""


@dataclass(slots=True)
class QuarantineRoom:
    """What a group's quarantine takes.

    Attributes:
        max_rows, max_bytes: beyond either, places only.
        full: it was, when it was looked at last.
    """

    max_rows: int = 100_000
    max_bytes: int = 1_000_000_000
    full: bool = False
    _rows: int = 0
    _bytes: int = 0
    _counted_at: float = float("-inf")

    async def fitted(
        self, connection: asyncpg.Connection, group: str, refused: Sequence[Refusal]
    ) -> Sequence[Refusal]:
        """Return what is to be written: these or, in a full quarantine, their places."""
        await self._count(connection, group)
        self._rows += len(refused)
        self._bytes += sum(len(one.record.value or b"") for one in refused)
        full = self._is_over()
        if full and not self.full:
            log.error("quarantine_full",
                      rows=self._rows, bytes=int(self._bytes))  # fmt: skip
        self.full = full
        return places(refused) if full else refused

    async def look_again(self, connection: asyncpg.Connection, group: str) -> None:
        """Count while it is full: somebody makes room, and nothing need be refused after that."""
        if self.full:
            await self._count(connection, group)
            self.full = self._is_over()

    async def _count(self, connection: asyncpg.Connection, group: str) -> None:
        now = time.monotonic()
        if now - self._counted_at > _COUNT_SECONDS:
            self._counted_at = now
            self._rows, self._bytes = await connection.fetchrow(_HELD, group, self.max_rows + 1)

    def _is_over(self) -> bool:
        return self._rows > self.max_rows or self._bytes > self.max_bytes


def places(refused: Sequence[Refusal]) -> list[Refusal]:
    """Return one refusal for each partition and reason, with its offsets and their number."""

    def key(one: Refusal) -> tuple[int, str]:
        return one.record.partition, one.reason.value

    return [_place(list(some)) for _, some in groupby(sorted(refused, key=key), key)]


def _place(some: list[Refusal]) -> Refusal:
    records = sorted((one.record for one in some), key=lambda record: record.offset)
    last = records[-1]
    value = PartialBytes.of(b"", Fault.NOT_KEPT, "", first_offset(records[0]))
    value.size = sum(len(record.value or b"") for record in records)
    bare = StoredRecord(last.topic, last.partition, last.offset, last.timestamp, None, value, ())
    detail = (
        f"{len(records)} returns at offsets {value.from_offset} to {last.offset}: the quarantine "
        "is full, and only their places are kept"
    )
    return Refusal(bare, some[0].reason, detail, count=len(records))
