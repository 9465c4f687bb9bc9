"""Hops 2 and 5: reads what is in quarantine: where from, why, since when, and the bytes.

Invariant: reading changes nothing; memory holds a bounded part of what others wrote, however large.
An observer sees all but the bytes, and is told so.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

# A page of rows is read so many at a time, and of so many bytes, whatever they are.
_PAGE_ROWS: Final = 500
_PAGE_BYTES: Final = 8_000_000
WHOLE: Final = 2**31 - 1
_HEADER_CHARACTERS: Final = 65_536
_HeaderReader = Callable[[str | None], list[tuple[str, bytes | None]]]


@dataclass(frozen=True, slots=True)
class Held:
    """A row of the quarantine, without its bytes.

    Attributes:
        order_id: when known; its first 1,200 characters, as `event_type` its first 200.
        aggregate_type: of a parked event; None: not known.
        outbox_id: of a parked event.
        group: consumer group of a refused return; topic, partition and offset say where it lies.
        value_bytes: size of the payload or record value; None: there is none, or it is gone.
        lies_in: where the bytes are: `quarantine`, `outbox`, `kept`; None: nowhere any more.
        kept: `whole`, or `part`: the first `kept_bytes` of the value are here.
        from_offset: the first offset that it stands for, where those are more than one.
        sha256: of the whole value, where it is not kept whole.
    """

    quarantine_id: int
    kind: str
    reason: str
    detail: str | None
    aggregate_type: str | None
    order_id: str | None
    event_id: str | None
    event_type: str | None
    outbox_id: int | None
    group: str | None
    topic: str | None
    partition: int | None
    offset: int | None
    value_bytes: int | None
    lies_in: str | None
    traceparent: str | None
    first_seen_at: datetime
    last_seen_at: datetime
    seen_count: int
    state: str
    resolved_at: datetime | None
    resolved_by: str | None
    resolved_why: str | None
    kept: str = "whole"
    kept_bytes: int | None = None
    from_offset: int | None = None
    sha256: str | None = None

    @property
    def where_from(self) -> str:
        """Where it came from, in words."""
        if self.kind == "event":
            return f"outbox row {self.outbox_id}"
        if self.from_offset in (None, self.offset):
            return f"{self.topic}[{self.partition}] offset {self.offset}"
        return f"{self.topic}[{self.partition}] offsets {self.from_offset} to {self.offset}"


_ROWS: Final = """
SELECT q.quarantine_id, q.kind, q.reason, left(q.detail, 2000) AS detail, q.aggregate_type,
       left(q.aggregate_id, 1200) AS order_id, left(q.event_id, 1200) AS event_id,
       coalesce(o.event_type, k.event_type) AS event_type, q.outbox_id, q.consumer_group AS "group",
       q.topic, q.partition, q.record_offset AS "offset",
       CASE q.kind WHEN 'event' THEN coalesce(o.payload_bytes, k.payload_bytes)
                   ELSE q.value_bytes END AS value_bytes,
       CASE WHEN q.kind = 'return' THEN 'quarantine' WHEN o.id IS NOT NULL THEN 'outbox'
            WHEN k.id IS NOT NULL THEN 'kept' END AS lies_in,
       q.traceparent, q.first_seen_at, q.last_seen_at, q.seen_count, q.state, q.resolved_at,
       q.resolved_by, q.resolved_why, q.kept, q.kept_bytes, q.from_offset,
       q.whole_sha256 AS sha256
  FROM relay.quarantine_summary AS q
  LEFT JOIN LATERAL (SELECT id, left(event_type, 200) AS event_type, payload_bytes
                       FROM relay.outbox_summary
                      WHERE q.kind = 'event' AND id = q.outbox_id LIMIT 1) AS o ON true
  LEFT JOIN LATERAL (SELECT id, left(event_type, 200) AS event_type, payload_bytes
                       FROM relay.kept_summary
                      WHERE q.kind = 'event' AND id = q.outbox_id LIMIT 1) AS k ON true
 WHERE q.quarantine_id = ANY ($1::bigint[])
 ORDER BY q.quarantine_id
"""


async def read_held(connection: asyncpg.Connection, ids: Sequence[int]) -> list[Held]:
    """Return these rows, ascending by id; at most some thousands."""
    return [Held(**dict(row)) for row in await connection.fetch(_ROWS, ids)]


_COUNTS: Final = """
SELECT kind, reason, state, count(*), min(first_seen_at) AS oldest_at
  FROM relay.quarantine_summary WHERE quarantine_id = ANY ($1::bigint[])
 GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class Group:
    """So many of a kind, for the same reason, in the same state."""

    kind: str
    reason: str
    state: str
    count: int
    oldest_at: datetime


