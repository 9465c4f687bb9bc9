"""All hops: what is gathered for one order's timeline; values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Partition = tuple[str, int]
"""A topic and the number of one of its partitions."""


@dataclass(frozen=True, slots=True)
class OrderRow:
    """The order's own row, in the order service's table."""

    status: str
    submitted_at: datetime | None


@dataclass(frozen=True, slots=True)
class EventRow:
    """A row of the outbox; `kept` when its partition was dropped and the row was saved."""

    outbox_id: int
    event_id: str
    event_type: str
    created_at: datetime
    traceparent: str | None
    kept: bool


@dataclass(frozen=True, slots=True)
class Delivery:
    """One publication of an event; `offset` is None when the broker did not say."""

    outbox_id: int
    topic: str
    partition: int
    offset: int | None
    epoch: int
    published_at: datetime
    replay_id: str | None


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that waits in quarantine; the order's later ones wait with it."""

    outbox_id: int
    reason: str
    first_seen_at: datetime


@dataclass(frozen=True, slots=True)
class ReturnFact:
    """A return of the order, wherever it is.

    Attributes:
        place: applied (inbox), refused (quarantine), set aside (pending), or only on Kafka (log).
        outcome: what the consumer did with it, or why it refused it.
        recorded_at: the record's own timestamp.
        handled_at: when the consumer handled it.
    """

    place: Literal["inbox", "quarantine", "pending", "log"]
    topic: str
    partition: int
    offset: int
    status: str | None
    causation_id: str | None = None
    old_status: str | None = None
    new_status: str | None = None
    outcome: str | None = None
    recorded_at: datetime | None = None
    handled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PartitionState:
    """Where a partition's log ends, and what each group has committed (None: nothing)."""

    log_end: int
    committed: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class Scan:
    """How much of the returns topic was read, from the publication to the log's end."""

    records: int
    complete: bool


@dataclass(frozen=True, slots=True)
class KafkaFacts:
    """What the broker said. `scan` is None when there was no need to look."""

    partitions: Mapping[Partition, PartitionState] = field(default_factory=dict)
    scan: Scan | None = None


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The broker could not be asked, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class OrderFacts:
    """Everything that was gathered about one order at `now` (the database's time).

    Attributes:
        order: None when there is no such row, or it may not be read (`order_readable`).
        consumer_offsets: the confirmation consumer's next offset, by partition.
    """

    order_id: str
    now: datetime
    order: OrderRow | None
    order_readable: bool
    events: tuple[EventRow, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    parked: tuple[ParkedEvent, ...] = ()
    returns: tuple[ReturnFact, ...] = ()
    consumer_offsets: Mapping[Partition, int] = field(default_factory=dict)
    kafka: KafkaFacts | Unreachable = field(default_factory=KafkaFacts)
