"""Hop 1's span: `create orders.events`, whose context the row stores and every later hop continues.

Invariant: the context is captured when the row is written, never at dispatch. With an OpenTelemetry
SDK in the process the span is recorded by it; without one the caller's current context is stored,
and without that either nothing is, and the relay makes one from the event's id. Tracing never fails
an event.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_span_id,
    format_trace_id,
    get_tracer,
)

from relay.telemetry import names
from relay.telemetry.traceparent import TraceContext, tracestate

DEFAULT_TOPIC: Final = "orders.events"

# A proxy until the process sets a provider: an order service may import us before its SDK.
_TRACER: Final = get_tracer("relay.outbox", schema_url=names.SCHEMA_URL)


class Creation:
    """The create span of one event, and its context in header form."""

    __slots__ = ("_recorded", "_span", "traceparent", "tracestate")

    def __init__(self, span: Span) -> None:
        context = span.get_span_context()
        self._span = span
        self._recorded = True
        self.traceparent: str | None = None
        self.tracestate: str | None = None
        if context.is_valid:
            self.traceparent = TraceContext(
                format_trace_id(context.trace_id),
                format_span_id(context.span_id),
                context.trace_flags,
            ).header()
            self.tracestate = tracestate(context.trace_state.to_header())

    def identified(self, event_id: UUID) -> None:
        """The row is written, and this is the identity that the database gave it."""
        self._span.set_attribute(names.MESSAGE_ID, str(event_id))

    def abandon(self) -> None:
        """No event was made after all (the order was known): let the span never be exported."""
        self._recorded = False

    def close(self, error: BaseException | None) -> None:
        """End the span, unless it was abandoned."""
        if not self._recorded:
            return
        if error is not None:
            self._span.set_attribute(names.ERROR_TYPE, type(error).__qualname__)
            self._span.set_status(Status(StatusCode.ERROR, str(error)))
        self._span.end()


@contextmanager
def creation(order_id: str, topic: str, tracer: Tracer | None) -> Iterator[Creation]:
    """Open the create span of an event of `order_id`, as a child of the caller's current span."""
    span = (tracer or _TRACER).start_span(
        names.create_span(topic),
        kind=SpanKind.PRODUCER,
        attributes={**names.create_attributes(topic), names.ORDER_ID: order_id},
    )
    made = Creation(span)
    try:
        yield made
    except BaseException as error:
        made.close(error)
        raise
    made.close(None)