async def count_held(connection: asyncpg.Connection, ids: Sequence[int]) -> list[Group]:
    """Count these rows by kind, reason and state, the most first."""
    return [Group(**dict(row)) for row in await connection.fetch(_COUNTS, ids)]


@dataclass(frozen=True, slots=True)
class Content:
    """What a row holds, or the first part of it.

    Attributes:
        value: None: there is none (a record without a value, a row that is gone).
        cut: there is more of the value.
    """

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    cut: bool


_RECORDS: Final = """
SELECT quarantine_id, record_key, substring(record_value FOR $2) AS record_value,
       octet_length(record_value) > $2 AS cut, record_headers::text
  FROM relay.quarantine WHERE quarantine_id = ANY ($1::bigint[]) AND kind = 'return'
"""
# By outbox id, wherever the row is now. As bytes: left() of a text of megabytes counts characters.
_EVENTS: Final = """
SELECT q.quarantine_id, convert_to(e.aggregate_id, 'UTF8') AS record_key,
       substring(coalesce(json_send(e.payload), e.payload_bytes) FOR $2) AS record_value,
       coalesce(octet_length(e.payload::text), octet_length(e.payload_bytes)) > $2 AS cut,
       left(e.headers::text, $3) AS record_headers
  FROM relay.quarantine AS q
 CROSS JOIN LATERAL (
       SELECT aggregate_id, payload, payload_bytes, headers FROM relay.outbox WHERE id = q.outbox_id
        UNION ALL
       SELECT aggregate_id, payload, payload_bytes, headers FROM relay.kept WHERE id = q.outbox_id
        LIMIT 1) AS e
 WHERE q.quarantine_id = ANY ($1::bigint[]) AND q.kind = 'event'
"""


async def read_contents(
    connection: asyncpg.Connection, ids: Sequence[int], most_bytes: int
) -> dict[int, Content]:
    """Return the bytes of rows, at most `most_bytes` of each value; those that are gone are not in.

    Of an event's own headers a bounded part is read too, unless all is asked for.

    Raises:
        asyncpg.InsufficientPrivilegeError: payloads are not for this login (relay_observer).
    """
    records = await connection.fetch(_RECORDS, ids, most_bytes)
    events = await connection.fetch(_EVENTS, ids, most_bytes, max(most_bytes, _HEADER_CHARACTERS))
    found = {row["quarantine_id"]: _content(row, _record_headers) for row in records}
    return found | {row["quarantine_id"]: _content(row, _row_headers) for row in events}


def _content(row: Mapping[str, Any], headers: _HeaderReader) -> Content:
    pairs = tuple(headers(row["record_headers"]))
    return Content(row["record_key"], row["record_value"], pairs, bool(row["cut"]))


def _record_headers(text: str | None) -> list[tuple[str, bytes | None]]:
    pairs = json.loads(text or "[]")
    return [(name, None if value is None else b64decode(value)) for name, value in pairs]


def _row_headers(text: str | None) -> list[tuple[str, bytes | None]]:
    """Return an outbox row's own headers; whatever is no object of texts, as it is written."""
    if text is None:
        return []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return [("headers", text.encode())]
    return [
        (name, (value if isinstance(value, str) else json.dumps(value)).encode(errors="replace"))
        for name, value in found.items()
    ]


async def pages(
    connection: asyncpg.Connection, ids: Sequence[int]
) -> AsyncIterator[list[tuple[Held, Content | None]]]:
    """Read rows with all their bytes, as many at a time as memory should hold."""
    for first in range(0, len(ids), _PAGE_ROWS):
        page = await read_held(connection, ids[first : first + _PAGE_ROWS])
        for some in by_bytes(page, _PAGE_BYTES):
            numbers = [one.quarantine_id for one in some]
            contents = await read_contents(connection, numbers, WHOLE)
            yield [(one, contents.get(one.quarantine_id)) for one in some]


def by_bytes(rows: Sequence[Held], most_bytes: int) -> list[list[Held]]:
    """Divide rows, in their order, into groups of at most so many bytes, or of one row."""
    groups: list[list[Held]] = []
    room = 0
    for row in rows:
        size = row.value_bytes or 0
        if not groups or size > room:
            groups.append([])
            room = most_bytes
        groups[-1].append(row)
        room -= size
    return groups
