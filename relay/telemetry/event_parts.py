"""Hops 2-5: what spans say of each event for itself, encoded; the rest of them, a batch shares.

Invariant: a part begins with the event's identity, and what follows are whole fields of a Span, so
that `otlp` may frame it with whatever a batch has in common. Nothing here raises for what an event
holds: text is cut and mended.

Where all rows of a page are alike, columns meet in one `bytes.join` a row, called from C: with a
row at a time in Python a span took a third longer (benchmarks/tracing).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, repeat
from struct import Struct, iter_unpack, pack
from typing import Final, NamedTuple

from relay.telemetry import names
from relay.telemetry.protobuf import (
    DEFAULT_VALUE_LENGTH_LIMIT,
    LINK_TO_PARENT_TAIL,
    attribute,
    delimited,
    link_to_parent,
    valid_text,
)

_START: Final = Struct("<cq")

# Two-byte lengths keep the head of `order.id` at one size; they reach this far.
_TWO_BYTE_LIMIT: Final = 16_000

_WAITED_HEAD: Final = attribute(names.OUTBOX_WAITED_SECONDS, 0.0)[:-8]
_MESSAGE_ID_HEAD: Final = attribute(names.MESSAGE_ID, "-" * 36)[:-36]

# Where an identity (identities.py) has a parent, this stands behind its trace id.
_PARENT_TAG: Final = 0x22
_CHILD_BYTES: Final = 36
_SPAN_ID_TAG: Final = b"\x12\x08"
_LINK_HEAD: Final = link_to_parent(bytes(16), bytes(8))[:4]
_join: Final = b"".join

# Below this many events columns cost more than they save.
_FEW: Final = 12


class Said(NamedTuple):
    """Further columns of a page, for `event_parts`: encoded, and to be read once.

    Attributes:
        length: of each of them; None: there is none.
    """

    length: int | None
    columns: Sequence[Iterable[bytes]]


def event_parts(
    identities: Sequence[bytes | None],
    order_ids: Sequence[bytes],
    said: Said,
    *,
    limit: int = DEFAULT_VALUE_LENGTH_LIMIT,
    linked: bool = False,
) -> list[bytes | None]:
    """Encode what spans say of each event for itself; the rest of them, a batch shares.

    Args:
        identities: from `Identities`; an event with None has no part.
        order_ids: UTF-8.
        said: further fields of each (`said_of`).
        limit: bytes of an order id that are kept.
        linked: each links to its parent, too.

    Raises:
        ValueError: the columns differ in length.
    """
    if len(identities) != len(order_ids) or said.length not in (None, len(identities)):
        raise ValueError("the columns of a batch of spans must have one length")
    order_ids = _text_column(order_ids, min(limit, _TWO_BYTE_LIMIT))
    if len(identities) < _FEW or None in identities:
        return _row_by_row(identities, order_ids, said, linked=linked)
    own: Sequence[bytes] = identities  # type: ignore[assignment]
    links = _links(own) if linked else ()
    if links is None:
        return _row_by_row(identities, order_ids, said, linked=linked)
    sizes = set(map(len, order_ids))
    heads: Iterable[bytes] = (
        repeat(_order_head(sizes.pop()))
        if len(sizes) == 1
        else map(_order_head, map(len, order_ids))
    )
    columns = (own, *links, *said.columns, heads, order_ids)
    return list(map(_join, zip(*columns, strict=False)))


def _links(identities: Sequence[bytes]) -> tuple[Iterable[bytes], ...] | None:
    """Encode links to the parents as columns; None: not all have one, and nothing else."""
    if set(map(len, identities)) != {_CHILD_BYTES}:
        return None
    # A link is the front of an identity, but for one tag.
    fronts, count = bytearray(_join(identities)), len(identities)
    if fronts[16::_CHILD_BYTES] != bytes((_PARENT_TAG,)) * count:
        return None
    fronts[16::_CHILD_BYTES] = _SPAN_ID_TAG[:1] * count
    ids = chain.from_iterable(iter_unpack("26s10x", fronts))
    return repeat(_LINK_HEAD), ids, repeat(LINK_TO_PARENT_TAIL)


def _row_by_row(
    identities: Sequence[bytes | None], order_ids: Sequence[bytes], said: Said, *, linked: bool
) -> list[bytes | None]:
    """Do the same of a few rows, for which columns cost more, and of rows that are not alike."""
    more = map(_join, zip(*said.columns, strict=False)) if said.columns else repeat(b"")
    rows = zip(identities, order_ids, more, strict=False)
    if not linked:
        return [
            own and _join((own, _order_head(len(order)), order, more)) for own, order, more in rows
        ]
    return [
        own
        and (
            _join(
                (own, _LINK_HEAD, own[:16], _SPAN_ID_TAG, own[18:26], LINK_TO_PARENT_TAIL,
                 _order_head(len(order)), order, more)
            )
            if own[16] == _PARENT_TAG
            else _join((own, _order_head(len(order)), order, more))
        )
        for own, order, more in rows
    ]  # fmt: skip


def said_of(
    starts_ns: Sequence[int] | None = None,
    waited_seconds: Sequence[float] | None = None,
    message_ids: Sequence[bytes] | None = None,
    fields: Sequence[bytes] | None = None,
) -> Said:
    """Encode columns that not every batch has, for `event_parts`.

    Raises:
        ValueError: the columns differ in length.
    """
    columns: list[Iterable[bytes]] = []
    lengths: set[int] = set()
    if starts_ns is not None:
        lengths.add(len(starts_ns))
        columns.append(map(_START.pack, repeat(b"\x39"), starts_ns))
    if waited_seconds is not None:
        lengths.add(len(waited_seconds))
        doubles = pack(f"<{len(waited_seconds)}d", *waited_seconds)
        columns += repeat(_WAITED_HEAD), chain.from_iterable(iter_unpack("8s", doubles))
    if message_ids is not None:
        lengths.add(len(message_ids))
        columns += repeat(_MESSAGE_ID_HEAD), message_ids
    if fields is not None:
        lengths.add(len(fields))
        columns.append(fields)
    if len(lengths) > 1:
        raise ValueError("the columns of a batch of spans must have one length")
    return Said(next(iter(lengths), None), columns)


@lru_cache(maxsize=4096)
def _order_head(size: int) -> bytes:
    """Everything of the `order.id` attribute but its value, with lengths of two bytes always."""
    any_value = b"\x0a" + _two_byte_varint(size)
    pair = delimited(b"\x0a", names.ORDER_ID.encode()) + b"\x12" + _two_byte_varint(size + 3)
    return b"\x4a" + _two_byte_varint(len(pair) + len(any_value) + size) + pair + any_value


def _two_byte_varint(value: int) -> bytes:
    """Encode a number below 16384 in two bytes; parsers accept a varint longer than needed."""
    return bytes((value & 0x7F | 0x80, value >> 7))


def _text_column(values: Sequence[bytes], limit: int) -> Sequence[bytes]:
    """Return the values as they are when all are short ASCII, which one look at them all tells."""
    if b"".join(values).isascii() and max(map(len, values), default=0) <= limit:
        return values
    return [valid_text(value, limit) for value in values]
