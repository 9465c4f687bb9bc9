"""How long to wait before the next attempt at something that failed.

Invariant: pure; the wait never exceeds the cap, however many attempts there were. It never gives
up: whoever retries says what it waits for.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

_LARGEST_EXPONENT = 63


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with full jitter.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: of the variants there,
    full jitter ends contention with the least work.

    Attributes:
        first_seconds: the ceiling of the first wait.
        cap_seconds: the ceiling of every later wait.
    """

    first_seconds: float = 0.1
    cap_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.first_seconds <= self.cap_seconds:
            raise ValueError("back-off needs 0 < first_seconds <= cap_seconds")

    def ceiling_seconds(self, attempt: int) -> float:
        """Return the longest wait after failed attempt number `attempt` (0 is the first)."""
        exponent = min(max(attempt, 0), _LARGEST_EXPONENT)
        return float(min(self.cap_seconds, self.first_seconds * 2**exponent))

    def delay_seconds(
        self, attempt: int, uniform: Callable[[float, float], float] = random.uniform
    ) -> float:
        """Return a wait between nothing and the ceiling; `uniform(low, high)` draws it."""
        return uniform(0.0, self.ceiling_seconds(attempt))
