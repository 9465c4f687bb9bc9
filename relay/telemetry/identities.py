"""Hops 2-5: which span in which trace, for a page of rows or records at a time.

Invariant: every event leaves with a valid `traceparent`. One that came with a valid context keeps
it, byte for byte: the record carries the *creation context*, the `create` span is the parent of
`send` and of `process` alike, so a span lost with a killed relay orphans nothing. One without gets
a context made of its event id, whose root is the `send` span itself, the same at every republish.
Nothing here raises for what a row holds.

An *identity* is the part of an OTLP Span that says which one it is (trace_id, parent_span_id,
span_id, trace_state), already encoded; None means: not recorded, no work to be done.

A page of well-formed headers is checked and cut by a few operations on all of it at once, 0.36 us
an event; event by event it is 2.4 us (benchmarks/tracing). Any doubt takes the slow path.
"""

from __future__ import annotations

import os
from binascii import unhexlify
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from struct import iter_unpack
from typing import Final

from relay.telemetry import traceparent as w3c
from relay.telemetry.sampling import Sampler

_HEADER: Final = 55
_HEADER_CHARACTERS: Final = b"0123456789abcdef-"
_MAYBE_ZERO_ID: Final = b"-" + b"0" * 16
# Below this many events the operations on a whole page cost more than they save.
_SMALL_PAGE: Final = 3
_SMALL_ROOTS: Final = 12

# A header's dashes become the tag and length of parent_span_id, and seven bytes follow it, so that
# `00-T-P-01` is [00][22 08][T 16][22 08][P 8][22 08][01][7]: everything in its place but the
# last tag, which becomes span_id's, and the last 8 bytes, which become the span id.
_TAG_TEXT: Final = "2208"
_ROOM: Final = "00" * 7
_STRIDE: Final = 39
_LAST_TAG: Final = 29
_SPAN_ID: Final = 31
_CHILD: Final = 36

_PARENT_TAG: Final = b"\x22\x08"
_SPAN_TAG: Final = b"\x12\x08"
_TRACESTATE_TAG: Final = b"\x1a"

Row = tuple[bytes, bytes | None, bytes | None]


@dataclass(frozen=True, slots=True)
class TraceColumns:
    """What a page of events carries on, and which spans to write: three columns, in page order."""

    traceparents: list[bytes]
    tracestates: list[bytes | None]
    identities: list[bytes | None]


