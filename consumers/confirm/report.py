"""Hop 5: tells metrics, spans, logs and the process record what became of the returns.

Invariant: called after the commit; nothing here fails or undoes a batch, and an update costs a
batch, not a return.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import structlog

from relay.consumers.confirm.continuity import TraceSample
from relay.consumers.confirm.spans import ReturnSpans
from relay.consumers.confirm.transaction import Done
from relay.consumers.returns.fold import Outcome
from relay.consumers.returns.reader import Return
from relay.consumers.returns.refusals import Reason, Refusal
from relay.consumers.returns.stored_record import recorded_ms
from relay.kafka.consumer.partitions import Gap, GapReason
from relay.kafka.partition import Partition
from relay.runtime.testpoints import TestPoint, nothing
from relay.telemetry.continuity import Continuity
from relay.telemetry.metrics import ConfirmMetrics, Metrics, known
from relay.telemetry.traceparent import parse

_LOGGED_REFUSALS = 10  # of one batch; all of them are in quarantine
_TIMED = 200  # of one batch, evenly: the way from the record to the status, and to the record
_OUTCOMES = (
    *(outcome.value for outcome in Outcome),
    *(reason.value for reason in Reason),
    "copy",
    "waiting",
)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Report:
    """What this process did, since its start."""

    spans: ReturnSpans
    metrics: Metrics | None
    terminal: frozenset[str]
    test_point: TestPoint = nothing
    counts: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    gaps: int = 0
    traces: TraceSample = field(default_factory=TraceSample)

    def __post_init__(self) -> None:
        if self.metrics is not None:
            known(self.metrics.confirm.returns, dict.fromkeys(_OUTCOMES))
            known(self.metrics.confirm.trace_continuity, [one.value for one in Continuity])
            self.metrics.confirm.returns_pending.set(0)

    def detail(self) -> Mapping[str, Any]:
        """Return what `relay status` shows."""
        return {
            "returns": dict(self.counts),
            "pending": self.waiting,
            "gaps": self.gaps,
            "traces": dict(self.traces.counts),
        }

    async def done(self, connection: asyncpg.Connection, done: Done, started_ns: int) -> None:
        """Note what became of a batch."""
        await self.test_point("after_commit")
        # By identity: an Enum is hashed in Python, 0.3 us for each return.
        outcomes = [step.outcome for step in done.steps]
        counts = Counter({outcome.value: outcomes.count(outcome) for outcome in Outcome})
        counts.update(refusal.reason.value for refusal in done.refused)
        counts["copy"] += len(done.copies)
        counts["waiting"] += len(done.waiting)
        counts["names_differ"] += len(done.misnamed)
        counts += Counter()  # drops the zeros
        self.counts.update(counts)
        if self.metrics is not None:
            for outcome, number in counts.items():
                self.metrics.confirm.returns.labels(outcome).inc(number)
            self._time(self.metrics.confirm, done)
        _log_refused(done.refused)
        await self.spans.export(connection, done, started_ns)
        compared = await self.traces.look(connection, done)
        if self.metrics is not None:
            for result, number in compared.results.items():
                self.metrics.confirm.trace_continuity.labels(result).inc(number)
            process = self.metrics.confirm.process_latency_seconds
            process.observe(compared.process_seconds)
            if compared.example is not None:
                process.exemplar(*compared.example)

    def _time(self, metrics: ConfirmMetrics, done: Done) -> None:
        """Count how long the orders took that were ended; the parts of some of them."""
        now, terminal = time.time(), self.terminal
        changes = (Outcome.APPLIED, Outcome.OBSERVED)
        ended = [
            returned
            for _, returned, outcome, _, new_status in done.steps
            if outcome in changes and new_status in terminal
        ]
        submitted = done.submitted
        placed = [submitted.get(one.order_id) for one in ended]
        metrics.end_to_end_latency_seconds.observe(
            [max(0.0, now - at) for at in placed if at is not None]
        )
        stride = len(ended) // _TIMED + 1
        some = list(zip(ended[::stride], placed[::stride], strict=True))
        recorded = [recorded_ms(one.record) / 1000 for one, _ in some]
        metrics.confirm_latency_seconds.observe([max(0.0, now - at) for at in recorded])
        metrics.return_latency_seconds.observe(
            [max(0.0, r - at) for r, (_, at) in zip(recorded, some, strict=True) if at is not None]
        )
        for one, at in some[:1]:
            _show_example(metrics, one, now, at)

    def gap(self, partition: Partition, gap: Gap) -> None:
        """Note that records were not seen."""
        self.gaps += 1
        if self.metrics is not None:
            self.metrics.confirm.offset_gaps.inc()
        level = log.info if gap.reason is GapReason.NOT_READABLE else log.error
        level(
            "records_not_seen",
            topic=partition.topic,
            partition=partition.partition,
            reason=gap.reason.value,
            from_offset=gap.from_offset,
            to_offset=gap.to_offset,
        )

    def pending(self, count: int) -> None:
        """Note how many returns wait for a locked order."""
        self.waiting = count
        if self.metrics is not None:
            self.metrics.confirm.returns_pending.set(count)


def _show_example(
    metrics: ConfirmMetrics, one: Return, now: float, submitted: float | None
) -> None:
    """Show the trace of a return, where it is sampled."""
    context = parse(one.traceparent)
    if context is None or not context.sampled:
        return
    recorded = recorded_ms(one.record) / 1000
    metrics.confirm_latency_seconds.exemplar(max(0.0, now - recorded), context.trace_id)
    if submitted is not None:
        metrics.return_latency_seconds.exemplar(max(0.0, recorded - submitted), context.trace_id)
        metrics.end_to_end_latency_seconds.exemplar(max(0.0, now - submitted), context.trace_id)


def _log_refused(refused: Sequence[Refusal]) -> None:
    for refusal in refused[:_LOGGED_REFUSALS]:
        log.warning(
            "return_refused",
            reason=refusal.reason.value,
            detail=refusal.detail,
            order_id=refusal.order_id,
            partition=refusal.record.partition,
            offset=refusal.record.offset,
        )
    if len(refused) > _LOGGED_REFUSALS:
        log.warning("more_returns_refused", count=len(refused) - _LOGGED_REFUSALS)
