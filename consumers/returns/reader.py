"""Hop 5: reads a return out of a record, whoever wrote it.

Invariant: never raises for what a record holds: the result is a `Return` whose every text
PostgreSQL can store, or a `Refusal` that says what is wrong. A user's processor is foreign code: it
owes a key or an `order_id`, a `status`, and nothing else. Whoever reads calls `prepare` with the
records first: only there is anybody asked (a schema registry).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from typing import Any, Final, NamedTuple

import orjson

from relay.consumers.returns.decoding import (
    FRAMING,
    FRAMING_BYTES,
    Decoder,
    UndecodableError,
    UnknownSchemaError,
    decoder_for,
    picked,
)
from relay.consumers.returns.packing import NULL, SEPARATOR
from relay.consumers.returns.refusals import Reason, Refusal
from relay.kafka.consumer.partitions import Record
from relay.kafka.unreadable import PartialBytes
from relay.orders.keys import Canonical, canonical_event_id, canonical_order_id
from relay.runtime.flow import ApplyColumns, Flow, KeyType

_IDENTITY_BYTES: Final = 512
_REASON_CHARACTERS: Final = 2000
_SHOWN_HASH: Final = 12
_UNSTORABLE: Final = dict.fromkeys(map(ord, ("\0", SEPARATOR, NULL)), "\N{REPLACEMENT CHARACTER}")


class Return(NamedTuple):
    """A return that can be applied, if its order is there and its status still may.

    Attributes:
        order_id: canonical text of the order's key.
        status: one of the flow's ranked statuses.
        own_identity: `source/id`; None when it has none that can be stored.
        content: hash of key and value: the same identity with another one is another return.
        causation_id: the event it answers, when it says so.
        others: what its key and its ce_subject name, as ids of orders, beside `order_id`.
    """

    record: Record
    order_id: str
    status: str
    reason: str | None
    own_identity: str | None
    content: bytes
    causation_id: str | None
    traceparent: str | None
    tracestate: bytes | None
    others: tuple[str, ...] = ()

    @property
    def position(self) -> str:
        """Identity by place: `topic-partition-offset`."""
        record = self.record
        return f"{record.topic}-{record.partition}-{record.offset}"


class _Malformed(Exception):  # noqa: N818 - never leaves this module
    """What is wrong with the record."""

    def __init__(self, detail: str, reason: Reason = Reason.MALFORMED) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ReturnReader:
    """Reads returns of one flow.

    Args:
        flow: its statuses, aliases and key type; a value larger than it allows is refused unread.

    Raises:
        SettingsError: its decoder cannot work.
    """

    flow: Flow
    _decoder: Decoder | None = field(init=False)
    _statuses: Mapping[str, str] = field(init=False)
    _key_type: KeyType = field(init=False)
    _canonical: Canonical = field(init=False)

    def __post_init__(self) -> None:
        apply = self.flow.apply
        key_type: KeyType = apply.key_type if isinstance(apply, ApplyColumns) else "text"
        object.__setattr__(self, "_decoder", decoder_for(self.flow.decoding))
        ranked = {status: status for status in self.flow.status_ranks}
        object.__setattr__(self, "_key_type", key_type)
        object.__setattr__(self, "_canonical", canonical_order_id(self.flow))
        object.__setattr__(self, "_statuses", ranked | dict(self.flow.status_aliases))

    async def prepare(self, records: Iterable[Record]) -> None:
        """Get ready to read these records.

        Raises:
            DecoderUnavailableError: the decoder cannot work now.
        """
        if self._decoder is not None:
            await self._decoder.prepare([one.value for one in records if type(one.value) is bytes])

    def read(self, record: Record) -> Return | Refusal:
        """Read one record.

        Raises:
            DecoderUnavailableError: nobody called `prepare` with it, or the decoder's own function
                cannot work now.
        """
        if type(record.value) is PartialBytes and record.value.fault is not None:
            return _unreadable(record, record.value)
        headers = dict(record.headers)
        order_id = None
        try:
            value = self._value(record)
            order_id = self._order_id(value, headers, record)
            word = _word(value)
        except _Malformed as wrong:
            order_id = order_id or self._guessed_order_id(headers, record)
            return _refused(record, headers, wrong.reason, str(wrong), order_id)
        status = self._statuses.get(word)
        if status is None:
            detail = f"the status ({described_value(word)}) is none of {', '.join(self._statuses)}"
            return _refused(record, headers, Reason.UNKNOWN_STATUS, detail, order_id)
        return Return(
            record,
            order_id,
            status,
            _reason(value.get("reason")),
            _identity(headers),
            content_hash(record),
            event_named(headers),
            _header(headers, "traceparent"),
            headers.get("tracestate"),
            self._others(order_id, headers.get("ce_subject"), record.key),
        )

    def _value(self, record: Record) -> dict[str, Any]:
        if not record.value:
            raise _Malformed("no value")
        size = record.value.size if type(record.value) is PartialBytes else len(record.value)
        most = self.flow.max_return_bytes
        if size > most:
            raise _Malformed(f"{size} bytes; {most} are read")
        if self._decoder is not None:
            return self._decoded(self._decoder, record)
        value = _json(record.value)
        if not isinstance(value, dict):
            raise _Malformed(f"a JSON object is needed, not {type(value).__name__}")
        return picked(self.flow.decoding, value) if self.flow.decoding.fields else value

    def _decoded(self, decoder: Decoder, record: Record) -> dict[str, Any]:
        try:
            return picked(self.flow.decoding, decoder.decode(record))
        except UnknownSchemaError as error:
            raise _Malformed(str(error), Reason.UNKNOWN_SCHEMA) from None
        except UndecodableError as error:
            raise _Malformed(str(error)) from None

    def _order_id(
        self, value: Mapping[str, Any], headers: Mapping[str, bytes | None], record: Record
    ) -> str:
        said = value.get("order_id")
        if said is None:
            said = _header(headers, "ce_subject")
        if said is None:
            said = _utf8(record.key)
        if isinstance(said, int) and not isinstance(said, bool):
            said = str(said)
        if said is None or said == "":
            raise _Malformed("neither an order_id nor a key")
        order_id = self._canonical(said) if isinstance(said, str) else None
        if order_id is None:
            raise _Malformed(f"no order id of type {self._key_type}: {described_value(said)}")
        return order_id

    def _others(self, order_id: str, *named: bytes | None) -> tuple[str, ...]:
        own, found = order_id.encode(), []
        for said in named:
            # Nearly always the same bytes: a return costs 0.2 us here.
            if not said or said == own:
                continue
            text = _utf8(said)
            other = None if text is None else self._canonical(text)
            if other is not None and other != order_id and other not in found:
                found.append(other)
        return tuple(found)

    def _guessed_order_id(self, headers: Mapping[str, bytes | None], record: Record) -> str | None:
        """Say whose return it may be, so that diagnosis finds bytes that nobody can read."""
        said = _header(headers, "ce_subject") or _utf8(record.key)
        return self._canonical(said) if said else None


def described_value(said: Any) -> str:
    """Tell a value by its kind, length and hash: logs and summaries hold nothing of it."""
    if not isinstance(said, str):
        return type(said).__name__
    digest = sha256(said.encode(errors="surrogatepass")).hexdigest()[:_SHOWN_HASH]
    return f"{len(said)} characters, SHA-256 {digest}"


def _unreadable(record: Record, value: PartialBytes) -> Refusal:
    first = record.offset if value.from_offset is None else value.from_offset
    where = f"offset {first}" if first == record.offset else f"offsets {first} to {record.offset}"
    detail = f"{where}: {value.fault}: {value.why}; {value.size} bytes, SHA-256 {value.sha256}"
    return Refusal(record, Reason.UNREADABLE, detail)


def _refused(
    record: Record,
    headers: Mapping[str, bytes | None],
    reason: Reason,
    detail: str,
    order_id: str | None,
) -> Refusal:
    traceparent = _header(headers, "traceparent")
    return Refusal(record, reason, detail, order_id, _identity(headers), traceparent)


def content_hash(record: Record) -> bytes:
    """Return 16 bytes that tell one return's content from another's."""
    value, key = record.value or b"", record.key or b""
    if b"\0" in value:  # as JSON never has: a key could run into it
        value = b"\0%d\0%b" % (len(value), value)
    return blake2b(b"%b\0%b" % (value, key), digest_size=16).digest()


def _json(value: bytes) -> Any:
    # Confluent's JSON serializer writes its framing before it.
    framed = value[0] == FRAMING and len(value) > FRAMING_BYTES
    try:
        # Strict: no NaN, no lone surrogates, 1,024 levels at most.
        return orjson.loads(value[FRAMING_BYTES:] if framed else value)
    except orjson.JSONDecodeError as error:
        raise _Malformed(f"not JSON: {error}") from None


def _word(value: Mapping[str, Any]) -> str:
    word = value.get("status")
    if isinstance(word, int) and not isinstance(word, bool):
        word = str(word)
    if not isinstance(word, str) or not word:
        raise _Malformed("no status")
    return word


def _identity(headers: Mapping[str, bytes | None]) -> str | None:
    own_id = _header(headers, "ce_id")
    if own_id is None:
        return None
    return f"{_header(headers, 'ce_source') or ''}/{own_id}"


def event_named(headers: Mapping[str, bytes | None]) -> str | None:
    """Return the event that a return says it answers, as the database writes event ids."""
    text = _header(headers, "ce_causationid")
    return text if text is None else canonical_event_id(text)


def _header(headers: Mapping[str, bytes | None], name: str) -> str | None:
    """Return a header's text; None when it is missing, or cannot be stored and indexed."""
    value = headers.get(name)
    if not value or len(value) > _IDENTITY_BYTES:
        return None
    text = _utf8(value)
    return text if text is not None and text.isprintable() else None


def _utf8(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _reason(said: Any) -> str | None:
    """Keep the reason readable and storable; it decides nothing, so it refuses nothing."""
    if said is None or said == "":
        return None
    if isinstance(said, str):
        text = said
    else:
        try:
            text = orjson.dumps(said).decode()
        except orjson.JSONEncodeError:  # written out, 254 levels are the limit
            text = repr(said)
    return text[:_REASON_CHARACTERS].translate(_UNSTORABLE)
