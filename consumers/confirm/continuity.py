"""Hop 5: of the returns handled, a sample is compared with the trace of the event it answers.

Invariant: looked at after the commit, at most once a second and so many at a time, so that it costs
a batch nothing; what cannot be looked up is not counted. A return can know its trace from the
record alone: where it agrees with the outbox row, all three do.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import asyncpg
import structlog

from relay.consumers.confirm.transaction import Done
from relay.consumers.returns.fold import Outcome
from relay.consumers.returns.reader import Return
from relay.consumers.returns.stored_record import recorded_ms
from relay.runtime.database import DATABASE_FAILURES
from relay.telemetry.continuity import continuity, stored_trace, trace_of
from relay.telemetry.traceparent import parse

log = structlog.get_logger(__name__)

_EVERY_SECONDS: Final = 1.0
_AT_ONCE: Final = 32

# The event that a return answers, where its day is: by ce_causationid, else the order's first.
# `id + 0`: see the order's first event in `spans.py`.
_STORED: Final = """
SELECT k.place, o.event_id, o.traceparent, l.published_at
  FROM unnest($1::int[], $2::text[], $3::text[], $4::float8[])
       AS k (place, order_id, causation_id, around)
 CROSS JOIN LATERAL (
       SELECT o.id, o.event_id, o.traceparent FROM relay.outbox o
        WHERE o.aggregate_id = k.order_id
          AND o.created_at >= to_timestamp(k.around) - interval '2 days'
          AND o.created_at < to_timestamp(k.around) + interval '1 day'
          AND (k.causation_id IS NULL OR o.event_id::text = k.causation_id)
        ORDER BY o.id + 0 LIMIT 1) o
  -- The proof of its publication: a descent of the largest index there is, so only for some.
  LEFT JOIN LATERAL (
       SELECT published_at FROM relay.delivery_ledger l
        WHERE k.place % 4 = 0 AND l.id_range @> o.id AND l.replay_id IS NULL
          AND o.id = ANY (l.outbox_ids)
        LIMIT 1) l ON true
"""


@dataclass(frozen=True, slots=True)
class Compared:
    """What came of a sample.

    Attributes:
        results: returns by how their trace agrees with their event's.
        process_seconds: of some, the time from the event's acknowledgement to the return's record.
        example: one of these times, and the trace that it is of, if one of them was sampled.
    """

    results: Counter[str] = field(default_factory=Counter)
    process_seconds: tuple[float, ...] = ()
    example: tuple[float, str] | None = None


@dataclass(slots=True)
class TraceSample:
    """Compares now and then; `counts` says how many came out how."""

    counts: Counter[str] = field(default_factory=Counter)
    _next_at: float = 0.0

    async def look(self, connection: asyncpg.Connection, done: Done) -> Compared:
        """Compare some returns of a committed batch, if it is time; return how they came out."""
        now = time.monotonic()
        if now < self._next_at:
            return Compared()
        chosen = _chosen(
            [step.returned for step in done.steps if step.outcome is not Outcome.CANARY]
        )
        if not chosen:
            return Compared()
        self._next_at = now + _EVERY_SECONDS
        found = await _compared(connection, chosen, done.submitted)
        self.counts.update(found.results)
        return found


def _chosen(returns: Sequence[Return]) -> Sequence[Return]:
    """Choose some, spread over the batch."""
    stride = max(1, len(returns) // _AT_ONCE)
    return returns[::stride][:_AT_ONCE]


async def _compared(
    connection: asyncpg.Connection, chosen: Sequence[Return], submitted: dict[str, float | None]
) -> Compared:
    around = [submitted.get(one.order_id) or recorded_ms(one.record) / 1000 for one in chosen]
    try:
        rows = await connection.fetch(
            _STORED,
            list(range(len(chosen))),
            [one.order_id for one in chosen],
            [one.causation_id for one in chosen],
            around,
        )
    except DATABASE_FAILURES as error:
        # The batch is committed: whoever uses the connection next learns of a lost one.
        log.info("traces_not_compared", error=str(error))
        return Compared()
    results = Counter(
        continuity(
            stored_trace(row["traceparent"], row["event_id"]),
            trace_of(chosen[row["place"]].traceparent),
        ).value
        for row in rows
    )
    timed = [
        (_process_seconds(one, row["published_at"]), parse(one.traceparent))
        for row, one in ((row, chosen[row["place"]]) for row in rows)
        if row["published_at"] is not None
    ]
    examples = ((took, of.trace_id) for took, of in timed if of is not None and of.sampled)
    return Compared(results, tuple(took for took, _ in timed), next(examples, None))


def _process_seconds(one: Return, published_at: datetime) -> float:
    return max(0.0, recorded_ms(one.record) / 1000 - published_at.timestamp())