@dataclass(frozen=True, slots=True)
class Identities:
    """Makes identities. `recording` False: contexts flow on, and no span is written."""

    sampler: Sampler
    recording: bool = True

    def of_rows(
        self,
        traceparents: Sequence[str | None],
        tracestates: Sequence[str | None],
        event_ids: Sequence[bytes],
    ) -> TraceColumns:
        """Hop 2: the headers of a page of rows and the identities of their `send` spans.

        Args:
            traceparents: as stored in the rows; None or anything invalid is replaced.
            tracestates: as stored in the rows.
            event_ids: 16 bytes each.
        """
        given = [one for one in traceparents if one]
        whole = None if any(tracestates) else self._page(given)
        if len(given) == len(traceparents) and whole is not None:
            return whole
        if not given:
            return self._roots(event_ids)
        if whole is None:
            rows = zip(traceparents, tracestates, event_ids, strict=True)
            return _columns(self.of_row(*row) for row in rows)
        roots = self._roots([i for i, one in zip(event_ids, traceparents, strict=True) if not one])
        with_context, without = _rows(whole), _rows(roots)
        return _columns(next(with_context if one else without) for one in traceparents)

    def of_row(self, traceparent: str | None, tracestate: str | None, event_id: bytes) -> Row:
        """One row's `traceparent` and `tracestate` for the record, and its identity."""
        context = w3c.parse(traceparent)
        if context is None or traceparent is None:
            return self._root(event_id)
        state = w3c.tracestate(tracestate)
        header = traceparent if traceparent.startswith("00-") else context.header()
        encoded = None if state is None else state.encode("ascii")
        return header.encode("ascii"), encoded, self._child(context, encoded)

    def of_records(
        self, traceparents: Sequence[bytes | None], tracestates: Sequence[bytes | None]
    ) -> list[bytes | None]:
        """Hops 3 and 5: the identities of the `process` spans of a page of records.

        A record without a valid context, and one that is not sampled, has None.
        """
        texts = [w3c.from_header(header) for header in traceparents]
        whole = None if None in texts or any(tracestates) else self._page(texts)  # type: ignore[arg-type]
        if whole is not None:
            return whole.identities
        return [
            self._of_record(text, state) for text, state in zip(texts, tracestates, strict=True)
        ]

    def _of_record(self, text: str | None, state: bytes | None) -> bytes | None:
        context = w3c.parse(text)
        if context is None:
            return None
        passed = w3c.tracestate(w3c.from_header(state))
        return self._child(context, None if passed is None else passed.encode("ascii"))

    def _page(self, headers: Sequence[str]) -> TraceColumns | None:
        """Cut a page of headers that are all version 00; None if in doubt about any of them."""
        count = len(headers)
        encoded = _well_formed(headers)
        if encoded is None or not (self.sampler.parent_based or self.sampler.ratio in (0, 1)):
            return None
        identities: list[bytes | None] = [None] * count
        if self.recording:
            identities = self._recorded(headers, encoded[54::_HEADER])
        carried = list(chain.from_iterable(iter_unpack(f"{_HEADER}s", encoded)))
        return TraceColumns(carried, [None] * count, identities)

    def _recorded(self, headers: Sequence[str], flags: bytes) -> list[bytes | None]:
        """Make the identities of the headers whose flags (their low hex digits) ask for one."""
        wanted = [flag in b"13579bdf" for flag in flags] if len(set(flags)) > 1 else []
        first = flags[0] in b"13579bdf"
        if not self.sampler.parent_based:
            wanted, first = [], self.sampler.ratio > 0
        if not wanted:
            return _children(headers) if first else [None] * len(headers)
        return [
            one if sampled else None
            for one, sampled in zip(_children(headers), wanted, strict=True)
        ]

    def _roots(self, event_ids: Sequence[bytes]) -> TraceColumns:
        """Begin the traces of events without a context."""
        ids = b"".join(event_ids)
        count = len(event_ids)
        if count < _SMALL_ROOTS or 0 < self.sampler.ratio < 1 or bytes(8) in ids:
            return _columns(map(self._root, event_ids))
        sampled = self.sampler.ratio >= 1
        identities: list[bytes | None] = [None] * count
        if sampled and self.recording:
            identities = _root_identities(ids, count)
        return TraceColumns(_root_headers(ids, count, sampled=sampled), [None] * count, identities)

    def _root(self, event_id: bytes) -> Row:
        sampled = self.sampler.root(event_id)
        context = w3c.of_event(event_id, sampled=sampled)
        header = context.header().encode("ascii")
        if not (sampled and self.recording):
            return header, None, None
        return header, None, unhexlify(f"{context.trace_id}1208{context.span_id}")

    def _child(self, context: w3c.TraceContext, state: bytes | None) -> bytes | None:
        trace_id = unhexlify(context.trace_id)
        sampled = self.sampler.child(trace_id, parent_sampled=context.sampled)
        if not (self.recording and sampled):
            return None
        return identity(trace_id, new_span_id(), unhexlify(context.span_id), state)


def _rows(columns: TraceColumns) -> Iterator[Row]:
    return zip(columns.traceparents, columns.tracestates, columns.identities, strict=True)


def _columns(rows: Iterator[Row]) -> TraceColumns:
    made = list(rows)
    return TraceColumns([r[0] for r in made], [r[1] for r in made], [r[2] for r in made])


def identity(
    trace_id: bytes, span_id: bytes, parent_span_id: bytes = b"", tracestate: bytes | None = None
) -> bytes:
    """Encode one identity: ids of 16, 8 and 8 (or no) bytes, `tracestate` as the header had it."""
    parent = _PARENT_TAG + parent_span_id if parent_span_id else b""
    state = b"" if not tracestate else _TRACESTATE_TAG + _length(tracestate) + tracestate
    return trace_id + parent + _SPAN_TAG + span_id + state


