"""Hop 1's event, and the row it becomes: everything is checked before a statement is sent.

Invariant: a `Row` holds only what PostgreSQL can store and Kafka can carry, so that the relay has
nothing to park. An event that cannot become one raises `EventRefusedError`; nothing was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from relay.outbox.errors import FieldRefusedError, PayloadTooLargeError, SchemaMismatchError
from relay.outbox.event_types import EventTypes, explain_sample, standard
from relay.outbox.payload import DEFAULT_LIMITS, Limits, Payload, check, encode

_TEXT_LIMIT: Final = 255
_HEADERS_BYTES: Final = 16_384
_LARGEST_VERSION: Final = 2**31 - 1
# The relay writes these itself; a second one would leave the choice to the reader.
_RESERVED_HEADERS: Final = frozenset(
    {"traceparent", "tracestate", "content-type", "relay_epoch", "replay_id"}
)
_RESERVED_PREFIX: Final = "ce_"


@dataclass(frozen=True, slots=True)
class Event:
    """A business fact about one order (or another aggregate).

    `payload` is JSON text or UTF-8 bytes, kept byte for byte, or a mapping, written compactly.
    With a `content_type` it is the bytes that a serializer of yours made (Avro, Protobuf, with
    Confluent's framing or without); they are stored and published as they are, and no schema is
    looked at.
    `aggregate_version` counts the order's own changes, when it has a counter. `headers` travel as
    extra record headers.
    """

    event_type: str
    aggregate_id: str
    payload: Payload
    aggregate_type: str = "order"
    aggregate_version: int | None = None
    headers: Mapping[str, str] | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """An event that was checked, as the texts that the INSERT sends."""

    aggregate_type: str
    aggregate_id: str
    aggregate_version: int | None
    event_type: str
    payload: str | None
    headers: str | None
    payload_bytes: bytes | None = None
    content_type: str | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """Where the event stands. `outbox_id` is its order; `event_id` is its identity, for ever."""

    outbox_id: int
    event_id: UUID
    traceparent: str | None
    tracestate: str | None


def checked(event: Event, event_types: EventTypes | None, limits: Limits = DEFAULT_LIMITS) -> Row:
    """Check an event whole and return its row.

    Raises:
        EventRefusedError: its subclass for the first fault found.
    """
    check_text("aggregate_type", event.aggregate_type)
    check_text("aggregate_id", event.aggregate_id)
    check_text("event_type", event.event_type)
    _check_version(event.aggregate_version)
    if event.content_type is not None:
        types = standard() if event_types is None else event_types
        return _row_of_bytes(event, event.content_type, types, limits)
    text = encode(event.payload)
    document = check(text, limits)
    _check_type(event, document, event_types)
    return Row(
        aggregate_type=event.aggregate_type,
        aggregate_id=event.aggregate_id,
        aggregate_version=event.aggregate_version,
        event_type=event.event_type,
        payload=text,
        headers=_headers(event.headers),
    )


def _check_type(event: Event, document: Mapping[str, Any], event_types: EventTypes | None) -> None:
    if event_types is not None:
        event_types.check(event.event_type, event.aggregate_id, document)
        return
    try:
        standard().check(event.event_type, event.aggregate_id, document)
    except SchemaMismatchError as error:
        explain_sample(error, event.event_type)
        raise


def _row_of_bytes(event: Event, content_type: str, types: EventTypes, limits: Limits) -> Row:
    """Check what can be checked of bytes that only their reader understands."""
    check_text("content_type", content_type)
    if not isinstance(event.payload, bytes):
        reason = f"with a content_type it must be bytes, not {type(event.payload).__name__}"
        raise FieldRefusedError(reason, "payload")
    if len(event.payload) > limits.max_bytes:
        raise PayloadTooLargeError(f"larger than {limits.max_bytes} bytes")
    types.require(event.event_type)
    return Row(
        aggregate_type=event.aggregate_type,
        aggregate_id=event.aggregate_id,
        aggregate_version=event.aggregate_version,
        event_type=event.event_type,
        payload=None,
        headers=_headers(event.headers),
        payload_bytes=event.payload,
        content_type=content_type,
    )


def check_text(name: str, value: object) -> None:
    """Refuse a text that PostgreSQL cannot store, or that is empty or longer than 255 characters.

    Raises:
        FieldRefusedError: with `name` as its path.
    """
    if not isinstance(value, str):
        raise FieldRefusedError(f"must be text, not {type(value).__name__}", name)
    if not 0 < len(value) <= _TEXT_LIMIT:
        raise FieldRefusedError(f"must have 1 to {_TEXT_LIMIT} characters", name)
    _check_storable(name, value)


def _check_storable(name: str, value: str) -> None:
    if "\x00" in value:
        raise FieldRefusedError("the character U+0000 cannot be stored", name)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FieldRefusedError("half of a surrogate pair is no character", name) from error


def _check_version(version: object) -> None:
    if version is None:
        return
    if not isinstance(version, int) or isinstance(version, bool):
        raise FieldRefusedError("must be an integer", "aggregate_version")
    if not 0 <= version <= _LARGEST_VERSION:
        raise FieldRefusedError(f"must be 0 to {_LARGEST_VERSION}", "aggregate_version")


def _headers(headers: Mapping[str, str] | None) -> str | None:
    if not headers:
        return None
    for name, value in headers.items():
        check_text("headers", name)
        if not isinstance(value, str):
            raise FieldRefusedError("must be text", f"headers/{name}")
        _check_storable(f"headers/{name}", value)
        if name.lower() in _RESERVED_HEADERS or name.lower().startswith(_RESERVED_PREFIX):
            raise FieldRefusedError("is written by the relay itself", f"headers/{name}")
    text = json.dumps(dict(headers), ensure_ascii=False, separators=(",", ":"))
    if len(text.encode()) > _HEADERS_BYTES:
        raise FieldRefusedError(f"larger than {_HEADERS_BYTES} bytes", "headers")
    return text
