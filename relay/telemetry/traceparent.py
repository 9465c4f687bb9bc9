"""Every hop's trace context: W3C `traceparent` and `tracestate`, read strictly, kept as given.

Invariant: what a row or a record carries never makes an event fail; a context that is missing or
not valid is `None` here, and the caller derives one from the event's id, the same at every
republish. Nothing here raises for any text.

Source: https://www.w3.org/TR/trace-context/ (level 1 and 2), sections 3.2 and 3.3.
"""

from __future__ import annotations

from binascii import unhexlify
from typing import Final, NamedTuple

SAMPLED: Final = 0x01

_LENGTH: Final = 55
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_FLAGS: Final = {f"{flags:02x}": flags for flags in range(256)}
_FUTURE_VERSIONS: Final = frozenset(f"{version:02x}" for version in range(1, 255))
# The level that vendors should propagate at least, section 3.3.1.5; more is cut at an entry.
_TRACESTATE_LIMIT: Final = 512


class TraceContext(NamedTuple):
    """One span's place in a trace. Ids are lower-case hex, as in the header."""

    trace_id: str
    span_id: str
    flags: int

    @property
    def sampled(self) -> bool:
        """Whether the caller asked for this trace to be recorded."""
        return self.flags & SAMPLED == SAMPLED

    def header(self) -> str:
        """Write the `traceparent` of this context, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def parse(traceparent: str | None) -> TraceContext | None:
    """Read a `traceparent`; None when it is missing or not valid.

    Version `ff`, ids of zeros, upper case and a version 00 of another length are not valid. A
    version still to come is read by its first four fields, and its unknown flags are dropped.
    """
    if traceparent is None or len(traceparent) < _LENGTH:
        return None
    trace_id, span_id = traceparent[3:35], traceparent[36:52]
    flags = _FLAGS.get(traceparent[53:55])
    if flags is None or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    if traceparent[2] + traceparent[35] + traceparent[52] != "---" or not _hex(trace_id + span_id):
        return None
    if traceparent[:2] == "00":
        return TraceContext(trace_id, span_id, flags) if len(traceparent) == _LENGTH else None
    if traceparent[:2] in _FUTURE_VERSIONS and traceparent[55:56] in ("", "-"):
        return TraceContext(trace_id, span_id, flags & SAMPLED)
    return None


def _hex(text: str) -> bool:
    try:
        unhexlify(text)
    except ValueError:
        return False
    return text == text.lower()


def from_header(value: bytes | None) -> str | None:
    """Read a Kafka header's bytes as text; None when it is missing or not ASCII."""
    try:
        return None if value is None else value.decode("ascii")
    except UnicodeDecodeError:
        return None


def of_event(event_id: bytes, *, sampled: bool) -> TraceContext:
    """Make the context of an event without one: the trace id is its `event_id`'s 16 bytes.

    The span id is the id's last 8 bytes, so every republish of the event carries the same context.
    Ids of zeros, which W3C forbids, end in one.
    """
    text = event_id.hex()
    trace_id = text if text != _NO_TRACE else f"{1:032x}"
    span_id = text[16:] if text[16:] != _NO_SPAN else f"{1:016x}"
    return TraceContext(trace_id, span_id, SAMPLED if sampled else 0)


def tracestate(value: str | None) -> str | None:
    """Pass a `tracestate` through, cut at an entry to 512 characters; None when it is unusable."""
    if not value or not value.isascii() or not value.replace("\t", " ").isprintable():
        return None
    if len(value) <= _TRACESTATE_LIMIT:
        return value
    return value[: _TRACESTATE_LIMIT + 1].rpartition(",")[0] or None
