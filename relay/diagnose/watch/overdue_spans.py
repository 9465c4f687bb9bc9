"""All hops: the `return overdue` span in an order's own trace, and the hops that are proven.

Invariant: written whether or not the order was sampled; its attributes suffice without any other
span. Where the order was not sampled, each proven hop gets a span too, marked as reconstructed.
Source: DESIGN 3.6; OpenTelemetry messaging conventions.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from relay.diagnose.watch.cases import event_of
from relay.runtime.flow import Flow
from relay.telemetry import names
from relay.telemetry import traceparent as w3c
from relay.telemetry.identities import identity, new_span_id
from relay.telemetry.names import SpanKind
from relay.telemetry.otlp import SpanBatch, SpanEncoder
from relay.telemetry.protobuf import AttributeValue, attribute, error_status
from relay.telemetry.tracing import Tracing

_NANO: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Report:
    """A case to be reported.

    Attributes:
        event_id: None for an order without an event.
        evidence: as the case keeps it.
    """

    key: str
    order_id: str
    event_id: str | None
    event_type: str
    traceparent: str | None
    hop: str
    verdict: str
    cause: str
    incident_id: int | None
    placed_at: datetime
    deadline_at: datetime
    evidence: dict[str, Any]


def report_of(case: asyncpg.Record) -> Report:
    """Read a case; `evidence` is JSON text."""
    return Report(
        key=case["event_id"],
        order_id=case["aggregate_id"],
        event_id=event_of(case["event_id"]),
        event_type=case["event_type"],
        traceparent=case["traceparent"],
        hop=case["hop"],
        verdict=case["verdict"],
        cause=case["cause"],
        incident_id=case["incident_id"],
        placed_at=case["placed_at"],
        deadline_at=case["deadline_at"],
        evidence=json.loads(case["evidence"]),
    )


@dataclass(slots=True)
class OverdueSpans:
    """Encodes and offers the spans of reports."""

    tracing: Tracing
    flow: Flow
    _encoders: dict[tuple[str, SpanKind], SpanEncoder] = field(default_factory=dict, init=False)

    def export(self, reports: Iterable[Report]) -> None:
        """Offer them; with exporting off nothing is done."""
        if self.tracing.exporter is None:
            return
        for report in reports:
            self._export(report)

    def _export(self, report: Report) -> None:
        context = context_of(report)
        alone = report.event_id is None and w3c.parse(report.traceparent) is None
        if not alone and not self._sampled(report, context):
            self._reconstruct(report, context)
        now_ns = time.time_ns()
        fields = [attribute(key, value) for key, value in attributes_of(report).items()]
        why = f"{report.verdict} / {report.cause} at hop {report.hop}"
        self._offer(
            names.RETURN_OVERDUE,
            SpanKind.INTERNAL,
            _Times(min(_ns(report.deadline_at), now_ns), now_ns),
            (
                _identity(context, new_span_id(), parent=None if alone else context.span_id),
                report.order_id,
            ),
            b"".join([*fields, error_status(why)]),
        )

    def _sampled(self, report: Report, context: w3c.TraceContext) -> bool:
        """Decide as the relay did when it published the event."""
        sampler = self.tracing.identities.sampler
        if w3c.parse(report.traceparent) is None:
            return sampler.root(bytes.fromhex(context.trace_id))
        return sampler.child(bytes.fromhex(context.trace_id), parent_sampled=context.sampled)

    def _reconstruct(self, report: Report, context: w3c.TraceContext) -> None:
        """Write one span per proven hop: the first is what the others hang from."""
        began, first = report.placed_at, True
        for line in report.evidence.get("lines", ()):
            span = _SPANS.get(line["hop"])
            if span is None or line["mark"] != "ok" or line["at"] is None:
                continue
            ended = datetime.fromisoformat(line["at"])
            topic = self._topic(report, line["hop"])
            own = bytes.fromhex(context.span_id) if first else new_span_id()
            self._offer(
                span[0](topic),
                span[1],
                _Times(min(_ns(began), _ns(ended)), _ns(ended)),
                (
                    _identity(context, own, parent=None if first else context.span_id),
                    report.order_id,
                ),
                attribute(names.RELAY_RECONSTRUCTED, True),  # noqa: FBT003
            )
            began, first = ended, False

    def _topic(self, report: Report, hop: str) -> str:
        if hop in ("return", "confirm"):
            return self.flow.returns_topic
        route = self.flow.events.get(report.event_type)
        return self.flow.events_topic if route is None else route.topic

    def _offer(
        self,
        name: str,
        kind: SpanKind,
        times: _Times,
        who: tuple[bytes, str],
        fields: bytes,
    ) -> None:
        encoder = self._encoders.get((name, kind))
        if encoder is None:
            encoder = self._encoders[name, kind] = self.tracing.encoder(name, kind, {})
        batches: Iterable[SpanBatch] = encoder.encode(
            identities=[who[0]],
            order_ids=[who[1].encode()],
            started_ns=times.started_ns,
            ended_ns=times.ended_ns,
            fields=[fields],
        )
        self.tracing.export(batches)


@dataclass(frozen=True, slots=True)
class _Times:
    started_ns: int
    ended_ns: int


_SPANS: Final = {
    "place": (names.create_span, SpanKind.PRODUCER),
    "publish": (names.send_span, SpanKind.CLIENT),
    "process": (names.process_span, SpanKind.CONSUMER),
    "return": (names.send_span, SpanKind.PRODUCER),
}


def attributes_of(report: Report) -> dict[str, AttributeValue]:
    """Return what the span says: enough to act on when every other span is past retention."""
    found: dict[str, AttributeValue] = {
        names.ORDER_HOP: report.hop,
        names.ORDER_VERDICT: report.verdict,
        names.ORDER_CAUSE: report.cause,
    }
    if report.event_id is not None:
        found[names.MESSAGE_ID] = report.event_id
    if report.incident_id is not None:
        found[names.ORDER_INCIDENT] = f"I-{report.incident_id}"
    for line in report.evidence.get("lines", ()):
        said = f"{line['mark']} {line['at'] or ''} {line['found']}"
        found[f"{names.ORDER_EVIDENCE}.{line['hop']}"] = " ".join(said.split())
    if report.evidence.get("missing"):
        found[names.ORDER_MISSING] = report.evidence["missing"]
    if report.evidence.get("next"):
        found[names.ORDER_NEXT] = report.evidence["next"][0]
    return found


def context_of(report: Report) -> w3c.TraceContext:
    """Return the order's place in its own trace; one is made of its id where it has none."""
    stored = w3c.parse(report.traceparent)
    if stored is not None:
        return stored
    return w3c.of_event(_id_bytes(report.event_id or report.order_id), sampled=False)


def _id_bytes(text: str) -> bytes:
    try:
        return UUID(text).bytes
    except ValueError:
        return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _identity(context: w3c.TraceContext, span_id: bytes, *, parent: str | None) -> bytes:
    above = b"" if parent is None else bytes.fromhex(parent)
    return identity(bytes.fromhex(context.trace_id), span_id, above)


def _ns(at: datetime) -> int:
    return int(at.timestamp() * _NANO)
