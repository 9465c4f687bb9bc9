"""What is said of a lasting trouble: at once, and once a minute while it lasts.

Invariant: pure but for the clock; a trouble that is over is news when it comes again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

REPEAT_SECONDS: Final = 60.0


@dataclass(slots=True)
class Repeats:
    """Decides whether a line about a trouble is due."""

    clock: Callable[[], float] = time.monotonic
    _told_at: dict[str, float] = field(default_factory=dict)

    def due(self, trouble: str) -> bool:
        """Tell whether to say it now; whoever is told yes says it."""
        now = self.clock()
        told = self._told_at.get(trouble)
        if told is not None and now - told < REPEAT_SECONDS:
            return False
        self._told_at[trouble] = now
        return True

    def over(self, trouble: str) -> None:
        """Note that it is over."""
        self._told_at.pop(trouble, None)
