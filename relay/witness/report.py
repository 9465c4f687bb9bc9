"""Hop 2, witnessed: counts what a witness saw, for status, metrics and logs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import structlog

from relay.kafka.consumer.partitions import Gap
from relay.kafka.partition import Partition
from relay.telemetry.metrics import Metrics, known
from relay.witness.batch import NO_ID, NO_ROW, ROW_DROPPED, UNREADABLE, Batch
from relay.witness.runs import Runs

log = structlog.get_logger(__name__)

MATCHED = "matched"
REPLAYED = "replayed"
KNOWN = "known"


@dataclass(slots=True)
class Report:
    """What was seen since the start.

    Attributes:
        counts: records by what they were: `matched` to a row, a `replayed` one's, `known` to the
            ledger, or unmatched, by reason.
    """

    metrics: Metrics | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Let each outcome begin at 0."""
        if self.metrics is not None:
            outcomes = (MATCHED, REPLAYED, KNOWN, NO_ID, NO_ROW, ROW_DROPPED, UNREADABLE)
            known(self.metrics.witness.records, outcomes)

    def witnessed(self, batch: Batch, runs: Runs) -> None:
        """Note what was committed."""
        counts = Counter(one.reason for one in runs.unmatched)
        matched = len(runs.outbox_ids)
        counts[MATCHED] = matched
        counts[REPLAYED] = batch.replayed
        counts[KNOWN] = batch.records - matched - batch.replayed - len(runs.unmatched)
        self._count(counts)

    def matched_late(self, count: int) -> None:
        """Note that rows of records seen before were found."""
        self._count(Counter({MATCHED: count}))

    def _count(self, counts: Counter[str]) -> None:
        self.counts.update({name: count for name, count in counts.items() if count})
        if self.metrics is not None:
            for outcome, count in counts.items():
                if count:
                    self.metrics.witness.records.labels(outcome).inc(count)

    def gap(self, partition: Partition, gap: Gap) -> None:
        """Note that records were not seen."""
        log.warning(
            "offset_gap", topic=partition.topic, partition=partition.partition,
            reason=gap.reason.value, from_offset=gap.from_offset, to_offset=gap.to_offset,
        )  # fmt: skip
        if self.metrics is not None:
            self.metrics.witness.gaps.inc()
