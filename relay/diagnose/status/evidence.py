"""What the database knows of what waits, as values.

Invariant: pure; a part that could not be read is Missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from relay.diagnose.evidence.publisher import PublisherSeen
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.status.traces import Answered, Position
from relay.diagnose.watch.looked import Looked
from relay.kafka.partition import Partition

LOOKS: Final = Looked(None, None)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits at a hop.

    Attributes:
        count: how many.
        oldest_at: since when the oldest waits; None: nothing does, or it is not known.
        exact: whether they were counted; else `count` is an estimate, or the least that it can be.
    """

    count: int
    oldest_at: datetime | None = None
    exact: bool = True


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One process record, as old as its heartbeat."""

    kind: str
    instance: str
    version: str
    started_at: datetime
    heartbeat_age_seconds: float
    stopped_at: datetime | None
    stop_reason: str | None
    detail: Mapping[str, Any]
    active: bool


@dataclass(frozen=True, slots=True)
class SetAsideCount:
    """What the quarantine holds of returns without their bytes.

    Attributes:
        unreadable: ranges of offsets that cannot be read.
        places: refused returns of which only the place is kept: the quarantine was full.
    """

    unreadable: int = 0
    places: int = 0

    def text(self) -> str:
        """Return it in words; "": there is none."""
        parts = []
        if self.unreadable:
            parts.append(f"{self.unreadable} ranges of offsets cannot be read")
        if self.places:
            parts.append(f"of {self.places} refused returns only the place is kept")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Counts:
    """What the database knows; each part may be Missing.

    Attributes:
        open_orders: not in a terminal status, since the installation is watched and events are
            written; None: the flow does not say where orders stand.
        without_event: of the newest open orders, those that have no outbox row.
        held: quarantine's open rows by kind.
        next_offsets: the confirmation consumer's, by partition of the returns topic.
        rates: by hop, per second over the last minute.
        answered: the newest answered orders, to compare their traces.
        looked: whether a watchdog looks for overdue orders.
        canaries: where records and returns of the last days' canaries stand.
        set_aside: returns without their bytes in quarantine.
        read_only: nobody is let write, so that no heartbeat tells who lives.
        publisher: who publishes where our relay does not.
        never_an_event: no event of the flow was ever written here.
    """

    now: datetime
    kind: str | Missing
    publish: Waiting | Missing
    open_orders: Waiting | Missing | None
    without_event: Waiting | Missing | None
    pending: Waiting | Missing
    held: Mapping[str, int] | Missing
    next_offsets: Mapping[Partition, int] | Missing
    overdue: Mapping[str, int] | Missing
    incidents: int | Missing
    rates: Mapping[str, float | None] | Missing
    answered: tuple[Answered, ...] | Missing
    canaries: tuple[Position, ...] | Missing
    processes: tuple[ProcessRow, ...] | Missing
    read_only: bool = False
    never_an_event: bool = False
    publisher: PublisherSeen | Missing | None = None
    looked: Looked | Missing = LOOKS
    set_aside: SetAsideCount | Missing = field(default_factory=SetAsideCount)
