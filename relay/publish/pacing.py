"""Hop 2: how long to wait between two reads of the outbox.

Invariant: pure. While rows flow the pause is the shortest; without rows it grows to the longest,
which bounds both the idle cost (a read costs 0.1 ms in the server) and the delay of the first row
after a quiet time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_PATIENCE: Final = 25  # empty reads before the pause grows
_GROWTH: Final = 1.25


@dataclass(frozen=True, slots=True)
class Pace:
    """The pause before the next read.

    Attributes:
        shortest_seconds: while rows flow.
        longest_seconds: when idle.
        empty_reads: since the last row.
    """

    shortest_seconds: float
    longest_seconds: float
    empty_reads: int = 0

    def after_read(self, rows: int) -> Pace:
        """Return the pace after a read that found so many rows."""
        empty = 0 if rows else self.empty_reads + 1
        return Pace(self.shortest_seconds, self.longest_seconds, empty)

    @property
    def pause_seconds(self) -> float:
        """How long to wait now."""
        late = max(0, self.empty_reads - _PATIENCE)
        # The exponent is bounded: an idle night must not overflow a float.
        pause = self.shortest_seconds * _GROWTH ** min(late, 64)
        return min(self.longest_seconds, pause)
