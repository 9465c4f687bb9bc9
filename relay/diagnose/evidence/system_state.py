"""What is the same for every order of a diagnosis: processes, topics, groups, positions.

Invariant: a part that could not be had is a `Missing` that says why and how to get it, never an
empty value; whoever decides can so tell "there is none" from "nobody could look".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

from relay.diagnose.evidence.parts import Missing as Missing  # noqa: PLC0414 - asked for here
from relay.diagnose.evidence.parts import ProcessSeen as ProcessSeen  # noqa: PLC0414
from relay.diagnose.evidence.publisher import PublisherSeen
from relay.kafka.partition import Partition

PROCESSES_AT_MOST = 50
"""So many process records of a kind are evidence: those with the newest heartbeats."""

ALWAYS = datetime.min.replace(tzinfo=UTC)
"""Before every time that is compared with it."""


@dataclass(frozen=True, slots=True)
class OutageSeen:
    """A stretch in which one process could not reach the database or the broker.

    Attributes:
        failure_code: of the failure; None: recorded by an older version.
        since_start: the process had it from its start on: its own address or login may be wrong.
    """

    kind: str
    resource: str
    from_at: datetime
    to_at: datetime | None
    error: str = ""
    failure_code: str | None = None
    since_start: bool = False


@dataclass(frozen=True, slots=True)
class CheckpointSeen:
    """How far the relay has read, and whether it may go on from there."""

    updated_at: datetime
    rebaseline_needed: bool = False


@dataclass(frozen=True, slots=True)
class LeaseSeen:
    """Who is the active relay.

    Attributes:
        held_until: when it lapses, lapsed, or was given back; None: nobody ever took it.
        connected: the connection that took the lease is open (None: not visible to us).
    """

    owner: str | None
    held_until: datetime | None
    connected: bool | None = None


@dataclass(frozen=True, slots=True)
class TransactionSeen:
    """A transaction that was begun and neither committed nor aborted.

    Attributes:
        offset: of its first record on the partition.
        producer_id: Kafka's number of who began it; None: the broker does not say.
        transactional_id: the producer's own name; None: no coordinator says one. Then it hangs
            (nobody will ever end it), or its name may not be seen.
        started_at: by the coordinator's clock; None: not known.
        timeout_seconds: after which the coordinator aborts it.
        last_record_at: the time of its last record there, as the record says.
    """

    offset: int
    producer_id: int | None = None
    transactional_id: str | None = None
    started_at: datetime | None = None
    timeout_seconds: float | None = None
    last_record_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LogSeen:
    """One partition's log.

    Attributes:
        first_record_at: the time of the oldest record that is kept; None when there is none.
        stable_end: where the first open transaction begins, beyond which no `read_committed`
            consumer reads; the log's end where none is open; None: not known.
        transaction: who has that transaction open; None: none is, or the broker does not say.
    """

    log_start: int
    log_end: int
    first_record_at: datetime | None = None
    stable_end: int | None = None
    transaction: TransactionSeen | None = None


@dataclass(frozen=True, slots=True)
class Shrink:
    """A moment at which a log ended before where it had ended: the topic was made again."""

    partition: int
    before_at: datetime
    before_end: int
    after_at: datetime
    after_end: int


@dataclass(frozen=True, slots=True)
class TopicSeen:
    """A topic as the broker has it now, and the times that its logs shrank.

    Attributes:
        settings: why it is not known how it is set (`retention_seconds`, `compacted`); None: it is.
    """

    name: str
    exists: bool
    logs: Mapping[int, LogSeen] = field(default_factory=lambda: MappingProxyType({}))
    retention_seconds: float | None = None
    compacted: bool = False
    shrinks: tuple[Shrink, ...] = ()
    settings: Missing | None = None

    def recreated_after(self, at: datetime) -> Shrink | None:
        """Return the first shrink that was seen after a time."""
        return next((one for one in self.shrinks if one.after_at >= at), None)


@dataclass(frozen=True, slots=True)
class GroupSeen:
    """A processor's consumer group now.

    Attributes:
        kind: its protocol in the broker's word: classic, consumer, share, streams.
        members: None when the broker does not say who they are.
        subscribed: topics its members ask for; None when it cannot be told.
        assigned: partitions its members have; None when it cannot be told.
        committed: committed offsets now; a partition without one is absent.
        earlier: the same some seconds before, with its time.
        before_transaction: partitions of which it has read everything before an open transaction.
        never_joined: no member was ever in it, by the broker's word.
    """

    name: str
    exists: bool
    state: str = ""
    members: int | None = 0
    subscribed: frozenset[str] | None = None
    assigned: frozenset[Partition] | None = None
    committed: Mapping[Partition, int] = field(default_factory=lambda: MappingProxyType({}))
    earlier: Mapping[Partition, int] = field(default_factory=lambda: MappingProxyType({}))
    kind: str = "classic"
    before_transaction: frozenset[Partition] = frozenset()
    never_joined: bool = False


@dataclass(frozen=True, slots=True)
class AnsweredPast:
    """Records of a partition that were answered though none of the flow's groups came to them.

    Attributes:
        stopped: where the furthest of those groups stands; they have no members.
        first: offset of the first such record.
        first_published_at: when it was published.
        looked_to: what lies before it was looked at and not answered; between it and `first`
            nobody looked. None: everything before `first` was.
    """

    stopped: int
    first: int
    first_published_at: datetime
    looked_to: int | None = None

    def unlooked(self, offset: int) -> bool:
        """Tell whether an offset lies where nobody looked for an answer."""
        return self.looked_to is not None and self.looked_to <= offset < self.first


@dataclass(frozen=True, slots=True)
class ConsumerOffset:
    """The confirmation consumer's own position on one partition of the returns topic."""

    next_offset: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets that the confirmation consumer recorded as never seen, `to_offset` excluded."""

    partition: int
    from_offset: int
    to_offset: int
    reason: str
    noticed_at: datetime

    @property
    def of_another_log(self) -> bool:
        """Whether its offsets are those of a log that is no longer there."""
        return self.reason in ("topic_recreated", "log_truncated")


@dataclass(frozen=True, slots=True)
class SetAside:
    """Offsets of which the confirmation consumer kept no order ids, `to_offset` excluded.

    Attributes:
        reason: the quarantine's word for why.
        first_seen_at: the records were there by then.
    """

    partition: int
    from_offset: int
    to_offset: int
    reason: str
    first_seen_at: datetime
    last_seen_at: datetime

    @property
    def unreadable(self) -> bool:
        """Whether nobody knows which returns were among them."""
        return self.reason == "unreadable"


@dataclass(frozen=True, slots=True)
class ConsumerSeen:
    """How far the confirmation consumer has applied returns, by partition, and what it missed.

    Attributes:
        empty_offsets_at: when it last came over offsets without a record that it could read:
            markers, aborted records, or what compaction removed.
        set_aside: since the first of the orders was placed.
        set_aside_cut: there are more of them than are looked at.
        gaps_cut: the same of gaps, since the first of the orders was placed.
    """

    offsets: Mapping[int, ConsumerOffset] = field(default_factory=lambda: MappingProxyType({}))
    gaps: tuple[Gap, ...] = ()
    empty_offsets_at: tuple[datetime, ...] = ()
    set_aside: tuple[SetAside, ...] = ()
    set_aside_cut: bool = False
    gaps_cut: bool = False


@dataclass(frozen=True, slots=True)
class SystemState:
    """Everything that is no order's own.

    Attributes:
        now_at: the database's time at the start; the machine's when it is unreachable.
        keeps_orders: the flow says where the orders' rows are.
        status_decides: returns are applied to them; else what the consumer noted is the proof.
        other_groups: further groups with offsets on the events topics.
        other_readers: the same, as far as the broker says where they stand; asked for where none of
            the flow's groups has members.
        answered_past: where somebody else answers, by partition.
        clock_behind: by so much the orders' own times are behind the database's.
        lone_readers: groups without members that move on: they assign partitions themselves.
        publisher: who publishes where our relay does not; None: it does.
        newcomers: kinds of which a process has just connected and not recorded itself yet.
        disabled_triggers: disabled triggers of the orders table that write to the outbox.
        events_since: orders placed before have no event; None: none was ever written.
        ledger_from_at: publication time of the oldest ledger row kept; None when there is none.
    """

    now_at: datetime
    watched_since: datetime | Missing | None
    returns_topic: str
    processor_groups: tuple[str, ...]
    confirm_group: str
    keeps_orders: bool
    relays: tuple[ProcessSeen, ...] | Missing
    consumers: tuple[ProcessSeen, ...] | Missing
    outages: tuple[OutageSeen, ...] | Missing
    checkpoint: CheckpointSeen | Missing | None
    lease: LeaseSeen | Missing | None
    topics: Mapping[str, TopicSeen] | Missing
    groups: Mapping[str, GroupSeen] | Missing
    consumer: ConsumerSeen | Missing
    ledger_from_at: datetime | Missing | None = None
    other_groups: tuple[str, ...] = ()
    other_readers: tuple[GroupSeen, ...] | Missing = ()
    answered_past: Mapping[Partition, AnsweredPast] | Missing = field(
        default_factory=lambda: MappingProxyType({})
    )
    clock_behind: timedelta = timedelta(0)
    lone_readers: frozenset[str] | Missing = frozenset()
    disabled_triggers: tuple[str, ...] | Missing = ()
    newcomers: frozenset[str] = frozenset()
    status_decides: bool = True
    events_since: datetime | Missing | None = ALWAYS
    publisher: PublisherSeen | Missing | None = None
