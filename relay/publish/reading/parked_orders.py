"""Hop 2: which orders are parked, as the relay remembers them between reads of the quarantine.

Invariant: pure; an order is its aggregate type and its aggregate id: customer 42 is not order 42.
Of a row whose type is not known (an older version wrote it, and it is gone since) any order of that
id is parked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

Order = tuple[str | None, bytes]
"""Aggregate type, and aggregate id as `order_name` returns it."""

LONGEST_ID_BYTES: Final = 1024
"""Ids up to here are stored as they are; an index entry of PostgreSQL holds 2,700 bytes."""

_SHOWN_CHARACTERS: Final = 100


def order_name(aggregate_id: bytes) -> bytes:
    """Return an order's id as quarantine has it: a longer one by its beginning, length and hash."""
    if len(aggregate_id) <= LONGEST_ID_BYTES:
        return aggregate_id
    beginning = aggregate_id[: 4 * _SHOWN_CHARACTERS].decode(errors="ignore")[:_SHOWN_CHARACTERS]
    digest = sha256(aggregate_id).hexdigest()
    return f"{beginning}... ({len(aggregate_id)} bytes, sha256 {digest})".encode()


@dataclass(slots=True)
class ParkedOrders:
    """A set of orders, asked by id first: that is all it costs where none is parked."""

    _types: dict[bytes, set[str | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, orders: Iterable[Order]) -> ParkedOrders:
        """Return the set of these."""
        found = cls()
        found.add(orders)
        return found

    def __bool__(self) -> bool:
        return bool(self._types)

    def ids(self) -> set[bytes]:
        """Return the ids of all."""
        return set(self._types)

    def ids_among(self, ids: Iterable[bytes]) -> set[bytes]:
        """Return which of these ids some parked order has."""
        return self._types.keys() & set(ids)

    def disjoint(self, ids: Iterable[bytes]) -> bool:
        """Tell cheaply that no parked order has one of these ids."""
        return not self._types or self._types.keys().isdisjoint(ids)

    def holds(self, aggregate_type: str, name: bytes) -> bool:
        """Tell whether an order is parked."""
        types = self._types.get(name)
        return types is not None and (aggregate_type in types or None in types)

    def add(self, orders: Iterable[Order]) -> None:
        """Note that orders are parked."""
        for aggregate_type, name in orders:
            self._types.setdefault(name, set()).add(aggregate_type)

    def discard(self, orders: Iterable[Order]) -> None:
        """Note that orders are parked no longer."""
        for aggregate_type, name in orders:
            types = self._types.get(name)
            if types is not None:
                types.discard(aggregate_type)
                if not types:
                    del self._types[name]

    def keep_only(self, ids: Iterable[bytes], still: Iterable[Order]) -> None:
        """Note of all orders with these ids that only `still` are parked, if they were."""
        kept = set(still)
        self.discard(
            [
                (aggregate_type, name)
                for name in ids
                for aggregate_type in tuple(self._types.get(name, ()))
                if (aggregate_type, name) not in kept
            ]
        )
