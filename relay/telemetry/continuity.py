"""Hops 2 to 5: whether an order's stored context, its record and its return are one trace.

Invariant: pure. The ids of spans differ by design, each hop adds its own; the trace id may not. An
event that was stored without a context has the one that the relay derives from its id.
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from relay.telemetry.traceparent import of_event, parse


class Continuity(StrEnum):
    """How an order's trace goes from the outbox through Kafka into its return."""

    WHOLE = "whole"
    """All that could be read agree."""
    RECORD_BREAKS = "record_breaks"
    """The record on Kafka carries another trace than the outbox row, or none."""
    RETURN_OTHER = "return_other"
    """The return carries another trace than the event it answers."""
    RETURN_WITHOUT = "return_without"
    """The return carries no trace that can be read."""


BREAKS = tuple(one for one in Continuity if one is not Continuity.WHOLE)


def stored_trace(traceparent: str | None, event_id: UUID) -> str:
    """Return the trace id of an outbox row: its own, or the one derived from its event."""
    context = parse(traceparent) or of_event(event_id.bytes, sampled=False)
    return context.trace_id


def trace_of(traceparent: str | None) -> str | None:
    """Return the trace id of a header; None when there is none, or it is not valid."""
    context = parse(traceparent)
    return None if context is None else context.trace_id


def continuity(stored: str, returned: str | None, record: str | None = None) -> Continuity:
    """Compare trace ids.

    Args:
        stored: of the outbox row.
        returned: of the return; None: it carries none.
        record: of the record on Kafka, "" when it carries none; None: it was not read.
    """
    if record is not None and record != stored:
        return Continuity.RECORD_BREAKS
    if returned is None:
        return Continuity.RETURN_WITHOUT
    return Continuity.WHOLE if returned == stored else Continuity.RETURN_OTHER
