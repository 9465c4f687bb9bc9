"""What somebody wants to have again: conditions, all of which must hold.

Invariant: pure; what cannot be read is refused with its line, and nothing is left out in silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final


class SelectionError(Exception):
    """The selection selects nothing, or cannot be read; the message says what to give."""


class NothingSelectedError(SelectionError):
    """What the selection names is not there."""

    not_found = True


@dataclass(frozen=True, slots=True)
class Selection:
    """Events that meet all conditions; an empty tuple or None: no such condition.

    Attributes:
        orders: aggregate ids, as stored.
        events: event ids.
        customers: whose orders.
        event_types: of the events.
        incidents: numbers; their orders.
        hops: where the orders were lost.
        verdicts: of the orders; the verdicts named here are sent, instead of those that are
            sent by default.
        since: events written then or later ...
        until: ... and before then.
        from_id: outbox ids from this one ...
        to_id: ... to this one, inclusive.
        everything: all these events, whatever became of them.
    """

    orders: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    customers: tuple[str, ...] = ()
    event_types: tuple[str, ...] = ()
    incidents: tuple[int, ...] = ()
    hops: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    from_id: int | None = None
    to_id: int | None = None
    everything: bool = False

    @property
    def names_orders(self) -> bool:
        """Whether certain orders are meant, and not all that wait."""
        return bool(self.orders or self.events or self.customers or self.incidents)

    @property
    def empty(self) -> bool:
        """Whether there is no condition at all."""
        return not self.as_data().keys() - {"everything"}

    def as_data(self) -> dict[str, Any]:
        """Return the conditions that there are, for the stored job and the audit log."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in given.items() if value not in (None, (), False)}


_LONGEST_ID: Final = 1024


def read_orders(text: str) -> Iterator[tuple[str, str | None]]:
    """Read order ids, and the event ids beside them, from what another command printed.

    It takes the JSON of `relay unreturned --json` and `relay diagnose --json`, JSON lines of such
    orders, and order ids, one a line.

    Raises:
        SelectionError: it is none of these.
    """
    stripped = text.strip()
    if not stripped:
        return
    if stripped[0] in "{[":
        yield from map(_named, _objects(stripped))
        return
    for number, line in enumerate(stripped.splitlines(), 1):
        order_id = line.strip()
        if len(order_id) > _LONGEST_ID:
            raise SelectionError(f"line {number} is no order id: {order_id[:60]!r}...")
        if order_id:
            yield order_id, None


def _objects(text: str) -> Iterable[Any]:
    try:
        document = json.loads(text)
    except ValueError:
        document = list(_lines(text))
    if isinstance(document, dict):
        document = document.get("orders", [document])
    if not isinstance(document, list):
        raise SelectionError('JSON without a list of orders: {"orders": [{"order_id": ...}]}')
    return document


def _lines(text: str) -> Iterator[Any]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise SelectionError(f"line {number} is no JSON: {error}") from error


def _named(one: Any) -> tuple[str, str | None]:
    if isinstance(one, str):
        return one, None
    order_id = one.get("order_id") if isinstance(one, dict) else None
    if not isinstance(order_id, str) or not order_id:
        raise SelectionError(f"no order_id in {json.dumps(one)[:200]}")
    event_id = one.get("event_id")
    return order_id, event_id if isinstance(event_id, str) and event_id else None
