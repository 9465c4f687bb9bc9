"""Hops 1 to 5: what of a flow's settings contradicts itself, before anything is connected to.

Invariant: pure; the first contradiction is said by the names of the settings, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from relay.runtime.kafka_names import colliding_topics, group_problem, topic_problem

if TYPE_CHECKING:
    from relay.runtime.flow import Flow

LONGEST_DEADLINE_SECONDS: Final = 10 * 366 * 86_400.0
"""Ten years. Beyond, a sum of times would leave the calendar, and no case would ever be opened."""

LONGEST_EVENT_TYPE_BYTES: Final = 1024
"""Of a row's longer one only the beginning is read: it would never be one of the settings."""

_OWN_HEADERS: Final = frozenset({"id", "traceparent", "tracestate", "replay_id"})

_RANKS: Final = range(-(2**31), 2**31)


def contradiction(flow: Flow, reserved: frozenset[str]) -> str | None:
    """Return what is wrong; None: nothing is.

    Args:
        flow: not yet usable.
        reserved: event types and aggregate types that orders must not have.
    """
    problems = (
        _events(flow, reserved),
        _topics(flow),
        _groups(flow),
        _statuses(flow),
        _terminal_statuses(flow),
        _wire(flow),
    )
    return next((problem for each in problems for problem in each), None)


def _wire(flow: Flow) -> Iterator[str]:
    if flow.wire_headers and flow.wire != "debezium":
        yield "wire_headers are of wire = debezium"
    for name in flow.wire_headers:
        lowered = name.lower()
        if not name.strip() or lowered in _OWN_HEADERS or lowered.startswith("relay_"):
            yield f"wire_headers: {name!r} is written by the relay itself"


def _events(flow: Flow, reserved: frozenset[str]) -> Iterator[str]:
    if not flow.events:
        yield "events is empty: nothing would ever be published"
    if not flow.aggregate_type.strip() or flow.aggregate_type in reserved:
        yield f"aggregate_type {flow.aggregate_type!r}: a word that is not the probe's is needed"
    for event_type, route in flow.events.items():
        if not event_type.strip() or event_type in reserved:
            yield f"event {event_type!r}: a type that is not the probe's is needed"
        length = len(event_type.encode(errors="replace"))
        if length > LONGEST_EVENT_TYPE_BYTES:
            yield (
                f"event {event_type[:40]!r}...: a type of {length} bytes; at most"
                f" {LONGEST_EVENT_TYPE_BYTES}"
            )
        if not route.topic:
            yield f"event {event_type!r} has no topic"
        if route.topic == flow.returns_topic:
            yield f"event {event_type!r} goes to the returns topic {flow.returns_topic!r}"
        yield from _deadline(event_type, route.deadline_seconds)


def _deadline(event_type: str, seconds: float | None) -> Iterator[str]:
    if seconds is None:
        return
    if not seconds > 0 or math.isnan(seconds):
        yield f"event {event_type!r}: deadline_seconds must be more than 0"
    if seconds > LONGEST_DEADLINE_SECONDS:
        yield (
            f"event {event_type!r}: deadline_seconds is at most {LONGEST_DEADLINE_SECONDS:.0f}"
            " (ten years); leave it out for an event that expects no return"
        )


def _topics(flow: Flow) -> Iterator[str]:
    named = _named_topics(flow)
    for setting, topic in named.items():
        problem = topic_problem(topic)
        if problem is not None:
            yield f"{setting} {problem}"
    if flow.events_topic == flow.returns_topic:
        yield f"events_topic and returns_topic are both {flow.events_topic!r}"
    for setting, topic in named.items():
        if setting != "probe_topic" and topic == flow.probe_topic:
            yield f"probe_topic is {topic!r}, which is {setting}: canaries need one of their own"
    pair = colliding_topics(named.values())
    if pair is not None:
        yield (
            f"topics {pair[0]!r} and {pair[1]!r} collide: Kafka takes a dot and an underscore"
            " for the same"
        )


def _named_topics(flow: Flow) -> Mapping[str, str]:
    routes = {f"the topic of event {e!r}": route.topic for e, route in flow.events.items()}
    own = {
        "events_topic": flow.events_topic,
        "returns_topic": flow.returns_topic,
        "probe_topic": flow.probe_topic,
    }
    return {**own, **routes}


def _groups(flow: Flow) -> Iterator[str]:
    if not flow.processor_groups:
        yield "processor_groups is empty: whose offsets prove that an event was processed?"
    named = [("confirm_group", flow.confirm_group)]
    named += [("processor_groups", group) for group in flow.processor_groups]
    for setting, group in named:
        problem = group_problem(group)
        if problem is not None:
            yield f"{setting}: a group's name {problem}"
    if len(set(flow.processor_groups)) < len(flow.processor_groups):
        yield f"processor_groups names one twice: {', '.join(flow.processor_groups)}"
    if flow.confirm_group in flow.processor_groups:
        yield (
            f"confirm_group {flow.confirm_group!r} is also one of processor_groups: each needs"
            " a group of its own, or they would share out one another's partitions"
        )


def _statuses(flow: Flow) -> Iterator[str]:
    ranks = flow.status_ranks
    if flow.initial_status not in ranks:
        yield f"initial_status {flow.initial_status!r} has no rank in status_ranks"
    for status, rank in ranks.items():
        if not status.strip():
            yield "status_ranks: a status is a word, and not empty"
        if rank not in _RANKS:
            yield f"status_ranks: {status!r} has the rank {rank}; at most {_RANKS[-1]}"
    for alias, status in flow.status_aliases.items():
        if alias in ranks or status not in ranks:
            yield (
                f"status_aliases: {alias!r} = {status!r} needs a new word for a status with a rank"
            )


def _terminal_statuses(flow: Flow) -> Iterator[str]:
    ranks = flow.status_ranks
    if not flow.terminal_statuses:
        yield "terminal_statuses is empty: no order could ever be returned"
    for status in sorted(flow.terminal_statuses):
        if status not in ranks:
            yield f"terminal status {status!r} has no rank in status_ranks"
    highest = max(ranks.values(), default=0)
    for status, rank in ranks.items():
        if (rank == highest) != (status in flow.terminal_statuses):
            yield f"status {status!r}: terminal statuses have the highest rank, others a lower one"
    for status in sorted(flow.later_statuses & flow.status_ranks.keys()):
        yield f"status {status!r} is in status_ranks and in later_statuses: it is one of both"
    if flow.initial_status in flow.terminal_statuses:
        yield (
            f"initial_status {flow.initial_status!r} is terminal (no status_ranks is higher):"
            " every order would count as returned when it is placed"
        )
