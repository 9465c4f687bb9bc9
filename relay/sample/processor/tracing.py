"""Hops 3-4 of the sample: its `process` and `send` spans, in the order's own trace.

Invariant: an event's context reaches its returns whether it is recorded or not: the header of a
return is the context of the span that sends it, else the event's own, byte for byte. Spans are
written a page at a time, after the fact; nothing here can stop or slow the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from relay.runtime.flow import Flow
from relay.sample.processor.decision import Event
from relay.sample.processor.sender import Sent
from relay.sample.processor.work import Page
from relay.telemetry import names, traceparent
from relay.telemetry.identities import identity, new_span_id
from relay.telemetry.names import SpanKind
from relay.telemetry.otlp import SpanEncoder
from relay.telemetry.protobuf import attribute
from relay.telemetry.tracing import Tracing

# Where the parts of an identity with a parent stand: trace id, tag, parent, tag, span id, state.
_TRACE_ID: Final = slice(0, 16)
_SPAN_ID: Final = slice(28, 36)
_STATE: Final = slice(36, None)


@dataclass(frozen=True, slots=True)
class ProcessorTracing:
    """Contexts and spans of hops 3 and 4."""

    tracing: Tracing
    processed: SpanEncoder
    sent: SpanEncoder

    @classmethod
    def of(
        cls,
        tracing: Tracing,
        flow: Flow,
        *,
        group: str,
        client_id: str,
        server: str | None = None,
    ) -> Self:
        """Prepare the encoders of both spans."""
        process = names.process_attributes(
            flow.events_topic, group=group, client_id=client_id, server=server
        )
        send = names.send_attributes(flow.returns_topic, client_id=client_id, server=server)
        name = names.process_span(flow.events_topic)
        return cls(
            tracing,
            tracing.encoder(name, SpanKind.CONSUMER, process, linked=True),
            tracing.encoder(names.send_span(flow.returns_topic), SpanKind.PRODUCER, send),
        )

    def of_events(self, events: Sequence[Event]) -> list[bytes | None]:
        """Return the identities of the `process` spans of a page; None: not recorded."""
        if not events:
            return []
        return self.tracing.identities.of_records(
            [event.traceparent for event in events], [event.tracestate for event in events]
        )

    def of_return(
        self, event: Event, process_identity: bytes | None
    ) -> tuple[bytes | None, bytes | None]:
        """Return one more return's `traceparent`, and the identity of the span that sends it."""
        if process_identity is None:
            return event.traceparent, None
        trace_id, parent = process_identity[_TRACE_ID], process_identity[_SPAN_ID]
        span_id = new_span_id()
        context = traceparent.TraceContext(trace_id.hex(), span_id.hex(), traceparent.SAMPLED)
        state = event.tracestate if process_identity[_STATE] else None
        return context.header().encode(), identity(trace_id, span_id, parent, state)

    def export_processed(self, page: Page, started_ns: int, ended_ns: int) -> None:
        """Export the `process` spans of a page, once its returns are acknowledged."""
        if not page.taken:
            return
        self.tracing.export(
            self.processed.encode(
                identities=page.identities,
                order_ids=[taken.event.key for taken in page.taken],
                started_ns=started_ns,
                ended_ns=ended_ns,
                partition=page.partition,
                offsets=[taken.offset for taken in page.taken],
                fields=[_message_id(taken.event) for taken in page.taken],
                batch_size=len(page.taken),
            )
        )

    def export_sent(self, sent: Sent) -> None:
        """Export the `send` spans of an acknowledged batch."""
        known = sent.base_offset >= 0
        offsets = range(sent.base_offset, sent.base_offset + len(sent.returns)) if known else None
        self.tracing.export(
            self.sent.encode(
                identities=[one.identity for one in sent.returns],
                order_ids=[one.key for one in sent.returns],
                started_ns=sent.started_ns,
                ended_ns=sent.ended_ns,
                partition=sent.partition,
                offsets=offsets,
                batch_size=len(sent.returns),
            )
        )


def _message_id(event: Event) -> bytes:
    return b"" if event.event_id is None else attribute(names.MESSAGE_ID, event.event_id)
