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
        together_records=2_000,
        topic_check_seconds=5.0,
        # Nobody waits for the proof. Records that come one by one would else each be a fetch, a
        # transaction and a row of the ledger: 500 records/s cost 31% of a core so, and 2% with it
        # (benchmarks/witness).
        fetch_min_bytes=256 * 1024,
        max_partition_fetch_bytes=4 * 1024 * 1024,
        max_fetch_bytes=16 * 1024 * 1024,
    )


@dataclass(frozen=True, slots=True)
class WitnessOptions:
    """How a witness works.

    Attributes:
        group: the consumer group; several witnesses in it share the topics' partitions.
        session: how it takes part in its group.
        row_seconds: for how long a record without a row is looked up again: a publisher that reads
            the WAL sends a row before its commit is visible, with a synchronous standby.
        statement_seconds: a statement that takes longer counts as a lost connection.
        away_backoff: while the database is away.
    """

    group: str = "relay-witness"
    session: SessionOptions = field(default_factory=_session)
    row_seconds: float = 600.0
    statement_seconds: float = 60.0
    away_backoff: Backoff = field(default_factory=lambda: Backoff(0.2, 1.0))
