"""Hop 4 of the sample: returns that leave later than they were decided, because a fault says so.

Invariant: they leave in the order in which they fell due, and stay here until acknowledged. Their
offsets are committed long before, so a crash drops them: that is the fault; the journal names them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from relay.sample.processor.return_maker import Return


@dataclass(slots=True)
class HeldBack:
    """Returns with the monotonic time at which each is due; all are delayed by the same time."""

    _waiting: deque[tuple[float, Return]] = field(default_factory=deque)

    def hold(self, due_at: float, returns: Sequence[Return]) -> None:
        """Hold returns back until `due_at`, which is never before that of an earlier call."""
        self._waiting.extend((due_at, one) for one in returns)

    def due(self, now: float) -> list[Return]:
        """Give those that are due; they stay until `sent` says so."""
        return [one for _, one in takewhile(lambda held: held[0] <= now, self._waiting)]

    def everything(self) -> list[Return]:
        """Give all of them, due or not: the process is about to end."""
        return [one for _, one in self._waiting]

    def sent(self, number: int) -> None:
        """Let the first `number` go."""
        for _ in range(number):
            self._waiting.popleft()

    def wait_seconds(self, now: float, *, at_most: float) -> float:
        """Return how long to wait before the next one is due."""
        return min(at_most, max(0.0, self._waiting[0][0] - now)) if self._waiting else at_most
