"""Hops 1 to 5: what a flow is: which events go where, who answers, how a return is applied.

Invariant: a flow that contradicts itself is never built (an event without a topic would park every
order; a status without a rank could move an order backwards).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Literal, Self

from relay.runtime.flow_rules import contradiction

KeyType = Literal["uuid", "bigint", "text"]
KeyStorage = Literal["", "bpchar", "numeric"]


PROBE_EVENT = "relay.probe"
"""Event type and aggregate type of the canaries that `relay probe` sends; no order has it."""

CANARY_EVENT = "relay.canary"
"""The same of the canaries that go through the processor and back: on the events' own topic."""

ERASED_EVENT = "relay.erased"
"""Event type of a tombstone that `relay erase` sends on a compacted topic."""


class FlowError(ValueError):
    """The flow's settings contradict each other; the message names them."""


@dataclass(frozen=True, slots=True)
class EventRoute:
    """Where one event type goes, and when its return is due.

    Attributes:
        topic: the Kafka topic it is published to.
        deadline_seconds: its return is overdue after that long; None: it expects none.
    """

    topic: str
    deadline_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ApplyColumns:
    """Returns are applied to the columns of the orders' own table.

    The optional columns are written when named: `version` + 1, the time and reason of the terminal
    return. `history_table` gets one row for each step (order_id, old_status, new_status, reason,
    event_id), when named.

    Attributes:
        lookup_columns: by which people may ask for an order, such as the customer's order number.
        time_zone: whose time columns of a type without zone hold (timestamp, date).
        key_storage: the key column's type where that decides what ids are the same, and
            `key_length` that of a `char(n)`: found in the catalog (`relay.orders.table`), not set.
    """

    table: str = "public.orders"
    key_column: str = "order_id"
    key_type: KeyType = "uuid"
    status_column: str = "status"
    submitted_at_column: str = "submitted_at"
    version_column: str | None = None
    returned_at_column: str | None = None
    reason_column: str | None = None
    history_table: str | None = None
    time_zone: str = "UTC"
    lookup_columns: tuple[str, ...] = ()
    key_storage: KeyStorage = ""
    key_length: int | None = None


@dataclass(frozen=True, slots=True)
class ApplyFunction:
    """Returns are applied by a SQL function of the user's own."""

    function: str


@dataclass(frozen=True, slots=True)
class Observe:
    """Orders are never written: old and new status live in the inbox row."""


@dataclass(frozen=True, slots=True)
class OtherFlows:
    """What the other flows of the settings call their own; what is marked as theirs is not ours.

    An installation with one flow has none, and everything is that flow's, whatever it was called
    when it was written.

    Attributes:
        names: as stored in relay.overdue and relay.incident; '' is what was stored before flows
            were told apart, and is the first flow's.
        groups: their confirmation consumers' groups.
        aggregate_types: of their rows.
        event_types: that they publish, too: of such a row the aggregate type alone tells the flow.
        by_aggregate: of every row it does: one of the flows publishes every event type.
    """

    names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    aggregate_types: tuple[str, ...] = ()
    event_types: frozenset[str] = frozenset()
    by_aggregate: bool = False


Format = Literal["json", "avro", "protobuf", "python"]


