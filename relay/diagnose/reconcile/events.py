"""Hop 2: every row that was handed over against the record that the ledger says it became.

Invariant: ledger and log are walked side by side in offset order, so that memory holds one fetch of
records and one page of ledger rows. A record that the ledger does not know, or whose row is not in
the range, is looked up by its event id: a duplicate of a known row, a row elsewhere, or a ghost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from relay.diagnose.reconcile.findings import Difference, Finding, Tally
from relay.diagnose.reconcile.outbox_rows import (
    ABSENT,
    EXPIRED,
    HANDED_OVER,
    PARKED,
    PROVEN,
    WAITING,
    OutboxRows,
    duplicates,
    known_events,
    orders_of,
)
from relay.kafka.event_headers import created_at_text, event_id_text
from relay.kafka.partition import Partition

_PAGE_BATCHES: Final = 2000
_LOOKED_UP_TOGETHER: Final = 5000
# The largest batch of the ledger, in records: a page of the relay, or what maintenance has joined.
_BATCH_RECORDS: Final = 10_000
_AGAIN: Final = "records sent more than once"
_OUTSIDE: Final = "records of rows outside the range"
_DROPPED: Final = "records of rows whose day was dropped"

# The days whose rows went as they should.
_DAYS: Final = "SELECT from_at, to_at FROM relay.dropped_partition"

_EXTENT: Final = """
SELECT min(base_offset), max(base_offset + record_count)
  FROM relay.delivery_ledger
 WHERE id_range && int8range($1, $2, '(]') AND topic = $3 AND partition = $4
"""

_BATCHES: Final = """
SELECT base_offset, outbox_ids FROM relay.delivery_ledger
 WHERE topic = $1 AND partition = $2 AND base_offset > $3 AND base_offset < $4
 ORDER BY base_offset LIMIT $5
"""


@dataclass(slots=True)
class EventsWalk:
    """The logs of the events' topics beside the ledger, one partition's walk each."""

    connection: asyncpg.Connection
    rows: OutboxRows
    tally: Tally
    _walks: dict[Partition, _Walk] = field(default_factory=dict)

    async def begin(
        self, bounds: Mapping[Partition, tuple[int, int]], *, whole_log: bool
    ) -> dict[Partition, tuple[int, int]]:
        """Return what is to be read: where the rows' records are, or everything.

        Args:
            bounds: first offset and end of each partition of the events' topics.
            whole_log: look at every record, so that every ghost is found.
        """
        spans: dict[Partition, tuple[int, int]] = {}
        for place, (start, end) in bounds.items():
            low, high = await _extent(self.connection, self.rows, place)
            if low is not None:
                await _expire(self.connection, place, low, min(start, high), self.rows)
            if whole_log:
                spans[place] = (start, end)
            elif low is not None:
                spans[place] = (max(start, low), min(high, end))
        days = [tuple(day) for day in await self.connection.fetch(_DAYS)] if whole_log else None
        self._walks = {
            place: _Walk(self.connection, place, first, self.rows, self.tally, dropped_days=days)
            for place, (first, _) in spans.items()
        }
        return spans

    async def compare(self, place: Partition, records: Sequence[Any]) -> None:
        """Prove or list the next records of a partition."""
        await self._walks[place].along(records)

    async def settle(self) -> None:
        """Count what was proven, and list what was not."""
        for walk in self._walks.values():
            await walk.look_up()
        await _settle(self.connection, self.rows, self.tally)


async def _extent(
    connection: asyncpg.Connection, rows: OutboxRows, place: Partition
) -> tuple[int | None, int]:
    low, high = await connection.fetchrow(_EXTENT, rows.after, rows.upto, *place)
    return low, high or 0


async def _expire(
    connection: asyncpg.Connection, place: Partition, low: int, start: int, rows: OutboxRows
) -> None:
    """Mark the rows whose records the topic's retention has removed."""
    async for base, ids in _batches(connection, place, low, start):
        for distance, outbox_id in enumerate(ids):
            if base + distance < start and rows.state(outbox_id) == HANDED_OVER:
                rows.mark(outbox_id, EXPIRED)


async def _batches(
    connection: asyncpg.Connection, place: Partition, low: int, high: int
) -> AsyncIterator[tuple[int, list[int]]]:
    last = low - 1
    while page := await connection.fetch(_BATCHES, *place, last, high, _PAGE_BATCHES):
        for base, ids in page:
            yield base, ids
        last = page[-1][0]


@dataclass(frozen=True, slots=True)
class _Stray:
    """A record to be looked up.

    Attributes:
        outbox_id: the row that the ledger says it is of, when that row is not in the range.
    """

    event_id: bytes
    offset: int
    key: bytes | None
    outbox_id: int | None = None