def is_root(encoded: bytes) -> bool:
    """Tell whether an identity is that of a trace's first span."""
    return encoded[16:18] != _PARENT_TAG


def below(encoded: bytes) -> bytes:
    """Return the identity of a new span below a root; of a new sibling of any other span."""
    if is_root(encoded):
        return encoded[:16] + _PARENT_TAG + encoded[18:26] + _SPAN_TAG + new_span_id()
    return encoded[:28] + new_span_id() + encoded[36:]


def siblings(encoded: Sequence[bytes]) -> list[bytes]:
    """Return identities of new spans beside others, all of which have a parent."""
    if set(map(len, encoded)) != {_CHILD}:
        return [below(one) for one in encoded]
    count = len(encoded)
    made, random = bytearray(b"".join(encoded)), os.urandom(8 * count)
    for column in range(8):
        made[_CHILD - 8 + column :: _CHILD] = random[column::8]
    return list(chain.from_iterable(iter_unpack(f"{_CHILD}s", made)))


def new_span_id() -> bytes:
    """Make a random span id, never of zeros."""
    while not any(span_id := os.urandom(8)):
        pass
    return span_id


def _length(value: bytes) -> bytes:
    """Length prefix of at most 512 bytes of tracestate, as a varint."""
    size = len(value)
    return bytes((size,)) if size < 0x80 else bytes((size & 0x7F | 0x80, size >> 7))  # noqa: PLR2004


def _well_formed(headers: Sequence[str]) -> bytes | None:
    """Return the headers, 55 bytes each, end to end; None if one may not be a valid version 00."""
    count = len(headers)
    if count < _SMALL_PAGE or set(map(len, headers)) != {_HEADER}:
        return None
    joined = "".join(headers)
    if not joined.isascii():
        return None
    encoded = joined.encode("ascii")
    zeros, dashes = b"0" * count, b"-" * count
    fine = (
        not encoded.translate(None, _HEADER_CHARACTERS)
        and encoded.count(b"-") == 3 * count
        and encoded[0::_HEADER] == encoded[1::_HEADER] == zeros
        and encoded[2::_HEADER] == encoded[35::_HEADER] == encoded[52::_HEADER] == dashes
        and _MAYBE_ZERO_ID not in encoded
    )
    return encoded if fine else None


def _children(headers: Sequence[str]) -> list[bytes | None]:
    """Make the identities of new spans below well-formed headers."""
    count = len(headers)
    text = _ROOM.join(headers) + _ROOM
    raw = bytearray(unhexlify(text.replace("-", _TAG_TEXT)))
    raw[_LAST_TAG::_STRIDE] = _SPAN_TAG[:1] * count
    random = os.urandom(8 * count)
    for column in range(8):
        raw[_SPAN_ID + column :: _STRIDE] = random[column::8]
    return list(chain.from_iterable(iter_unpack("3x36s", raw)))


def _root_headers(ids: bytes, count: int, *, sampled: bool) -> list[bytes]:
    """Write `00-<id>-<last half of id>-<flags>` for ids that stand end to end, column by column."""
    flags = b"01" if sampled else b"00"
    made = bytearray((b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-" + flags) * count)
    text = ids.hex().encode("ascii")
    for column in range(32):
        made[3 + column :: _HEADER] = text[column::32]
    for column in range(16):
        made[36 + column :: _HEADER] = text[16 + column :: 32]
    return list(chain.from_iterable(iter_unpack(f"{_HEADER}s", made)))


def _root_identities(ids: bytes, count: int) -> list[bytes | None]:
    made = bytearray((bytes(16) + _SPAN_TAG + bytes(8)) * count)
    for column in range(16):
        made[column::26] = ids[column::16]
    for column in range(8):
        made[18 + column :: 26] = ids[8 + column :: 16]
    return list(chain.from_iterable(iter_unpack("26s", made)))
