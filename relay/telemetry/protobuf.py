"""Every hop's spans: the pieces of OTLP's protobuf encoding that are written by hand.

Invariant: what these functions return is a whole field or value, so pieces may be joined in any
order. Text is cut to a limit and always valid UTF-8, so no event's data can make a collector refuse
a request; nothing here raises for data.

Source: protobuf encoding guide; opentelemetry-proto, common.proto and trace.proto.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

AttributeValue = str | bool | int | float

# The SDK has no limit by default; one hostile order id must not make a request of megabytes.
DEFAULT_VALUE_LENGTH_LIMIT: Final = 4096

_DOUBLE: Final = Struct("<d")
_INT64_MASK: Final = 2**64 - 1


def varint(value: int) -> bytes:
    """Encode an unsigned number, protobuf's variable-length way."""
    encoded = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def delimited(tag: bytes, value: bytes) -> bytes:
    """Encode a field of bytes, text or a nested message."""
    return tag + varint(len(value)) + value


def text(value: str, limit: int = DEFAULT_VALUE_LENGTH_LIMIT) -> bytes:
    """Encode text as UTF-8, cut to `limit` characters; lone surrogates become question marks."""
    return value[:limit].encode("utf-8", "replace")


def valid_text(value: bytes, limit: int) -> bytes:
    """Cut to `limit` bytes; what is not UTF-8 then (foreign bytes) becomes U+FFFD."""
    cut = _cut(value, limit)
    try:
        cut.decode("utf-8")
    except UnicodeDecodeError:
        return _cut(cut.decode("utf-8", "replace").encode("utf-8"), limit)
    return cut


def _cut(value: bytes, limit: int) -> bytes:
    return value if len(value) <= limit else _without_torn_end(value[:limit])


def _without_torn_end(cut: bytes) -> bytes:
    """Drop the first bytes of a character whose last ones were cut off (at most three)."""
    for back in range(1, min(4, len(cut)) + 1):
        byte = cut[-back]
        if byte < 0x80:  # noqa: PLR2004 - ASCII
            return cut
        if byte >= 0xC0:  # noqa: PLR2004 - the first byte of a longer character
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4  # noqa: PLR2004
            return cut if back >= length else cut[:-back]
    return cut


def key_value(key: str, value: AttributeValue, limit: int = DEFAULT_VALUE_LENGTH_LIMIT) -> bytes:
    """Encode a KeyValue message without the tag of the field that holds it."""
    return delimited(b"\x0a", key.encode()) + delimited(b"\x12", _any_value(value, limit))


def _any_value(value: AttributeValue, limit: int) -> bytes:
    match value:
        case bool():
            return b"\x10\x01" if value else b"\x10\x00"
        case int():
            return b"\x18" + varint(value & _INT64_MASK)
        case float():
            return b"\x21" + _DOUBLE.pack(value)
        case str():
            return delimited(b"\x0a", text(value, limit))


def attribute(key: str, value: AttributeValue, limit: int = DEFAULT_VALUE_LENGTH_LIMIT) -> bytes:
    """Encode one attribute as a field of a Span."""
    return delimited(b"\x4a", key_value(key, value, limit))


def link(trace_id: bytes, span_id: bytes) -> bytes:
    """Encode a link to another span (ids of 16 and 8 bytes) as a field of a Span."""
    return delimited(b"\x6a", delimited(b"\x0a", trace_id) + delimited(b"\x12", span_id))


LINK_TO_PARENT_TAIL: Final = delimited(b"\x22", key_value("opentracing.ref_type", "child_of"))
_LINK_HEAD: Final = b"\x6a" + varint(28 + len(LINK_TO_PARENT_TAIL))


def link_to_parent(trace_id: bytes, span_id: bytes) -> bytes:
    """Encode a link to the span's own parent.

    Jaeger makes one reference of the two, with the link's type: without the attribute from
    OpenTracing it would take the parent for a span that was merely followed.
    """
    ids = b"\x0a\x10" + trace_id + b"\x12\x08" + span_id
    return _LINK_HEAD + ids + LINK_TO_PARENT_TAIL


def error_status(message: str) -> bytes:
    """Encode status ERROR with its message as a field of a Span."""
    return delimited(b"\x7a", delimited(b"\x12", text(message)) + b"\x18\x02")
