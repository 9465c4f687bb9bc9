"""Hop 5: makes a record small before it waits anywhere: what nobody will read is not carried along.

Invariant: pure. What decides a return stays whole: its value up to the limit, the headers that have
a meaning here, a key that can be an order's. The rest is `PartialBytes` or `PartialHeaders`, which
say that they are not all there is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from relay.kafka.consumer.partitions import Record
from relay.kafka.unreadable import PartialBytes

MAX_KEY_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 500
MAX_HEADER_BYTES: Final = 64 * 1024
_NAMES: Final = frozenset(
    {"ce_id", "ce_source", "ce_subject", "ce_causationid", "traceparent", "tracestate"}
)


class PartialHeaders(tuple[tuple[str, bytes | None], ...]):
    """Those headers of a record that have a meaning here, of so many others."""

    __slots__ = ()


def trimming(max_value_bytes: int) -> Callable[[Any], Any]:
    """Return what makes aiokafka's records small.

    Args:
        max_value_bytes: a longer value is not read, and only a prefix of it is kept.
    """

    def trim(record: Any) -> Any:
        if len(record.value or b"") > max_value_bytes and type(record.value) is bytes:
            record = replace(record, value=PartialBytes.of(record.value))
        if len(record.key or b"") > MAX_KEY_BYTES:
            record = replace(record, key=PartialBytes.of(record.key))
        if record.headers and _are_large(record.headers):
            record = replace(record, headers=_known(record.headers))
        return record

    return trim


def _are_large(headers: tuple[tuple[str, bytes | None], ...]) -> bool:
    if len(headers) > MAX_HEADERS:
        return True
    return sum([len(value) for _, value in headers if value]) > MAX_HEADER_BYTES


def _known(headers: tuple[tuple[str, bytes | None], ...]) -> PartialHeaders:
    """Keep the last header of each name that is read, unless it is too long to be read."""
    last = {name: value for name, value in headers if name in _NAMES}
    return PartialHeaders(
        (name, value) for name, value in last.items() if len(value or b"") <= MAX_KEY_BYTES
    )


def is_whole(record: Record) -> bool:
    """Tell whether a record is here as it came."""
    return not (
        isinstance(record.value, PartialBytes)
        or isinstance(record.key, PartialBytes)
        or isinstance(record.headers, PartialHeaders)
    )
