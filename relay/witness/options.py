"""Hop 2, witnessed: how a witness reads the events' topics, with safe defaults.

Invariant: options that contradict each other are never built.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from relay.kafka.consumer.options import SessionOptions
from relay.runtime.backoff import Backoff


def _session() -> SessionOptions:
    return SessionOptions(
        client_id="relay-witness",
        batch_records=10_000,
        connections=2,
        topic_check_seconds=5.0,
        max_partition_fetch_bytes=4 * 1024 * 1024,
        max_fetch_bytes=16 * 1024 * 1024,
    )


@dataclass(frozen=True, slots=True)
class WitnessOptions:
    """How a witness works.

    Attributes:
        group: the consumer group; several witnesses in it share the topics' partitions.
        session: how it takes part in its group.
        small_batch_records: after a batch of fewer records it pauses, so that records that come
            one by one do not each become a row of the ledger: nobody waits for the proof.
        pause_seconds: how long. Without it 500 records/s cost 31% of a core, with it 2%
            (benchmarks/witness).
        row_seconds: for how long a record without a row is looked up again: a publisher that reads
            the WAL sends a row before its commit is visible, with a synchronous standby.
        statement_seconds: a statement that takes longer counts as a lost connection.
        away_backoff: while the database is away.
    """

    group: str = "relay-witness"
    session: SessionOptions = field(default_factory=_session)
    small_batch_records: int = 2_000
    pause_seconds: float = 0.1
    row_seconds: float = 600.0
    statement_seconds: float = 60.0
    away_backoff: Backoff = field(default_factory=lambda: Backoff(0.2, 1.0))
