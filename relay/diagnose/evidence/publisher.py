"""Hop 2: what is seen of a publisher that is not ours: values only.

Invariant: a part that could not be had is a `Missing`, one that there is none of is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from relay.diagnose.evidence.parts import Missing, ProcessSeen
from relay.kafka.partition import Partition
from relay.kafka.unread import ReadTo


@dataclass(frozen=True, slots=True)
class SlotSeen:
    """A replication slot.

    Attributes:
        lost: why the server gave up the WAL that it needs; None: it did not.
        behind_bytes: of WAL that the publisher has not confirmed; None: not known.
    """

    name: str
    exists: bool = True
    active: bool = False
    lost: str | None = None
    behind_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class TaskSeen:
    """A task of a connector; `trace` is the innermost cause of its failure."""

    number: int
    state: str
    trace: str = ""


@dataclass(frozen=True, slots=True)
class ConnectorSeen:
    """A connector, as Kafka Connect said of it; state `ABSENT`: there is none of the name.

    Attributes:
        topics: those that it needs beside the events'.
        slot: the one that it reads; None: it did not say.
    """

    name: str
    state: str
    tasks: tuple[TaskSeen, ...] = ()
    topics: tuple[str, ...] = ()
    slot: str | None = None

    @property
    def failed_task(self) -> TaskSeen | None:
        """Return a task that failed: its connector goes on RUNNING (KIP-52)."""
        return next((one for one in self.tasks if one.state == "FAILED"), None)


@dataclass(frozen=True, slots=True)
class PublisherSeen:
    """The publisher, and those who witness it.

    Attributes:
        slot: None: nobody named one.
        connector: None: it is no connector, or nobody said where Kafka Connect is.
        read_to: the witnesses' stored offsets, by partition of the events' topics.
        unread: partitions with records that no witness has come to; Missing: nobody could look.
        last_record_at: of the newest record that was witnessed.
    """

    slot: SlotSeen | None = None
    connector: ConnectorSeen | Missing | None = None
    witnesses: tuple[ProcessSeen, ...] | Missing = ()
    read_to: Mapping[Partition, ReadTo] = field(default_factory=lambda: MappingProxyType({}))
    unread: Mapping[Partition, int] | Missing = field(default_factory=lambda: MappingProxyType({}))
    last_record_at: datetime | None = None
