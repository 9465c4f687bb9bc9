"""Hop 5: one `process orders.returns` span for each sampled return, and whose trace it is in.

Invariant: nothing here fails or delays a batch; without exporting nothing is done. A return that
came without a `traceparent` (a foreign processor dropped it) is put into the trace of its order, by
the context that stands in the outbox, so that the trace is whole all the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

import asyncpg
import structlog

from relay.consumers.confirm.transaction import Done
from relay.consumers.returns.fold import Outcome
from relay.consumers.returns.reader import Return
from relay.consumers.returns.stored_record import recorded_ms
from relay.runtime.database import DATABASE_FAILURES
from relay.telemetry import names
from relay.telemetry.names import SpanKind
from relay.telemetry.otlp import SpanEncoder
from relay.telemetry.protobuf import attribute, error_status
from relay.telemetry.tracing import Tracing

log = structlog.get_logger(__name__)

# The order's first event, looked for where its day is: a probe of one or two partitions, 10 us.
# `id + 0`: by the order's index. In a partition without statistics the planner takes an order for
# one row in two hundred, and would rather read by ids from the beginning, for each return.
_CONTEXTS = """
SELECT k.order_id, o.event_id, o.traceparent, o.tracestate
  FROM unnest($1::text[], $2::float8[]) AS k (order_id, around)
 CROSS JOIN LATERAL (
       SELECT o.event_id, o.traceparent, o.tracestate
         FROM relay.outbox o
        WHERE o.aggregate_id = k.order_id
          AND o.created_at >= to_timestamp(k.around) - interval '2 days'
          AND o.created_at < to_timestamp(k.around) + interval '1 day'
        ORDER BY o.id + 0
        LIMIT 1) o
"""

Context = tuple[bytes | None, bytes | None]
_NO_CONTEXT: Final[Context] = (None, None)

# What became of a return that is no step (`Outcome` has the others): handled before, or kept in
# quarantine. One whose order is locked has its span once it is decided.
_DUPLICATE: Final = attribute(names.RELAY_DUPLICATE, True)  # noqa: FBT003 - an attribute's value
_COPY: Final = attribute(names.RELAY_OUTCOME, "copy") + _DUPLICATE
_HELD: Final = attribute(names.RELAY_OUTCOME, "held")


class _Span(NamedTuple):
    partition: int
    offset: int
    order_id: str
    context: Context
    fields: bytes


@dataclass(frozen=True, slots=True)
class ReturnSpans:
    """Encodes and offers the spans of decided batches."""

    tracing: Tracing
    encoder: SpanEncoder
    _statuses: dict[tuple[Outcome, str | None, str], bytes] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        tracing: Tracing,
        topic: str,
        *,
        group: str,
        client_id: str,
        server: str | None = None,
    ) -> Self:
        """Prepare the encoder."""
        attributes = names.process_attributes(
            topic, group=group, client_id=client_id, server=server
        )
        name = names.process_span(topic)
        return cls(tracing, tracing.encoder(name, SpanKind.CONSUMER, attributes, linked=True))

    async def export(self, connection: asyncpg.Connection, done: Done, started_ns: int) -> None:
        """Export the spans of a batch: from its beginning to its commit."""
        if not self.tracing.identities.recording:
            return
        ended_ns = time.time_ns()
        contexts = await self._missing_contexts(connection, done)
        spans = sorted(self._spans(done, contexts), key=lambda span: span[:2])
        for partition in sorted({span.partition for span in spans}):
            self._export(
                partition, [s for s in spans if s.partition == partition], started_ns, ended_ns
            )

    def _export(
        self, partition: int, spans: Sequence[_Span], started_ns: int, ended_ns: int
    ) -> None:
        self.tracing.export(
            self.encoder.encode(
                identities=self.tracing.identities.of_records(
                    [span.context[0] for span in spans], [span.context[1] for span in spans]
                ),
                order_ids=[span.order_id.encode() for span in spans],
                started_ns=started_ns,
                ended_ns=ended_ns,
                partition=partition,
                offsets=[span.offset for span in spans],
                fields=[span.fields for span in spans],
                batch_size=len(spans),
            )
        )

    def _spans(self, done: Done, contexts: Mapping[str, Context]) -> Iterator[_Span]:
        for step in done.steps:
            one = step.returned
            fields = self._status_fields(step.outcome, step.old_status, step.new_status)
            yield _span(one, contexts, fields)
        for one in done.copies:
            yield _span(one, contexts, _COPY)
        for refusal in done.refused:
            record = refusal.record
            context = _encoded(refusal.traceparent, None)
            if context == _NO_CONTEXT:
                context = contexts.get(refusal.order_id or "", _NO_CONTEXT)
            fields = _HELD + attribute(names.ERROR_TYPE, refusal.reason.value)
            fields += error_status(refusal.detail)
            yield _Span(record.partition, record.offset, refusal.order_id or "", context, fields)

    def _status_fields(self, outcome: Outcome, old: str | None, new: str) -> bytes:
        known = self._statuses.get((outcome, old, new))
        if known is None:
            known = attribute(names.RELAY_OUTCOME, outcome.value)
            known += attribute(names.ORDER_STATUS_NEW, new)
            if old is not None:
                known += attribute(names.ORDER_STATUS_OLD, old)
            self._statuses[outcome, old, new] = known
        return known

    async def _missing_contexts(
        self, connection: asyncpg.Connection, done: Done
    ) -> Mapping[str, Context]:
        around = dict(_without_context(done))
        if not around:
            return {}
        try:
            rows = await connection.fetch(_CONTEXTS, list(around), list(around.values()))
        except DATABASE_FAILURES as error:
            log.info("returns_without_traces", error=str(error))
            return {}
        return {row["order_id"]: self._context(row) for row in rows}

    def _context(self, row: asyncpg.Record) -> Context:
        """Return the context that the order's first record carries on Kafka."""
        columns = self.tracing.identities.of_rows(
            [row["traceparent"]], [row["tracestate"]], [row["event_id"].bytes]
        )
        return columns.traceparents[0], columns.tracestates[0]


def _without_context(done: Done) -> Iterator[tuple[str, float]]:
    """Yield orders whose returns have no context, and about when the order was placed."""
    for one in _readable(done):
        if one.traceparent is None:
            yield one.order_id, done.submitted.get(one.order_id) or recorded_ms(one.record) / 1000
    for refusal in done.refused:
        if refusal.traceparent is None and refusal.order_id is not None:
            yield refusal.order_id, recorded_ms(refusal.record) / 1000


def _readable(done: Done) -> Iterable[Return]:
    yield from (step.returned for step in done.steps)
    yield from done.copies


def _span(one: Return, contexts: Mapping[str, Context], fields: bytes) -> _Span:
    context = _encoded(one.traceparent, one.tracestate)
    if context == _NO_CONTEXT:
        context = contexts.get(one.order_id, _NO_CONTEXT)
    if one.own_identity is not None:
        fields += attribute(names.MESSAGE_ID, one.own_identity)
    return _Span(one.record.partition, one.record.offset, one.order_id, context, fields)


def _encoded(traceparent: str | None, tracestate: bytes | None) -> Context:
    if traceparent is None or not traceparent.isascii():
        return _NO_CONTEXT
    return traceparent.encode(), tracestate
