"""Orders that the watchdog cannot judge: left alone for a while, counted and said.

Invariant: one order that makes the diagnosis fail costs a few more looks, and no other order its
own. It is tried again after a while: a new version, or other evidence, may judge it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

_LOG: Final = structlog.get_logger("relay.watchdog")
AGAIN_SECONDS: Final = 600.0
_AT_MOST: Final = 10_000


@dataclass(slots=True)
class SetAside:
    """The orders that are left alone now."""

    clock: Callable[[], float] = time.monotonic
    _until: dict[str, float] = field(default_factory=dict)

    def add(self, order_id: str, error: Exception) -> None:
        """Leave an order alone; what it failed by goes to the log."""
        if len(self._until) >= _AT_MOST:
            del self._until[next(iter(self._until))]
        self._until[order_id] = self.clock() + AGAIN_SECONDS
        _LOG.error("order_set_aside", order_id=order_id, error=repr(error), exc_info=error)

    def __contains__(self, order_id: str) -> bool:
        until = self._until.get(order_id)
        return until is not None and self.clock() < until

    def __len__(self) -> int:
        now = self.clock()
        self._until = {order: until for order, until in self._until.items() if now < until}
        return len(self._until)
