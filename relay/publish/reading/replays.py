"""Hop 2: what is to be published again: reads running replays' items, and what forbids some.

Invariant: it sends nothing, and asks cheaply when nothing is to be replayed; the one thing that it
writes is why a replay is paused. A row is sent again only after its place in the outbox was handed
over (an event's first occurrence is never a replay, so nothing newer of its order is overtaken),
and never while it waits in quarantine. An item is counted as sent by the statement that moves the
checkpoint, so that a kill repeats at most one batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg

from relay.publish.reading.cursor import OutboxCursor
from relay.publish.reading.page import Page

PART_ITEMS: Final = 1000
"""Items in one row of relay.replay_part."""

CONDUCTOR_NAME: Final = "relay-replay"
"""The application name of the connection that conducts a replay."""

GONE: Final = "gone"
PARKED: Final = "parked"
NOT_PUBLISHED: Final = "not_published"

# How soon a replay that was just started is noticed.
LOOK_SECONDS: Final = 0.5
# While one is under way: how soon the next items that were released are noticed.
_ACTIVE_LOOK_SECONDS: Final = 0.02
_ACTIVE_SECONDS: Final = 5.0

# One probe of an index that holds the running jobs only. The oldest first: one after the other.
DUE: Final = """
SELECT replay_id, target_topic, sent_count, released_count
  FROM relay.replay_job
 WHERE state = 'running' AND sent_count < released_count
 ORDER BY started_at LIMIT 1
"""

# ... of those that a process conducts now (`claim` of relay/replay/jobs.py): what one that was
# killed had released waits for its resumption, or for a relay.
DUE_CONDUCTED: Final = f"""
SELECT replay_id, target_topic, sent_count, released_count
  FROM relay.replay_job AS j
 WHERE state = 'running' AND sent_count < released_count
   AND EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
                WHERE a.pid = j.conductor_pid AND a.datname = current_database()
                  AND a.application_name = '{CONDUCTOR_NAME}')
 ORDER BY started_at LIMIT 1
"""  # noqa: S608 - constants of this module

PARTS: Final = """
SELECT outbox_ids FROM relay.replay_part
 WHERE replay_id = $1 AND number >= $2 AND number <= $3
 ORDER BY number
"""

# $2: everything visible in it was handed over, and nothing else may be.
FORBIDDEN: Final = """
SELECT id, 'not_published' FROM relay.outbox
 WHERE id = ANY ($1::bigint[]) AND NOT pg_visible_in_snapshot(txid, $2::text::pg_snapshot)
UNION ALL
SELECT outbox_id, 'parked' FROM relay.quarantine
 WHERE kind = 'event' AND outbox_id = ANY ($1::bigint[])
   AND state IN ('held', 'release_requested')
"""

PAUSE: Final = """
UPDATE relay.replay_job SET state = 'paused', trouble = $2
 WHERE replay_id = $1 AND state = 'running'
"""


@dataclass(frozen=True, slots=True)
class Refused:
    """An item that cannot be sent, and why."""

    outbox_id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """A job's next items.

    Attributes:
        topic: where they all go; None: where each belongs.
        sent_before: the job's `sent_count` before them ...
        sent_after: ... and once they are acknowledged.
        refused: those of them that are not sent.
    """

    replay_id: UUID
    topic: str | None
    sent_before: int
    sent_after: int
    refused: tuple[Refused, ...] = ()

    @property
    def header(self) -> bytes:
        """The record header's value."""
        return str(self.replay_id).encode()


@dataclass(slots=True)
class Replays:
    """Looks for items that may be sent, over the reader's connection.

    Attributes:
        conducted_only: only of replays that a process conducts now.
    """

    cursor: OutboxCursor
    page_rows: int
    conducted_only: bool = False
    _look_at: float = 0.0
    _active_until: float = 0.0
    _job: UUID | None = None
    _released: int = 0
    _ahead: tuple[Page, Replayed] | None = None

    @property
    def active(self) -> bool:
        """Whether something was replayed a moment ago."""
        return time.monotonic() < self._active_until

    async def next(self) -> tuple[Page, Replayed] | None:
        """Return the next items that may be sent, if there are any; the page may be empty.

        Call it when the items returned before are covered by a checkpoint.

        Raises:
            asyncpg.PostgresError, OSError: the connection is lost or the statement failed.
        """
        now = time.monotonic()
        if now < self._look_at:
            return None
        found = await self._due()
        pause = _ACTIVE_LOOK_SECONDS if self.active else LOOK_SECONDS
        self._look_at = now + pause if found is None else 0.0
        if found is not None:
            self._active_until = now + _ACTIVE_SECONDS
        return found

    def later(self) -> None:
        """Look again in a while: what was found cannot be sent now."""
        self._ahead = None
        self._look_at = time.monotonic() + LOOK_SECONDS

    async def read_ahead(self, in_flight: Replayed) -> None:
        """Read what follows on the items under way, while the broker has those."""
        first = in_flight.sent_after
        if self._ahead is None and in_flight.replay_id == self._job and first < self._released:
            page, replay = await self._read(in_flight.replay_id, in_flight.topic, first)
            self._ahead = page, replay

    async def _due(self) -> tuple[Page, Replayed] | None:
        ahead, self._ahead = self._ahead, None
        jobs = await self.cursor.fetch(DUE_CONDUCTED if self.conducted_only else DUE)
        if not jobs:
            return None
        replay_id, topic, sent, released = jobs[0]
        self._job, self._released = replay_id, released
        if ahead is not None and (ahead[1].replay_id, ahead[1].sent_before) == (replay_id, sent):
            return ahead[0].ending_at(self.cursor.position), ahead[1]
        return await self._read(replay_id, topic, sent)

    async def _read(self, replay_id: UUID, topic: str | None, sent: int) -> tuple[Page, Replayed]:
        last = min(self._released, sent + self.page_rows)
        outbox_ids = await self._items(replay_id, sent, last)
        position = self.cursor.position
        forbidden = dict(await self.cursor.fetch(FORBIDDEN, outbox_ids, str(position.prev)))
        allowed = [one for one in outbox_ids if one not in forbidden]
        page = await self.cursor.rows(allowed, position)
        if page.ids and len(page.ids) < len(allowed):
            # Cut to a page's bytes, or rows are gone: what follows the last one is asked for next.
            outbox_ids = outbox_ids[: outbox_ids.index(page.ids[-1]) + 1]
        refused = _refused(outbox_ids, page.ids, forbidden)
        return page, Replayed(replay_id, topic, sent, sent + len(outbox_ids), refused)

    async def _items(self, replay_id: UUID, first: int, beyond: int) -> list[int]:
        """Return the items at the positions from `first` to before `beyond`."""
        low = first // PART_ITEMS
        rows = await self.cursor.fetch(PARTS, replay_id, low, (beyond - 1) // PART_ITEMS)
        items = [outbox_id for row in rows for outbox_id in row[0]]
        return items[first - low * PART_ITEMS : beyond - low * PART_ITEMS]


async def pause(connection: asyncpg.Connection, replay_id: UUID, trouble: str) -> None:
    """Pause a running replay, and say why; `connection` may write."""
    await connection.execute(PAUSE, replay_id, trouble)


def _refused(
    outbox_ids: Sequence[int], found: Sequence[int], forbidden: dict[int, str]
) -> tuple[Refused, ...]:
    there = set(found)
    return tuple(Refused(one, forbidden.get(one, GONE)) for one in outbox_ids if one not in there)
