"""The settings of a flow, and of its events and orders table.

Invariant: what contradicts itself is refused when the flow is built of them, before anything is
connected to.
"""

from collections.abc import Mapping
from typing import Final, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from relay.runtime.flow import (
    SAMPLE_APPLY,
    Apply,
    ApplyColumns,
    ApplyFunction,
    Decoding,
    EventRoute,
    Flow,
    Format,
    KeyType,
    NamesDiffer,
    Observe,
    SchemaRegistry,
    Wire,
    WireField,
)
from relay.runtime.settings_limits import Deadline
from relay.runtime.settings_model import Section


class EventSettings(Section):
    """One event type of a flow."""

    topic: str | None = Field(default=None, description="the flow's events_topic when not given")
    deadline_seconds: Deadline | None = Field(
        default=None, description="its return is overdue after that long; none: it expects none"
    )


class ColumnsSettings(Section):
    """The orders' own table: looked at in every mode, written with `apply = "columns"` alone."""

    table: str = Field(default="public.orders", description="schema.table")
    key_column: str = Field(
        default="order_id", description="holds what `aggregate_id` is the text of"
    )
    key_type: KeyType = Field(default="uuid", description="uuid, bigint or text")
    status_column: str = Field(default="status", description="holds one of status_ranks")
    submitted_at_column: str = Field(
        default="submitted_at", description="timestamptz, timestamp or date"
    )
    version_column: str | None = Field(default=None, description="raised by one with each change")
    returned_at_column: str | None = Field(
        default=None, description="timestamptz, timestamp or date of the terminal return"
    )
    reason_column: str | None = Field(default=None, description="the terminal return's reason")
    history_table: str | None = Field(
        default=None, description="schema.table: one row for each change"
    )
    lookup_columns: tuple[str, ...] = Field(
        default=(),
        description="by which `relay diagnose` finds orders, too: text, a number or uuid, indexed",
    )
    time_zone: str = Field(
        default="UTC", description="whose time a timestamp or date column holds, as Europe/Berlin"
    )


_READ: Final = ("order_id", "status", "reason")
_OF_FORMAT: Final[Mapping[Format, frozenset[str]]] = {
    "json": frozenset(),
    "avro": frozenset({"schema_file"}),
    "protobuf": frozenset({"schema_file", "message"}),
    "python": frozenset({"function"}),
}


