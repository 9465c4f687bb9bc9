"""A replay's own span, in a trace whose id is the replay's, with links to its orders'.

Invariant: written once a run, whatever came of it; without exporting nothing is done. The `send`
spans of its events are in the orders' own traces, and link here: to the first run's span, whose id
is made of the replay's. What is run again after a pause hangs below it. Only spans that exist are
linked to: those of orders that were sampled.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from relay.replay.jobs import Job
from relay.telemetry import names
from relay.telemetry import traceparent as w3c
from relay.telemetry.identities import identity, new_span_id
from relay.telemetry.names import SpanKind
from relay.telemetry.otlp import one_span
from relay.telemetry.protobuf import AttributeValue, attribute, error_status, link
from relay.telemetry.sampling import Sampler
from relay.telemetry.tracing import Tracing

# What OpenTelemetry keeps of a span, by default.
_LINKS: Final = 128
_FIRST_ORDERS: Final = """
SELECT e.event_id::text, e.traceparent
  FROM relay.replay_part AS part
  JOIN relay.outbox_summary AS e ON e.id = ANY (part.outbox_ids[1:$2])
 WHERE part.replay_id = $1 AND part.number = 0
 ORDER BY e.id LIMIT $2
"""


class Run(NamedTuple):
    """A run of a replay, for its span.

    Attributes:
        first: it is the replay's first one.
        who: ran it.
        result: what came of it, in a few words.
        well: everything was sent, and what was waited for came back.
        started_ns: Unix time in nanoseconds.
    """

    first: bool
    who: str
    result: str
    well: bool
    started_ns: int


def root_of(replay_id: UUID) -> tuple[bytes, bytes]:
    """Return trace id and span id of what a replayed event's `send` span links to."""
    return replay_id.bytes, replay_id.bytes[8:]


async def export_replay_span(
    connection: asyncpg.Connection, tracing: Tracing, job: Job, run: Run
) -> None:
    """Write the span of a run that ends now."""
    if not tracing.identities.recording:
        return
    rows = await connection.fetch(_FIRST_ORDERS, job.replay_id, _LINKS)
    said: dict[str, AttributeValue | None] = {
        names.RELAY_REPLAY_ID: str(job.replay_id),
        names.BATCH_MESSAGE_COUNT: job.sent_count,
        names.RELAY_REPLAY_REASON: job.reason,
        names.RELAY_REPLAY_WHO: run.who,
        names.RELAY_REPLAY_RESULT: run.result,
    }
    fields = [attribute(key, value) for key, value in said.items() if value is not None]
    sampler = tracing.identities.sampler
    fields += [link(*one) for row in rows if (one := _linked(sampler, *row)) is not None]
    if not run.well:
        fields.append(error_status(run.result))
    trace_id, root = root_of(job.replay_id)
    tracing.export(
        [
            one_span(
                tracing.as_service(names.REPLAY_SERVICE).origin,
                (names.REPLAY if run.first else names.REPLAY_RESUMED, SpanKind.INTERNAL),
                identity(trace_id, root) if run.first else identity(trace_id, new_span_id(), root),
                (run.started_ns, time.time_ns()),
                b"".join(fields),
            )
        ]
    )


def _linked(sampler: Sampler, event_id: str, traceparent: str | None) -> tuple[bytes, bytes] | None:
    """Return trace id and span id of the span that an order's record names; None: there is none."""
    context = w3c.parse(traceparent)
    if context is None:
        context = w3c.of_event(UUID(event_id).bytes, sampled=False)
        sampled = sampler.root(bytes.fromhex(context.trace_id))
    else:
        trace_id = bytes.fromhex(context.trace_id)
        sampled = sampler.child(trace_id, parent_sampled=context.sampled)
    return (bytes.fromhex(context.trace_id), bytes.fromhex(context.span_id)) if sampled else None
