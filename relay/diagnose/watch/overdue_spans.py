"""The `return missing` span in an order's own trace, and the hops that are proven.

Invariant: written whether or not the order was sampled; its attributes suffice without any other
span, and it begins where the last proven hop ended. Where the order has no other span in its trace,
each proven hop gets one too, marked as reconstructed, under a service of its own. A case that was
reported and is closed since has a span that says so.
Source: DESIGN 3.6; OpenTelemetry messaging conventions.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg

from relay.diagnose.fate import fate_of
from relay.diagnose.verdicts import Fate, Hop
from relay.diagnose.watch.cases import event_of
from relay.diagnose.watch.proven_hops import (
    ProvenHop,
    last_proven_at,
    last_span_id,
    proven_hops,
    proven_spans,
    span_id_of,
)
from relay.runtime.flow import Flow
from relay.telemetry import names
from relay.telemetry import traceparent as w3c
from relay.telemetry.identities import identity
from relay.telemetry.names import SpanKind
from relay.telemetry.otlp import SpanEncoder
from relay.telemetry.protobuf import AttributeValue, attribute, error_status
from relay.telemetry.tracing import Tracing

_MICROSECOND_NS: Final = 1000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Report:
    """A case to be reported.

    Attributes:
        event_id: None for an order without an event.
        evidence: as the case keeps it.
        reported_at: when its `return missing` span was written, and with which verdict.
        closed_at: None while it is open; the others say how, by whom and why.
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
    reported_at: datetime | None = None
    reported_as: str | None = None
    closed_at: datetime | None = None
    closed_as: str | None = None
    closed_by: str | None = None
    closed_why: str | None = None


def report_of(case: asyncpg.Record) -> Report:
    """Read a case; `evidence` is JSON text. What was not asked for is None."""
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
        **{name: case[name] for name in _STANDING if name in case.keys()},  # noqa: SIM118 - a record
    )


_STANDING: Final = (
    "reported_at", "reported_as", "closed_at", "closed_as", "closed_by", "closed_why",
)  # fmt: skip