class DecoderSettings(Section):
    """How returns are read; Avro in Confluent's framing needs `[registry] url`."""

    format: Format = Field(default="json", description="of the returns' values")
    schema_file: str | None = Field(
        default=None,
        description="avro: the one schema of values without framing; protobuf: what"
        " `protoc --include_imports --descriptor_set_out` wrote",
    )
    message: str | None = Field(
        default=None, description="for protobuf: the message's full name, as shop.OrderReturned"
    )
    function: str | None = Field(
        default=None,
        description="for python: module:function of yours, installed beside the services; takes"
        " value, headers and key, returns a mapping",
    )
    fields: Mapping[str, str] = Field(
        default_factory=dict,
        description="order_id, status or reason -> where it stands, as"
        ' `{ order_id = "orderId", status = "result.code" }`',
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        allowed = _OF_FORMAT[self.format]
        names = ("schema_file", "message", "function")
        given = {name for name in names if getattr(self, name) is not None}
        if given - allowed:
            raise ValueError(f"{', '.join(sorted(given - allowed))}: not of format {self.format}")
        missing = allowed - given if self.format != "avro" else set()
        if missing:
            raise ValueError(f"format {self.format} needs {', '.join(sorted(missing))}")
        for name, path in self.fields.items():
            if name not in _READ or not all(path.split(".")):
                raise ValueError(f"fields: {name} = {path!r}: one of {', '.join(_READ)} is named")
        return self

    def decoding(self, registry: SchemaRegistry | None) -> Decoding:
        """Return how returns are read; raises ValueError where the registry is missing."""
        framed = self.format == "avro" and self.schema_file is None
        if framed and registry is None:
            raise ValueError(
                "decoder: format avro needs schema_file, or [registry] url where the records are"
                " in Confluent's framing"
            )
        return Decoding(
            self.format,
            self.schema_file,
            registry if framed else None,
            self.message,
            self.function,
            tuple((name, tuple(path.split("."))) for name, path in self.fields.items()),
        )


_WRITTEN = ("version_column", "returned_at_column", "reason_column", "history_table")


class FlowSettings(Section):
    """One kind of order (or of payment, shipment, ...); the table's name is the flow's.

    Several may stand beside each other, each with an aggregate type, topics, a `confirm_group` and
    an orders table of its own; variables then speak of none of them. `relay run` publishes for all;
    `relay confirm` and the commands are about the flow that `--flow` (`RELAY_FLOW`) names.
    """

    aggregate_type: str = Field(default="order", description="`aggregate_type` of its outbox rows")
    events_topic: str | None = Field(
        default=None,
        description="where events go; not given: `orders.events`, or, with `wire` debezium,"
        " `outbox.event.` and the aggregate type",
    )
    returns_topic: str = Field(default="orders.returns", description="where returns come from")
    events: Mapping[str, EventSettings] = Field(
        default_factory=lambda: {"order.placed": EventSettings(deadline_seconds=900.0)},
        description="event type -> topic, deadline_seconds; by default order.placed, 900 s",
    )
    processor_groups: tuple[str, ...] = Field(
        default=("order-processor",), description="the consumer groups of the order processor"
    )
    confirm_group: str = Field(default="order-confirmation", description="our own consumer group")
    initial_status: str = Field(default="submitted", description="an order's first status")
    status_ranks: Mapping[str, int] = Field(
        default_factory=lambda: dict(Flow().status_ranks),
        description="a status only moves to a higher rank; those of the highest are terminal",
    )
    later_statuses: tuple[str, ...] = Field(
        default=(),
        description="statuses that the order service gives once the return is there, as shipped",
    )
    names_differ: NamesDiffer = Field(
        default="hold",
        description="a return whose key or ce_subject is another open order's id: hold it, apply "
        "it to its order_id and count it, or ignore such keys, which are no orders' ids",
    )
    status_aliases: Mapping[str, str] = Field(
        default_factory=dict, description="the processor's own words for those statuses"
    )
    apply: Literal["columns", "function", "observe"] = Field(
        default="columns", description="how returns are applied: columns, function or observe"
    )
    columns: ColumnsSettings | None = Field(
        default=None,
        description="the orders' own table; not given: the sample's for columns, else not known",
    )
    function: str | None = Field(
        default=None, description="for function: schema.name of a SQL function"
    )
    events_since: AwareDatetime | None = Field(
        default=None,
        description="orders placed earlier had no events, as 2026-11-01T08:00:00Z; not given: "
        "since the first event that was written",
    )
    wire: Wire = Field(
        default="cloudevents",
        description="how records are written: cloudevents, or debezium, as its outbox event router"
        " does: key, value and the header `id`",
    )
    wire_headers: Mapping[str, WireField] = Field(
        default_factory=dict,
        description="of debezium: header -> event_type, aggregate_type or aggregate_id, as"
        ' `{ eventType = "event_type" }`',
    )
    every_event: bool | None = Field(
        default=None,
        description="whether event types that are not listed go to events_topic, too, by their"
        " aggregate type, and expect no return; not given: with `wire` debezium they do",
    )
    payload_function: str | None = Field(
        default=None,
        description="schema.name of a function (text) that returns json: what the event of an"
        " order says that was committed without one; not given: no such event is made of a table"
        " of the shop's own shape",
    )
    probe_topic: str = Field(default="relay.probe", description="where `relay probe` sends to")
    max_return_bytes: int = Field(
        default=1_048_576,
        ge=1,
        le=15_000_000,
        description="bytes of the largest return that is read; a part of larger ones is kept",
    )
    decoder: DecoderSettings | None = Field(
        default=None, description="how returns are read; not given: JSON"
    )

    def flow(self, name: str, registry: SchemaRegistry | None = None) -> Flow:
        """Return the flow; raises FlowError where settings contradict."""
        highest = max(self.status_ranks.values(), default=0)
        by_router = self.wire == "debezium"
        routed = f"outbox.event.{self.aggregate_type}" if by_router else "orders.events"
        events_topic = self.events_topic or routed
        return Flow(
            name=name,
            aggregate_type=self.aggregate_type,
            events={
                event_type: EventRoute(event.topic or events_topic, event.deadline_seconds)
                for event_type, event in self.events.items()
            },
            events_topic=events_topic,
            returns_topic=self.returns_topic,
            processor_groups=self.processor_groups,
            confirm_group=self.confirm_group,
            initial_status=self.initial_status,
            status_ranks=dict(self.status_ranks),
            later_statuses=frozenset(self.later_statuses),
            names_differ=self.names_differ,
            status_aliases=dict(self.status_aliases),
            terminal_statuses=frozenset(s for s, r in self.status_ranks.items() if r == highest),
            apply=self._apply(),
            orders=self._looked_at(),
            events_since=self.events_since,
            probe_topic=self.probe_topic,
            payload_function=self.payload_function,
            wire=self.wire,
            wire_headers=dict(self.wire_headers),
            every_event=by_router if self.every_event is None else self.every_event,
            max_return_bytes=self.max_return_bytes,
            decoding=self.decoder.decoding(registry) if self.decoder else Decoding(),
        )

    def _apply(self) -> Apply:
        if (self.apply == "function") != (self.function is not None):
            raise ValueError('`function` is given exactly when apply = "function"')
        if self.function is not None:
            return ApplyFunction(self.function)
        if self.apply == "observe":
            return Observe()
        return ApplyColumns(**dict(self.columns)) if self.columns else SAMPLE_APPLY

    def _looked_at(self) -> ApplyColumns | None:
        if self.columns is None or self.apply == "columns":
            return None
        written = [name for name in _WRITTEN if getattr(self.columns, name) is not None]
        if written:
            raise ValueError(f'{", ".join(written)}: written only with apply = "columns"')
        return ApplyColumns(**dict(self.columns))
