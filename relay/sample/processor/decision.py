"""Hop 3 of the sample: reads an event and decides its answers, as a user's processor would.

Invariant: pure, and an answer for any payload: what cannot be read is rejected with the reason: an
order whose event is swallowed would be the very thing that this project exists to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, DecimalException
from typing import Literal, NamedTuple, Protocol

import orjson

Status = Literal["processing", "confirmed", "rejected"]


class Answer(NamedTuple):
    """One status that the order shall take."""

    status: Status
    reason: str | None = None


class EventRecord(Protocol):
    """What the decision needs of a Kafka record."""

    @property
    def key(self) -> bytes | None:
        """Order id in UTF-8."""

    @property
    def value(self) -> bytes | None:
        """The event's payload."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """CloudEvents attributes and trace context."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event as the processor sees it.

    Attributes:
        key: the record's key, and the key of its returns: order id in UTF-8.
        event_id: `ce_id`; None when the record has none.
        replayed: the record carries a `replay_id`.
    """

    key: bytes
    event_id: str | None
    event_type: str | None
    payload: bytes
    traceparent: bytes | None
    tracestate: bytes | None
    replayed: bool

    @property
    def order_id(self) -> str:
        """The key as text."""
        return self.key.decode("utf-8", "replace")


def read_event(record: EventRecord) -> Event | None:
    """Read one record; None when neither key nor `ce_subject` says which order it is about."""
    headers = dict(record.headers)
    key = record.key or headers.get("ce_subject")
    if not key:
        return None
    return Event(
        key=key,
        event_id=_text(headers.get("ce_id") or headers.get("id")),
        event_type=_text(headers.get("ce_type") or headers.get("relay_event_type")),
        payload=record.value or b"",
        traceparent=headers.get("traceparent"),
        tracestate=headers.get("tracestate"),
        replayed="replay_id" in headers,
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def decide(payload: bytes, *, reject_above: Decimal, processing_first: bool) -> tuple[Answer, ...]:
    """Decide an order: the terminal answer, after a `processing` one where that is asked for."""
    terminal = _terminal(payload, reject_above)
    return (Answer("processing"), terminal) if processing_first else (terminal,)


def _terminal(payload: bytes, reject_above: Decimal) -> Answer:
    try:
        order = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return Answer("rejected", "the event's payload is not JSON")
    total = _amount(order.get("total")) if isinstance(order, dict) else None
    if total is not None and total > reject_above:
        return Answer("rejected", f"total above {reject_above}")
    return Answer("confirmed")


def _amount(value: object) -> Decimal | None:
    """Read a total, a string of digits by contract; None for what is no finite number."""
    if not isinstance(value, str | int | float):
        return None
    try:
        amount = Decimal(value)
    except DecimalException:
        return None
    return amount if amount.is_finite() else None


def opposite(answer: Answer) -> Answer:
    """Return the terminal answer that contradicts this one."""
    other: Status = "rejected" if answer.status == "confirmed" else "confirmed"
    return Answer(other, "contradicts an earlier return, on purpose")
