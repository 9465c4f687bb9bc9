"""The flows of the settings beside each other: what belongs to which of them.

Invariant: pure; flows whose rows, records or returns could not be told apart are never built. The
first of them owns what was stored before there were several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from relay.runtime.flow import (
    ApplyColumns,
    Flow,
    FlowError,
    OtherFlows,
    Wire,
)

BEFORE_FLOWS: Final = ""
"""As whose a row is marked that was written before flows were told apart."""

_BETWEEN: Final = "\0"  # no text of PostgreSQL holds one


def beside_each_other(flows: Sequence[Flow]) -> tuple[Flow, ...]:
    """Return the flows, each with what the others call their own.

    Raises:
        FlowError: two of them could not be told apart; the message names the settings.
    """
    for problem in _collisions(flows):
        raise FlowError(problem)
    return tuple(_beside(flows, place) for place in range(len(flows)))


def _beside(flows: Sequence[Flow], place: int) -> Flow:
    others = [flow for number, flow in enumerate(flows) if number != place]
    names = tuple(flow.name for flow in others)
    return replace(
        flows[place],
        others=OtherFlows(
            names=names if place == 0 else (*names, BEFORE_FLOWS),
            groups=tuple(flow.confirm_group for flow in others),
            aggregate_types=tuple(flow.aggregate_type for flow in others),
            event_types=frozenset(one for flow in others for one in flow.events),
            by_aggregate=bool(others) and any(flow.every_event for flow in flows),
        ),
    )


def _collisions(flows: Sequence[Flow]) -> Iterator[str]:
    """Name what two flows share that must be each one's own."""
    yield from _shared("aggregate_type", [{flow.aggregate_type} for flow in flows], flows)
    yield from _shared("confirm_group", [{flow.confirm_group} for flow in flows], flows)
    topics = [{*flow.topics, flow.events_topic, flow.returns_topic} for flow in flows]
    yield from _shared("topic", topics, flows)
    groups = {flow.confirm_group: flow.name for flow in flows}
    for flow in flows:
        for group in flow.processor_groups:
            if group in groups:
                yield (
                    f"flow {flow.name!r}: processor_groups names {group!r}, the confirm_group of"
                    f" flow {groups[group]!r}"
                )
    tables = [
        {flow.apply.table} if isinstance(flow.apply, ApplyColumns) else set[str]() for flow in flows
    ]
    yield from _shared("columns.table", tables, flows)


def _shared(setting: str, used: Sequence[set[str]], flows: Sequence[Flow]) -> Iterator[str]:
    counts = Counter(value for values in used for value in values)
    for value, count in sorted(counts.items()):
        if count > 1:
            users = " and ".join(
                f"flow {flow.name!r}" for flow, has in zip(flows, used, strict=True) if value in has
            )
            yield f"{users}: {setting} {value!r} is used by each of them; each needs its own"


@dataclass(frozen=True, slots=True)
class Routes:
    """Where the relay publishes the rows of all flows.

    A row's kind is its event type; aggregate type and event type together, where the event type
    does not tell the flow (`kinds`). A kind without a flow is published nowhere: its row is parked.

    Attributes:
        listed: kind -> the flow that it belongs to, and its topic.
        shared: event types that do not tell the flow.
        catching: aggregate type -> the flow that publishes every event type of it.
    """

    listed: Mapping[str, tuple[Flow, str]]
    shared: frozenset[str]
    catching: Mapping[str, Flow]

    @classmethod
    def of(cls, flows: Sequence[Flow]) -> Routes:
        """Put the flows' routes together, canaries included."""
        catching = {flow.aggregate_type: flow for flow in flows if flow.every_event}
        counts = Counter(event_type for flow in flows for event_type in flow.routes)
        by_aggregate = bool(catching) and len(flows) > 1
        shared = frozenset(one for one, count in counts.items() if count > 1 or by_aggregate)
        listed: dict[str, tuple[Flow, str]] = {}
        for flow in flows:
            canaries = flow.canary_routes
            for event_type, route in flow.routes.items():
                aggregate_type = flow.aggregate_type
                if event_type in canaries:
                    aggregate_type = flow.canary_aggregate_type(event_type)
                kind = _kind(aggregate_type, event_type) if event_type in shared else event_type
                listed[kind] = flow, route.topic
        return cls(listed, shared, catching)

    @property
    def wires(self) -> frozenset[Wire]:
        """The wire forms in use."""
        return frozenset(flow.wire for flow, _topic in self.listed.values())

    @property
    def every_topic(self) -> set[str]:
        """Every topic that anything is published to."""
        caught = {flow.events_topic for flow in self.catching.values()}
        return {topic for _flow, topic in self.listed.values()} | caught

    def kinds(self, aggregate_types: Sequence[str], event_types: Sequence[str]) -> Sequence[str]:
        """Return the kind of each row; where event types tell the flow, those are it."""
        if not self.shared and not self.catching:
            return event_types
        types = set(event_types)
        telling = types & self.listed.keys() if self.catching else types - self.shared
        if telling == types:
            return event_types
        rows = zip(aggregate_types, event_types, strict=True)
        return [one if one in telling else _kind(aggregate, one) for aggregate, one in rows]

    def topic(self, kind: str) -> str | None:
        """Return where rows of a kind go; None: nowhere."""
        known = self.listed.get(kind)
        if known is not None:
            return known[1]
        flow = self.flow_of(kind)
        return None if flow is None else flow.events_topic

    def flow_of(self, kind: str) -> Flow | None:
        """Return the flow of rows of a kind; None: no flow has it."""
        known = self.listed.get(kind)
        if known is not None:
            return known[0]
        aggregate_type, between, _event_type = kind.rpartition(_BETWEEN)
        return self.catching.get(aggregate_type) if between else None


def _kind(aggregate_type: str, event_type: str) -> str:
    return f"{aggregate_type}{_BETWEEN}{event_type}"


def event_type_of(kind: str) -> str:
    """Return the event type in a kind."""
    return kind.rpartition(_BETWEEN)[2]


def every_topic(flows: Sequence[Flow]) -> list[str]:
    """Return the topics of all flows' events."""
    return sorted({topic for flow in flows for topic in flow.topics})


def named_flow(flows: Sequence[Flow], name: str | None) -> Flow:
    """Return the flow of that name; None: the only one.

    Raises:
        FlowError: there is none of that name, or several and none is named.
    """
    names = ", ".join(flow.name for flow in flows)
    if name is None:
        if len(flows) == 1:
            return flows[0]
        raise FlowError(f"which flow? Say --flow with one of {names} (or RELAY_FLOW)")
    for flow in flows:
        if flow.name == name:
            return flow
    raise FlowError(f"there is no flow {name!r} in the settings; there is {names}")
