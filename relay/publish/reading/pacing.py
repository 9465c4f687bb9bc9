"""Hop 2: how long to wait between two reads of the outbox.

Invariant: pure. While rows flow the pause is the shortest; without rows it grows in proportion to
how long there were none, up to the longest, which bounds both the idle cost (a read costs 0.1 ms in
the server) and the delay of the first row after a quiet time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Of the time without rows: the first row waits no longer than that.
_SHARE: Final = 0.04


@dataclass(frozen=True, slots=True)
class Pace:
    """The pause before the next read.

    Attributes:
        shortest_seconds: while rows flow.
        longest_seconds: when idle.
        rows_at: when a read found some, by the monotonic clock.
    """

    shortest_seconds: float
    longest_seconds: float
    rows_at: float

    def after_read(self, rows: int, at: float) -> Pace:
        """Return the pace after a read that found so many rows at a time."""
        return Pace(self.shortest_seconds, self.longest_seconds, at) if rows else self

    def pause_seconds(self, at: float) -> float:
        """Say how long to wait at a time."""
        quiet_seconds = at - self.rows_at
        return min(self.longest_seconds, max(self.shortest_seconds, quiet_seconds * _SHARE))
