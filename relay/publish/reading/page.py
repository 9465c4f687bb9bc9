"""Hop 2: a page of rows, as columns: what is done to all of them is done a column at a time.

Invariant: pure; rows stand in the order in which they are to be sent, and every column has one
value for each.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from operator import itemgetter
from typing import Any, Final

from relay.publish.reading.parked_orders import order_name
from relay.publish.reading.uuid_text import uuid_texts
from relay.publish.reading.window import Position

ERASED: Final = "application/x-relay-erased"
"""The content type of a row whose payload was taken out (`relay erase`): it goes as a tombstone."""


@dataclass(slots=True)
class Page:
    """Rows of the outbox.

    Attributes:
        ids: the outbox's own.
        event_ids: 16 bytes each.
        keys: the aggregate ids, as UTF-8; empty until a long one was read.
        payloads: JSON as written, as UTF-8, or the bytes of another content type; None until a
            large one was read.
        sizes: of payload, headers and twice the aggregate id, in bytes.
        headers: the row's own headers, a JSON object as UTF-8, or None.
        created_at: PostgreSQL's binary timestamptz, 8 bytes each.
        aggregate_types: their first 256 characters.
        content_types: None: JSON.
        after: the position once all of them are published.
        names: the aggregate ids as quarantine has them (`order_name`).
    """

    ids: Sequence[int]
    event_ids: Sequence[bytes]
    keys: Sequence[bytes]
    event_types: Sequence[str]
    payloads: list[bytes | None]
    sizes: Sequence[int]
    headers: list[bytes | None]
    traceparents: Sequence[str | None]
    tracestates: Sequence[str | None]
    created_at: Sequence[bytes]
    aggregate_types: Sequence[str]
    content_types: Sequence[str | None]
    after: Position
    names: Sequence[bytes] = field(init=False)
    _id_texts: list[bytes] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.names = self.keys

    @classmethod
    def empty(cls, after: Position) -> Page:
        """Return a page without rows."""
        return cls((), (), (), (), [], (), [], (), (), (), (), (), after)

    @classmethod
    def of_records(cls, records: Sequence[Sequence[Any]], after: Position) -> Page:
        """Turn fetched rows into columns; they stand in the order in which they are to be sent."""
        if not records:
            return cls.empty(after)
        columns = zip(*records, strict=True)
        (
            ids, event_ids, keys, types, payloads, sizes, headers, parents, states, times, kinds,
            contents,
        ) = columns  # fmt: skip
        return cls(
            ids, event_ids, keys, types, list(payloads), sizes, list(headers), parents, states,
            times, kinds, contents, after,
        )  # fmt: skip

    @property
    def payload_bytes(self) -> int:
        """The bytes of payloads, headers and ids together."""
        return sum(self.sizes)

    def id_texts(self) -> list[bytes]:
        """Return the event ids as text; made once."""
        if self._id_texts is None:
            self._id_texts = uuid_texts(self.event_ids)
        return self._id_texts

    def ending_at(self, after: Position) -> Page:
        """Return the same rows with another position after them."""
        page = replace(self, after=after)
        page.names = self.names
        return page

    def first(self, count: int) -> Page:
        """Return the first `count` rows."""
        return Page(
            self.ids[:count],
            self.event_ids[:count],
            self.keys[:count],
            self.event_types[:count],
            self.payloads[:count],
            self.sizes[:count],
            self.headers[:count],
            self.traceparents[:count],
            self.tracestates[:count],
            self.created_at[:count],
            self.aggregate_types[:count],
            self.content_types[:count],
            self.after,
        )

    def at(self, places: Sequence[int]) -> Page:
        """Return the rows at these places."""
        taken = itemgetter(*places) if len(places) > 1 else lambda column: (column[places[0]],)
        page = Page(
            taken(self.ids),
            taken(self.event_ids),
            taken(self.keys),
            taken(self.event_types),
            list(taken(self.payloads)),
            taken(self.sizes),
            list(taken(self.headers)),
            taken(self.traceparents),
            taken(self.tracestates),
            taken(self.created_at),
            taken(self.aggregate_types),
            taken(self.content_types),
            self.after,
        )
        page.names = taken(self.names)
        return page

    def without_payload(self, largest_bytes: int) -> list[int]:
        """Return the ids of the rows whose payload is still to be read, unless it is larger."""
        if None not in self.payloads:
            return []
        return [
            outbox_id
            for outbox_id, payload, size in zip(self.ids, self.payloads, self.sizes, strict=True)
            if payload is None and size <= largest_bytes
        ]

    def without_key(self) -> list[int]:
        """Return the ids of the rows whose aggregate id is still to be read, or is empty."""
        if b"" not in self.keys:
            return []
        return [outbox_id for outbox_id, key in zip(self.ids, self.keys, strict=True) if not key]

    def set_keys(self, keys: Mapping[int, bytes]) -> None:
        """Fill in the aggregate ids that were too long to come along."""
        rows = zip(self.ids, self.keys, strict=True)
        self.keys = [keys.get(outbox_id, key) for outbox_id, key in rows]
        self.names = [order_name(key) for key in self.keys]

    def set_payload(self, outbox_id: int, payload: bytes, headers: bytes | None) -> None:
        """Fill in what was too large to come along."""
        place = self.ids.index(outbox_id)
        self.payloads[place] = payload
        self.headers[place] = headers


def cut_to_bytes(sizes: Sequence[int], limit_bytes: int) -> int:
    """Return how many of the first rows fit into `limit_bytes`; at least one, if there is one."""
    if not sizes:
        return 0
    return max(1, bisect_right(list(accumulate(sizes)), limit_bytes))