@dataclass(slots=True)
class OverdueSpans:
    """Encodes and offers the spans of reports.

    Attributes:
        wait_seconds: a wait in the outbox that lasted longer is a span, too.
    """

    tracing: Tracing
    flow: Flow
    wait_seconds: float = 1.0
    _watchdog: Tracing = field(init=False)
    _reconstructed: Tracing = field(init=False)
    _encoders: dict[tuple[str, str, str], SpanEncoder] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._watchdog = self.tracing.as_service(names.WATCHDOG_SERVICE)
        self._reconstructed = self.tracing.as_service(names.RECONSTRUCTED_SERVICE)

    def export(self, reports: Iterable[Report], told_at: datetime) -> None:
        """Offer the spans of returns that are missing; with exporting off nothing is done.

        Args:
            reports: of cases that are open.
            told_at: what is stored as `reported_at`: the span's id is made of it.
        """
        if self.tracing.exporter is None:
            return
        for report in reports:
            self._missing(report, told_at)

    def export_settled(self, reports: Iterable[Report]) -> None:
        """Offer the spans that end those of `export`: the return came late, or a person closed it.

        Args:
            reports: of cases that were reported and are closed since.
        """
        if self.tracing.exporter is None:
            return
        for report in reports:
            self._settled(report)

    def _missing(self, report: Report, told_at: datetime) -> None:
        context = context_of(report)
        hops = proven_hops(report.evidence)
        parent: bytes | None = bytes.fromhex(context.span_id)
        if report.event_id is None and w3c.parse(report.traceparent) is None:
            parent = None
        elif report.reported_as is None and self._is_untraced(report, context, hops):
            root = self._root_id(report, context, hops)
            self._reconstruct(report, context, hops, root)
            parent = last_span_id(hops, report.key, root) if hops else None
        now_ns = time.time_ns()
        began_ns = _ns(last_proven_at(report.evidence, report.placed_at))
        fields = [attribute(key, value) for key, value in attributes_of(report).items()]
        why = f"{report.verdict} / {report.cause} at hop {report.hop}"
        delayed = fate_of(report.verdict, report.cause) in (Fate.DELAYED, Fate.FINE)
        self._offer(
            self._watchdog,
            (names.return_missing_span(report.verdict, delayed=delayed), SpanKind.INTERNAL, {}),
            (min(began_ns, now_ns - _MICROSECOND_NS), now_ns),
            (_identity(context, missing_id(report.key, told_at), parent), report.order_id),
            b"".join([*fields, error_status(why)]),
        )

    def _settled(self, report: Report) -> None:
        assert report.reported_at is not None
        assert report.closed_at is not None
        context = context_of(report)
        parent = missing_id(report.key, report.reported_at)
        began_ns, ended_ns = _ns(report.reported_at), _ns(report.closed_at)
        verdict = report.reported_as or report.verdict
        name = names.return_settled_span(verdict, returned=report.closed_as == "returned")
        said = {
            names.ORDER_VERDICT: str(report.closed_as),
            names.ORDER_CLOSED_BY: report.closed_by,
            names.ORDER_CLOSED_WHY: report.closed_why,
            names.MESSAGE_ID: report.event_id,
        }
        self._offer(
            self._watchdog,
            (name, SpanKind.INTERNAL, {}),
            (began_ns, max(ended_ns, began_ns + _MICROSECOND_NS)),
            (
                _identity(
                    context, span_id_of(report.key, "settled", str(report.closed_at)), parent
                ),
                report.order_id,
            ),
            b"".join(attribute(key, value) for key, value in said.items() if value is not None),
        )

    def _is_untraced(
        self, report: Report, context: w3c.TraceContext, hops: Sequence[ProvenHop]
    ) -> bool:
        """Tell whether no other span of the order is in the trace."""
        if not self._sampled(report, context):
            return True
        # Without a context of its own the trace begins when the event is published.
        return w3c.parse(report.traceparent) is None and not _published(hops)

    def _root_id(
        self, report: Report, context: w3c.TraceContext, hops: Sequence[ProvenHop]
    ) -> bytes:
        """Return the id of the first reconstructed span: the context's, unless hop 2 takes it."""
        if w3c.parse(report.traceparent) is None and not _published(hops):
            return span_id_of(report.key, Hop.PLACE)
        return bytes.fromhex(context.span_id)

    def _sampled(self, report: Report, context: w3c.TraceContext) -> bool:
        """Decide as the relay did when it published the event."""
        sampler = self.tracing.identities.sampler
        if w3c.parse(report.traceparent) is None:
            return sampler.root(bytes.fromhex(context.trace_id))
        return sampler.child(bytes.fromhex(context.trace_id), parent_sampled=context.sampled)

    def _reconstruct(
        self, report: Report, context: w3c.TraceContext, hops: Sequence[ProvenHop], root: bytes
    ) -> None:
        """Write one span per proven hop: the first is what the others hang from."""
        route = self.flow.events.get(report.event_type)
        fields = attribute(names.RELAY_RECONSTRUCTED, True)  # noqa: FBT003
        if report.event_id is not None:
            fields += attribute(names.MESSAGE_ID, report.event_id)
        for one in proven_spans(
            hops,
            self.flow,
            key=report.key,
            topic=self.flow.events_topic if route is None else route.topic,
            placed_at=report.placed_at,
            root_id=root,
            wait_seconds=self.wait_seconds,
        ):
            self._offer(
                self._reconstructed,
                (one.name, one.kind, one.attributes),
                (_ns(one.started_at), _ns(one.ended_at)),
                (_identity(context, one.span_id, one.parent_id), report.order_id),
                fields,
            )

    def _offer(
        self,
        tracing: Tracing,
        kind: tuple[str, SpanKind, Mapping[str, AttributeValue]],
        times_ns: tuple[int, int],
        who: tuple[bytes, str],
        fields: bytes,
    ) -> None:
        service = str(tracing.origin.resource["service.name"])
        key = service, kind[0], kind[1].name
        encoder = self._encoders.get(key)
        if encoder is None:
            encoder = self._encoders[key] = tracing.encoder(*kind)
        tracing.export(
            encoder.encode(
                identities=[who[0]],
                order_ids=[who[1].encode()],
                started_ns=times_ns[0],
                ended_ns=times_ns[1],
                fields=[fields],
            )
        )


def missing_id(key: str, told_at: datetime) -> bytes:
    """Return the id of a case's `return missing` span, by which the span that ends it finds it."""
    return span_id_of(key, "missing", told_at.astimezone(UTC).isoformat())


def _published(hops: Sequence[ProvenHop]) -> bool:
    return any(one.hop is Hop.PUBLISH for one in hops)


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


def _identity(context: w3c.TraceContext, span_id: bytes, parent: bytes | None) -> bytes:
    return identity(bytes.fromhex(context.trace_id), span_id, parent or b"")


def _ns(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1) * _MICROSECOND_NS
