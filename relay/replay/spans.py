"""All hops: a replay's own span, in a trace whose id is the replay's, with links to its orders'.

Invariant: written once a run, whatever came of it; without exporting nothing is done. The `send`
spans of its events are in the orders' own traces, and link here.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import asyncpg
from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from relay.replay.jobs import Job
from relay.telemetry import names
from relay.telemetry import traceparent as w3c
from relay.telemetry.tracing import Tracing

# OpenTelemetry keeps 128 links of a span.
_LINKS: Final = 128
_FIRST_ORDERS: Final = """
SELECT e.event_id::text, e.traceparent
  FROM relay.replay_part AS part
  JOIN relay.outbox_summary AS e ON e.id = ANY (part.outbox_ids[1:$2])
 WHERE part.replay_id = $1 AND part.number = 0
 ORDER BY e.id LIMIT $2
"""


def context_of(replay_id: UUID) -> SpanContext:
    """Return what a replayed event's `send` span links to."""
    return SpanContext(
        trace_id=replay_id.int,
        span_id=replay_id.int & (2**64 - 1),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


async def tell_replay(
    connection: asyncpg.Connection, tracing: Tracing, job: Job, started_ns: int
) -> None:
    """Write the span of a run that began at `started_ns`, Unix time, and ends now."""
    if not tracing.identities.recording:
        return
    rows = await connection.fetch(_FIRST_ORDERS, job.replay_id, _LINKS)
    parent = trace.set_span_in_context(NonRecordingSpan(context_of(job.replay_id)))
    span = tracing.tracer().start_span(
        names.REPLAY,
        context=parent,
        kind=SpanKind.INTERNAL,
        attributes={
            names.RELAY_REPLAY_ID: str(job.replay_id),
            names.BATCH_MESSAGE_COUNT: job.sent_count,
        },
        links=[Link(_context(*row)) for row in rows],
        start_time=started_ns,
    )
    span.end()


def _context(event_id: str, traceparent: str | None) -> SpanContext:
    known = w3c.parse(traceparent) or w3c.of_event(UUID(event_id).bytes, sampled=True)
    return SpanContext(
        trace_id=int(known.trace_id, 16),
        span_id=int(known.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(known.sampled)),
    )