@dataclass(frozen=True, slots=True)
class SchemaRegistry:
    """Where schemas are asked for by their number: Confluent's REST interface, or one like it."""

    url: str = field(repr=False)
    ca_location: str | None = None


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the value of a return becomes fields.

    Attributes:
        schema_file: avro without framing: its one schema; protobuf: a FileDescriptorSet.
        registry: avro in Confluent's framing: where schemas are.
        message: protobuf: the message's full name.
        function: python: `module:function` of the user's.
        fields: (order_id, status or reason, the names that lead to it).
    """

    format: Format = "json"
    schema_file: str | None = None
    registry: SchemaRegistry | None = None
    message: str | None = None
    function: str | None = None
    fields: tuple[tuple[str, tuple[str, ...]], ...] = ()


Wire = Literal["cloudevents", "debezium"]
WireField = Literal["event_type", "aggregate_type", "aggregate_id"]
NamesDiffer = Literal["hold", "apply", "ignore"]
Apply = ApplyColumns | ApplyFunction | Observe

SAMPLE_RANKS: Mapping[str, int] = MappingProxyType(
    {"submitted": 0, "processing": 10, "confirmed": 20, "rejected": 20}
)
SAMPLE_EVENTS: Mapping[str, EventRoute] = MappingProxyType(
    {"order.placed": EventRoute("orders.events", deadline_seconds=900.0)}
)
SAMPLE_APPLY = ApplyColumns(
    version_column="version",
    returned_at_column="returned_at",
    reason_column="return_reason",
    history_table="public.order_status_history",
)


@dataclass(frozen=True, slots=True)
class Flow:
    """One kind of order: its events, its topics, its processor, its returns.

    The defaults are the sample domain that `relay migrate --sample` makes.

    Attributes:
        status_ranks: a status only moves to a higher rank.
        terminal_statuses: final ones: an order is returned when one of them was applied.
        later_statuses: those that the order service alone gives, to an order that was returned.
        probe_topic: where canaries go that no processor is to see.
        status_aliases: the processor's own words for statuses of `status_ranks`.
        events_since: orders placed earlier have no event; None: since the first one written.
        orders: where the orders' rows are looked at, where returns are not applied to them.
        names_differ: what becomes of a return whose key or ce_subject is another open order's id.
        max_return_bytes: a return whose value is larger is refused unread.
        decoding: how a return's value is read.
        wire: how events' records are written.
        wire_headers: of `debezium`: header -> what of the row stands in it.
        every_event: event types of the aggregate type that are not listed are published, too, and
            expect no return.
        payload_function: of the shop: what the event of an order says that was written without.
        others: the other flows' names for things.
    """

    name: str = "orders"
    aggregate_type: str = "order"
    events: Mapping[str, EventRoute] = field(default_factory=lambda: SAMPLE_EVENTS)
    events_topic: str = "orders.events"
    returns_topic: str = "orders.returns"
    processor_groups: tuple[str, ...] = ("order-processor",)
    confirm_group: str = "order-confirmation"
    initial_status: str = "submitted"
    status_ranks: Mapping[str, int] = field(default_factory=lambda: SAMPLE_RANKS)
    terminal_statuses: frozenset[str] = frozenset({"confirmed", "rejected"})
    later_statuses: frozenset[str] = frozenset()
    names_differ: NamesDiffer = "hold"
    status_aliases: Mapping[str, str] = field(default_factory=dict)
    apply: Apply = SAMPLE_APPLY
    orders: ApplyColumns | None = None
    events_since: datetime | None = None
    probe_topic: str = "relay.probe"
    max_return_bytes: int = 1024 * 1024
    decoding: Decoding = Decoding()
    wire: Wire = "cloudevents"
    wire_headers: Mapping[str, WireField] = field(default_factory=dict)
    every_event: bool = False
    payload_function: str | None = None
    others: OtherFlows = OtherFlows()

    def __post_init__(self) -> None:
        problem = contradiction(self, frozenset({PROBE_EVENT, CANARY_EVENT, ERASED_EVENT}))
        if problem:
            raise FlowError(f"flow {self.name!r}: {problem}")

    @property
    def orders_columns(self) -> ApplyColumns | None:
        """Where the orders' rows are, whoever writes them; None: no setting says."""
        return self.apply if isinstance(self.apply, ApplyColumns) else self.orders

    def with_orders_columns(self, names: ApplyColumns) -> Self:
        """Return the flow with more known of where the orders' rows are."""
        if isinstance(self.apply, ApplyColumns):
            return replace(self, apply=names)
        return replace(self, orders=names)

    @property
    def ended_statuses(self) -> frozenset[str]:
        """Every status of an order that waits for no return."""
        return self.terminal_statuses | self.later_statuses

    @property
    def all_ranks(self) -> Mapping[str, int]:
        """The rank of every status that an order may have."""
        beyond = max(self.status_ranks.values()) + 1
        return {**self.status_ranks, **dict.fromkeys(self.later_statuses, beyond)}

    @property
    def topics(self) -> frozenset[str]:
        """Every topic that this flow's events are published to."""
        listed = frozenset(route.topic for route in self.events.values())
        return listed | {self.events_topic} if self.every_event else listed

    def route(self, event_type: str) -> EventRoute | None:
        """Return where such an event of this flow goes; None: nowhere, it is parked."""
        listed = self.events.get(event_type)
        if listed is None and self.every_event:
            return EventRoute(self.events_topic)
        return listed

    @property
    def own_event_types(self) -> list[str]:
        """The event types by which a row is this flow's, whatever its aggregate type is."""
        if self.others.by_aggregate:
            return []
        return [one for one in self.events if one not in self.others.event_types]

    @property
    def is_first(self) -> bool:
        """Whether what was stored before flows were told apart is this flow's."""
        return "" not in self.others.names

    def canary_aggregate_type(self, event_type: str) -> str:
        """Return the aggregate type of this flow's canaries of that event type."""
        return event_type if self.is_first else f"{event_type}:{self.name}"

    @property
    def others_event_types(self) -> list[str]:
        """The event types by which a row is another flow's, whatever its aggregate type is."""
        if self.others.by_aggregate:
            return []
        return sorted(self.others.event_types - self.events.keys())

    @property
    def canary_routes(self) -> Mapping[str, EventRoute]:
        """Where the relay publishes this flow's canaries."""
        return {
            PROBE_EVENT: EventRoute(self.probe_topic),
            CANARY_EVENT: EventRoute(self.canary_topic),
        }

    @property
    def routes(self) -> Mapping[str, EventRoute]:
        """Where each event type of this flow is published, canaries included."""
        topics = {self.events_topic, *(route.topic for route in self.events.values())}
        erased = {self.erased_event(topic): EventRoute(topic) for topic in topics}
        return {**self.events, **erased, **self.canary_routes}

    def erased_event(self, topic: str) -> str:
        """Return the event type whose rows are tombstones of this topic."""
        return ERASED_EVENT if topic == self.events_topic else f"{ERASED_EVENT}.{topic}"

    @property
    def canary_topic(self) -> str:
        """Where a canary goes that the processor answers: where the events are that expect it."""
        expecting = next(iter(self.deadlines), None)
        return self.events_topic if expecting is None else self.events[expecting].topic

    @property
    def deadlines(self) -> Mapping[str, float]:
        """Seconds until the return is overdue, of each event type that expects one."""
        return {
            event_type: route.deadline_seconds
            for event_type, route in self.events.items()
            if route.deadline_seconds is not None
        }

    def deadline_seconds(self, event_type: str) -> float | None:
        """Return when the return of such an event is overdue; None: it expects none."""
        route = self.events.get(event_type)
        return None if route is None else route.deadline_seconds


def default_deadline_seconds(flow: Flow) -> float:
    """Return the deadline of an order whose event is missing: the shortest of the flow's."""
    return min(flow.deadlines.values(), default=900.0)
