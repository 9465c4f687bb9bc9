"""Hop 5: why a return is refused: the closed list that quarantine, metrics and diagnosis share.

Invariant: these words stand in relay.quarantine.reason and are never renamed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from relay.kafka.consumer.partitions import Record


class Reason(StrEnum):
    """Why a return cannot be applied."""

    MALFORMED = "malformed"
    """Not what the flow's decoder reads, too large, no order id or none of the key's type, no
    status."""
    UNKNOWN_SCHEMA = "unknown_schema"
    """Its schema is not in the registry, or cannot be used: whether it is right nobody can say."""
    UNKNOWN_STATUS = "unknown_status"
    """The status has no rank in the flow, and is no alias of one that has."""
    UNKNOWN_ORDER = "unknown_order"
    """No such order in the primary database: orders commit before their events leave."""
    CONFLICT = "conflict"
    """The order has another terminal status, or one that the flow has no rank for."""
    APPLY_FAILED = "apply_failed"
    """The database refuses this return alone: a constraint, a trigger, the flow's function."""
    NAMES_DIFFER = "names_differ"
    """Its key or its ce_subject names another order than it does, and that one is open."""
    STATUS_NOT_KEPT = "status_not_kept"
    """Its status was written, and a trigger or rule of the orders' table put another in place."""
    UNREADABLE = "unreadable"
    """A batch, or a part of one, that cannot be read; which returns were in it nobody knows."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A return that is not applied, and goes to quarantine as the bytes that came.

    Attributes:
        order_id: when it could be read.
        return_id: its identity, when it has one of its own.
        detail: what exactly is wrong, for a person; it holds nothing of the record's value, which
            whoever reads logs and summaries may not see.
        count: for how many returns it stands.
        names: all orders that it names, where they are several.
    """

    record: Record
    reason: Reason
    detail: str
    order_id: str | None = None
    return_id: str | None = None
    traceparent: str | None = None
    count: int = 1
    names: tuple[str, ...] = ()
