"""Who is the active watchdog.

Invariant: one at a time; a watchdog that could not renew in time by its own clock does no more.
What a late one still writes is harmless: every case is opened by one insert that only one can win.
"""

from __future__ import annotations

from typing import Final

from relay.runtime.duty_lease import DutyLease

DUTY: Final = "watchdog"


class WatchLostError(Exception):
    """Another watchdog is active now: this one stands by."""


class WatchLease(DutyLease):
    """One watchdog's claim."""

    duty = DUTY

    async def take(self) -> bool:
        """Take it; False: another watchdog holds it."""
        asked = self.clock()
        epoch = await self._claim()
        if epoch is None:
            return False
        self._hold(epoch, asked)
        return True

    def _lost(self) -> WatchLostError:
        return WatchLostError("another watchdog took over")

    def valid(self) -> bool:
        """Tell whether it holds yet, by our own clock."""
        return self.left_seconds() > 0

    def require(self) -> None:
        """Raise WatchLostError when it may have lapsed by now."""
        if not self.valid():
            raise WatchLostError("the watchdog's lease could not be renewed in time")
