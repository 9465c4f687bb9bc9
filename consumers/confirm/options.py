"""Hop 5: what the confirmation consumer may be told, with safe defaults.

Invariant: options that contradict each other are never built.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from relay.kafka.consumer.options import SessionOptions
from relay.runtime.backoff import Backoff


@dataclass(frozen=True, slots=True)
class ConfirmOptions:
    """How the confirmation consumer works.

    Attributes:
        session: how it takes part in its group.
        statement_seconds: a statement that takes longer counts as a lost connection.
        frozen_seconds: PostgreSQL ends the transaction of a consumer that stands still for so long,
            so that a frozen one holds neither orders nor offsets. No transaction lasts longer than
            this and `statement_seconds` together.
        quarantine_rows, quarantine_bytes: beyond either, only the places are kept.
        away_backoff: while the database is away: work goes on within a second of its return.
        blocked_backoff: while the database refuses everything.
    """

    session: SessionOptions = field(default_factory=SessionOptions)
    statement_seconds: float = 300.0
    frozen_seconds: float = 30.0
    quarantine_rows: int = 100_000
    quarantine_bytes: int = 1_000_000_000
    away_backoff: Backoff = field(default_factory=lambda: Backoff(0.2, 1.0))
    blocked_backoff: Backoff = field(default_factory=lambda: Backoff(0.5, 10.0))

    def __post_init__(self) -> None:
        if min(self.statement_seconds, self.frozen_seconds) <= 0:
            raise ValueError("statement_seconds and frozen_seconds must be more than 0")
