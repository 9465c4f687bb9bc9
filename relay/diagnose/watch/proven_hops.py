"""The proven hops of an order that nobody traced, as spans: pure.

Invariant: a span says what the evidence says and no more: where only the moment is known at which
a hop was done, the span ends there and begins where the last one ended, or lasts a microsecond.
The ids are made of the case, so that whoever writes them writes the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from relay.diagnose.verdicts import Hop
from relay.runtime.flow import Flow
from relay.telemetry import names
from relay.telemetry.names import SpanKind
from relay.telemetry.protobuf import AttributeValue

_MICROSECOND: Final = timedelta(microseconds=1)
# Below this a wait in the outbox is no span of its own, as at hop 2 (trace.wait_seconds).
_TRACED: Final = (Hop.PLACE, Hop.PUBLISH, Hop.PROCESS, Hop.RETURN)


@dataclass(frozen=True, slots=True)
class ProvenHop:
    """A hop that the evidence proves, and when it was done."""

    hop: Hop
    at: datetime


@dataclass(frozen=True, slots=True)
class ProvenSpan:
    """One span to be written.

    Attributes:
        parent_id: None: it is the root.
    """

    name: str
    kind: SpanKind
    attributes: Mapping[str, AttributeValue]
    started_at: datetime
    ended_at: datetime
    span_id: bytes
    parent_id: bytes | None


def proven_hops(evidence: Mapping[str, Any]) -> list[ProvenHop]:
    """Return the hops that a case's evidence proves, with their times, in order."""
    return [
        ProvenHop(Hop(line["hop"]), datetime.fromisoformat(line["at"]))
        for line in evidence.get("lines", ())
        if line["mark"] == "ok" and line["at"] is not None
    ]


def last_proven_at(evidence: Mapping[str, Any], placed_at: datetime) -> datetime:
    """Return when the last proven hop was done: there the return begins to be missing."""
    return max((one.at for one in proven_hops(evidence)), default=placed_at)


def span_id_of(*parts: str) -> bytes:
    """Make a span id of 8 bytes out of what it is about, never of zeros."""
    digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=8).digest()
    return digest if any(digest) else b"\1" * 8


def proven_spans(
    hops: Sequence[ProvenHop],
    flow: Flow,
    *,
    key: str,
    topic: str,
    placed_at: datetime,
    root_id: bytes,
    wait_seconds: float,
) -> Iterator[ProvenSpan]:
    """Yield the spans of what is proven, the root first, each under the one that it hangs from.

    Args:
        hops: from `proven_hops`.
        flow: topics and groups.
        key: of the case.
        topic: of the event.
        placed_at: when the order was placed.
        root_id: of the first span, 8 bytes: what the record's `traceparent` names.
        wait_seconds: a wait in the outbox that lasted longer is a span, too.
    """
    began, processed_id = placed_at, root_id
    first = True
    for one in hops:
        if one.hop not in _TRACED:
            continue
        name, kind, attributes = _kind(one.hop, topic, flow)
        parent = None if first else processed_id if one.hop is Hop.RETURN else root_id
        own = root_id if first else span_id_of(key, one.hop)
        started = min(began, one.at - _MICROSECOND)
        if one.hop is Hop.PUBLISH and not first:
            if (one.at - began).total_seconds() > wait_seconds:
                waiting_id = span_id_of(key, "wait")
                yield ProvenSpan(
                    names.wait_span(topic), SpanKind.INTERNAL, {}, began, one.at, waiting_id, parent
                )
            # Only the acknowledgement is known.
            started = one.at - _MICROSECOND
        yield ProvenSpan(name, kind, attributes, started, one.at, own, parent)
        processed_id = own if one.hop is Hop.PROCESS else processed_id
        began, first = max(began, one.at), False


def last_span_id(hops: Sequence[ProvenHop], key: str, root_id: bytes) -> bytes:
    """Return the id that `proven_spans` gives to the last of its spans."""
    traced = [one.hop for one in hops if one.hop in _TRACED]
    return root_id if len(traced) < 2 else span_id_of(key, traced[-1])  # noqa: PLR2004 - the root


def _kind(hop: Hop, topic: str, flow: Flow) -> tuple[str, SpanKind, dict[str, str | int]]:
    match hop:
        case Hop.PLACE:
            return names.create_span(topic), SpanKind.PRODUCER, names.create_attributes(topic)
        case Hop.PUBLISH:
            return names.send_span(topic), SpanKind.CLIENT, names.send_attributes(topic)
        case Hop.PROCESS:
            group = next(iter(flow.processor_groups), None)
            said = names.process_attributes(topic, group=group)
            return names.process_span(topic), SpanKind.CONSUMER, said
        case _:
            returns = flow.returns_topic
            return names.send_span(returns), SpanKind.PRODUCER, names.send_attributes(returns)
