"""Hop 5: a Kafka record as it is kept in the database: quarantined or pending, byte for byte.

Invariant: pure; what is stored and read again equals what came, headers and their order included.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from relay.kafka.consumer.partitions import Record

_NEWEST_MS: Final = 253_402_300_799_000  # the end of the year 9999


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record read back; has what `relay.kafka.consumer.partitions.Record` asks for."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


def stored_record(place: tuple[str, int], record: Any) -> StoredRecord:
    """Return a record of a partition, as any reader of ranges gives it."""
    return StoredRecord(
        *place, record.offset, record.timestamp, record.key, record.value, record.headers
    )


def stored_headers(record: Record) -> str | None:
    """Return the headers as JSON `[[name, base64 or null], ...]`; None when there are none."""
    if not record.headers:
        return None
    pairs = [
        # jsonb takes no null characters.
        (name.replace("\0", "\\0"), None if value is None else b64encode(value).decode())
        for name, value in record.headers
    ]
    return orjson.dumps(pairs).decode()


def recorded_ms(record: Record) -> int:
    """Return the record's timestamp within what PostgreSQL can store; producers write anything."""
    return min(max(record.timestamp, 0), _NEWEST_MS)


def read_stored(row: Mapping[str, Any]) -> StoredRecord:
    """Make a record of a row with the columns topic, partition, record_offset, record_key, ..."""
    pairs = orjson.loads(row["record_headers"] or "[]")
    headers = [(name, None if value is None else b64decode(value)) for name, value in pairs]
    return StoredRecord(
        row["topic"],
        row["partition"],
        row["record_offset"],
        row["recorded_ms"],
        row["record_key"],
        row["record_value"],
        headers,
    )