class _Walk:
    """One partition's log beside its ledger."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        place: Partition,
        first: int,
        rows: OutboxRows,
        tally: Tally,
        *,
        dropped_days: Sequence[tuple[datetime, datetime]] | None,
    ) -> None:
        """`dropped_days`: None, where rows that are not in the range may be anywhere."""
        self._connection = connection
        self._place = place
        self._next = first
        self._rows = rows
        self._tally = tally
        self._dropped_days = dropped_days
        self._expected: dict[int, int] = {}
        self._strays: list[_Stray] = []

    async def along(self, records: Sequence[Any]) -> None:
        end = records[-1].offset + 1
        await self._expect(self._next, end)
        for record in records:
            self._compare(record)
        # What is still expected here has no record: compacted, deleted, or cut off.
        self._expected.clear()
        self._next = end
        if len(self._strays) >= _LOOKED_UP_TOGETHER:
            await self.look_up()

    async def _expect(self, first: int, end: int) -> None:
        """Learn which row stands at each offset of a fetch; batches may begin before it."""
        reach = max(0, first - _BATCH_RECORDS)
        async for base, ids in _batches(self._connection, self._place, reach, end):
            for offset, outbox_id in enumerate(ids, base):
                if first <= offset < end:
                    self._expected[offset] = outbox_id

    def _compare(self, record: Any) -> None:
        event_id = _event_id(record)
        outbox_id = self._expected.pop(record.offset, None)
        if event_id is None:
            self._tally.add(self._ghost(record.key, record.offset, "it names no event"))
        elif outbox_id is None:
            self._strays.append(_Stray(event_id, record.offset, record.key))
        elif self._rows.state(outbox_id) == ABSENT:
            if self._dropped_days is None:
                self._tally.count(_OUTSIDE)
            elif self._was_dropped(record):
                self._tally.count(_DROPPED)
            else:
                self._strays.append(_Stray(event_id, record.offset, record.key, outbox_id))
        elif self._rows.event_id(outbox_id) != event_id:
            self._strays.append(_Stray(event_id, record.offset, record.key))
        else:
            self._tally.count(_AGAIN, int(self._rows.state(outbox_id) == PROVEN))
            self._rows.mark(outbox_id, PROVEN)

    async def look_up(self) -> None:
        """Ask the outbox about the records that the ledger does not know."""
        known = await known_events(self._connection, [one.event_id for one in self._strays])
        for stray in self._strays:
            outbox_id = known.get(stray.event_id)
            if outbox_id is None:
                detail = f"event {UUID(bytes=stray.event_id)}"
                if stray.outbox_id is not None:
                    detail += f"; its row, outbox {stray.outbox_id}, was deleted"
                self._tally.add(self._ghost(stray.key, stray.offset, detail))
            elif stray.outbox_id is not None:
                self._tally.count(_OUTSIDE)  # kept from a dropped day, or younger than the range
            elif self._rows.state(outbox_id) in (HANDED_OVER, WAITING, EXPIRED):
                self._rows.mark(outbox_id, PROVEN)
            else:
                self._tally.count(_AGAIN)
        self._strays.clear()

    def _was_dropped(self, record: Any) -> bool:
        at = _time(record)
        return at is not None and any(low <= at < high for low, high in self._dropped_days or ())

    def _ghost(self, key: bytes | None, offset: int, detail: str) -> Finding:
        order = key.decode("utf-8", "replace") if key else None
        where = f"{self._place[0]}[{self._place[1]}]@{offset}"
        return Finding(Difference.RECORD_WITHOUT_ROW, order, where, detail)


def _time(record: Any) -> datetime | None:
    """Return when its row was created."""
    try:
        at = datetime.fromisoformat(created_at_text(record.headers) or "")
    except ValueError:
        return None
    return at if at.tzinfo else None


def _event_id(record: Any) -> bytes | None:
    try:
        return UUID(event_id_text(record.headers) or "").bytes
    except ValueError:
        return None


async def _settle(connection: asyncpg.Connection, rows: OutboxRows, tally: Tally) -> None:
    """Count what was proven, and list what was not."""
    counts: dict[str, Any] = {
        "rows whose record is there": PROVEN,
        "rows waiting for the relay": WAITING,
        "rows parked": PARKED,
        "rows past the topic's retention (cannot be proven)": EXPIRED,
    }
    for what, state in counts.items():
        tally.count(what, rows.states.count(state))
    missing = list(rows.in_state(HANDED_OVER))
    for start in range(0, len(missing), _LOOKED_UP_TOGETHER):
        ids = missing[start : start + _LOOKED_UP_TOGETHER]
        orders = await orders_of(connection, ids)
        for outbox_id in ids:
            order, event_id = orders.get(outbox_id, (None, "?"))
            tally.add(
                Finding(
                    Difference.RECORD_MISSING, order, f"outbox {outbox_id}", f"event {event_id}"
                )
            )
    for event_id, outbox_id, count, order in await duplicates(connection, rows.after, rows.upto):
        tally.add(
            Finding(
                Difference.DUPLICATE_EVENT_ID,
                order,
                f"outbox {outbox_id}",
                f"{count} rows with event_id {event_id}",
            )
        )
