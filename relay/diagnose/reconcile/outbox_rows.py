"""Hop 1: the outbox rows of a range, as dense arrays: 17 bytes a row, whatever the payloads.

Invariant: reads by primary key, a page at a time; no payload leaves the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import asyncpg

from relay.runtime.flow import Flow

_PAGE_ROWS: Final = 50_000
_ID_BYTES: Final = 16

ABSENT, WAITING, HANDED_OVER, PARKED, PROVEN, EXPIRED = range(6)

_PAGE: Final = """
SELECT o.id, uuid_send(o.event_id), pg_visible_in_snapshot(o.txid, c.prev)
  FROM relay.checkpoint c, relay.outbox o
 WHERE c.shard = 0 AND o.id > $1 AND o.id <= $2 AND o.event_type <> 'relay.probe'
   AND ($3::timestamptz IS NULL OR o.created_at >= $3)
   AND ($4::timestamptz IS NULL OR o.created_at < $4)
   AND (NOT $6 OR o.event_type = ANY ($7::text[])
        OR o.aggregate_type = $8 AND o.event_type <> ALL ($9::text[]))
 ORDER BY o.id LIMIT $5
"""

_PARKED: Final = """
SELECT outbox_id FROM relay.quarantine
 WHERE kind = 'event' AND state <> 'released' AND outbox_id > $1 AND outbox_id <= $2
"""

_ORDERS: Final = """
SELECT id, aggregate_id, event_id::text FROM relay.outbox WHERE id = ANY ($1::bigint[])
"""

_KNOWN: Final = """
SELECT uuid_send(event_id), id FROM relay.outbox WHERE event_id = ANY ($1::uuid[])
UNION ALL
SELECT uuid_send(event_id), id FROM relay.kept WHERE event_id = ANY ($1::uuid[])
"""

# Rows of the range that share an event id.
_DUPLICATES: Final = """
SELECT o.event_id::text, min(o.id), count(*)::int, min(o.aggregate_id)
  FROM relay.outbox o
 WHERE o.id > $1 AND o.id <= $2
 GROUP BY o.event_id HAVING count(*) > 1
"""


@dataclass(slots=True)
class OutboxRows:
    """The rows with `after < id <= upto`."""

    after: int
    upto: int
    count: int = 0
    states: bytearray = field(init=False)
    _event_ids: bytearray = field(init=False)

    def __post_init__(self) -> None:
        self.states = bytearray(self.upto - self.after)
        self._event_ids = bytearray((self.upto - self.after) * _ID_BYTES)

    def put(self, outbox_id: int, event_id: bytes, *, handed_over: bool) -> None:
        """Remember a row."""
        place = outbox_id - self.after - 1
        self._event_ids[place * _ID_BYTES : (place + 1) * _ID_BYTES] = event_id
        self.states[place] = HANDED_OVER if handed_over else WAITING
        self.count += 1

    def state(self, outbox_id: int) -> int:
        """Return a row's state; ABSENT outside of the range too."""
        if not self.after < outbox_id <= self.upto:
            return ABSENT
        return self.states[outbox_id - self.after - 1]

    def mark(self, outbox_id: int, state: int) -> None:
        """Set the state of a row that is here; others are left alone."""
        if self.state(outbox_id) != ABSENT:
            self.states[outbox_id - self.after - 1] = state

    def event_id(self, outbox_id: int) -> bytes:
        """Return a row's event id, 16 bytes."""
        place = (outbox_id - self.after - 1) * _ID_BYTES
        return bytes(self._event_ids[place : place + _ID_BYTES])

    def in_state(self, state: int) -> Iterator[int]:
        """Yield the ids in a state, ascending."""
        place = self.states.find(state)
        while place >= 0:
            yield self.after + 1 + place
            place = self.states.find(state, place + 1)


async def load_rows(
    connection: asyncpg.Connection, flow: Flow, span: tuple[int, int], since: Any, until: Any
) -> OutboxRows:
    """Read ids and states of a range of the outbox; where there are other flows, the flow's own."""
    after, upto = span
    rows, last = OutboxRows(after, upto), after
    whose = (
        *(bool(flow.others.names), flow.own_event_types),
        *(flow.aggregate_type, flow.others_event_types),
    )
    while page := await connection.fetch(_PAGE, last, upto, since, until, _PAGE_ROWS, *whose):
        for outbox_id, event_id, handed_over in page:
            rows.put(outbox_id, event_id, handed_over=handed_over)
        last = page[-1][0]
    for (outbox_id,) in await connection.fetch(_PARKED, after, upto):
        rows.mark(outbox_id, PARKED)
    return rows


async def orders_of(
    connection: asyncpg.Connection, ids: Sequence[int]
) -> dict[int, tuple[str, str]]:
    """Return aggregate id and event id by outbox id."""
    return {r[0]: (r[1], r[2]) for r in await connection.fetch(_ORDERS, list(ids))}


async def known_events(
    connection: asyncpg.Connection, event_ids: Sequence[bytes]
) -> dict[bytes, int]:
    """Return the outbox id of each of these events that has a row."""
    asked = [UUID(bytes=event_id) for event_id in event_ids]
    return {r[0]: r[1] for r in await connection.fetch(_KNOWN, asked)}


async def duplicates(connection: asyncpg.Connection, after: int, upto: int) -> list[Any]:
    """Return (event id, lowest outbox id, rows, order) where rows share an event id."""
    found: list[Any] = await connection.fetch(_DUPLICATES, after, upto)
    return found
