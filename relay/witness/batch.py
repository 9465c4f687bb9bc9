"""Hop 2, witnessed: what a poll's records say: which event each is of, and which say nothing.

Invariant: pure, and never raises, whatever anybody wrote. Each record is in exactly one of four
places: to be found by its event id, known to be the relay's own, unmatched, or a replay's
(whose ledger row its sender writes).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from relay.kafka.consumer.handler import Part
from relay.kafka.event_headers import event_id_of
from relay.kafka.unreadable import unreadable

_OWN: Final = "relay_epoch"
_REPLAY: Final = "replay_id"
_KEY_BYTES: Final = 1024

NO_ID: Final = "no_id"
NO_ROW: Final = "no_row"
ROW_DROPPED: Final = "row_dropped"
UNREADABLE: Final = "unreadable"


class Place(NamedTuple):
    """Where a record stands, and when it was written (Unix seconds, at most now)."""

    partition: int
    offset: int
    at: float
    key: bytes | None


class Unmatched(NamedTuple):
    """A record without a row, and why."""

    place: Place
    event_id: str | None
    reason: str


@dataclass(slots=True)
class Batch:
    """A poll's records, read.

    Attributes:
        event_ids: as PostgreSQL writes them, in the order of `places`.
        own: places in `event_ids` of records that our relay sent: it writes their proof itself.
    """

    parts: Sequence[Part]
    event_ids: list[str] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    unmatched: list[Unmatched] = field(default_factory=list)
    records: int = 0
    replayed: int = 0

    def without(self, known: set[tuple[int, int]]) -> None:
        """Leave out those of our relay's own records whose proof stands in the ledger."""
        if not self.own:
            return
        out = {n for n in self.own if (self.places[n].partition, self.places[n].offset) in known}
        kept = [n for n in range(len(self.places)) if n not in out]
        self.event_ids = [self.event_ids[n] for n in kept]
        self.places = [self.places[n] for n in kept]
        self.own = []


def read_batch(parts: Sequence[Part]) -> Batch:
    """Read the records of a poll."""
    batch, now = Batch(parts), time.time()
    for part in parts:
        partition = part.partition.partition
        batch.records += len(part.records)
        for record in part.records:
            _note(batch, partition, record, now)
    return batch


def _note(batch: Batch, partition: int, record: Any, now: float) -> None:
    # A producer may write any time, and without one it is -1.
    at = min(max(record.timestamp / 1000, 0.0), now)
    key = record.key
    place = Place(partition, record.offset, at, None if key is None else bytes(key[:_KEY_BYTES]))
    if unreadable(record) is not None:
        batch.unmatched.append(Unmatched(place, None, UNREADABLE))
        return
    headers = record.headers
    own = False
    for name, _value in headers:
        if name == _REPLAY:
            batch.replayed += 1
            return
        own = own or name == _OWN
    event_id = event_id_of(headers)
    if event_id is None:
        batch.unmatched.append(Unmatched(place, None, NO_ID))
        return
    if own:
        batch.own.append(len(batch.places))
    batch.event_ids.append(event_id)
    batch.places.append(place)
