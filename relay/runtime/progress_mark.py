"""Whether a process makes progress: what `/livez` answers by.

Invariant: the loop that does the work, and each loop that waits for something to come back, marks
every turn of its own. No mark for longer than any turn may take means that the loop hangs, and that
a restart would help; that the broker is away for an hour means neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

LIMIT_SECONDS: Final = 120.0


@dataclass(slots=True)
class ProgressMark:
    """When the work's loop last turned.

    Attributes:
        limit_seconds: no turn takes longer than this, statements and requests in it included.
    """

    limit_seconds: float = LIMIT_SECONDS
    clock: Callable[[], float] = time.monotonic
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self._at = self.clock()

    def turn(self) -> None:
        """Note that the loop turned; 60 ns."""
        self._at = self.clock()

    def stalled_seconds(self) -> float | None:
        """Return for how long it has not turned, if that is too long; None: it makes progress."""
        seconds = self.clock() - self._at
        return seconds if seconds > self.limit_seconds else None
