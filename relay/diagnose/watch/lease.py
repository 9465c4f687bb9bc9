"""All hops: who is the active watchdog: a lease by the database's clock.

Invariant: one at a time; a watchdog that could not renew in time by its own clock does no more.
What a late one still writes is harmless: every case is opened by one insert that only one can win.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import asyncpg

DUTY: Final = "watchdog"

_TAKE: Final = """
UPDATE relay.lease
   SET owner = $2, epoch = epoch + 1, backend_pid = pg_backend_pid(),
       acquired_at = clock_timestamp(),
       expires_at = clock_timestamp() + make_interval(secs => $3), released_at = NULL
 WHERE duty = $1 AND shard = 0
   AND (owner IS NULL OR owner = $2 OR released_at IS NOT NULL OR expires_at IS NULL
        OR expires_at < clock_timestamp())
RETURNING epoch
"""
_RENEW: Final = """
UPDATE relay.lease SET expires_at = clock_timestamp() + make_interval(secs => $4)
 WHERE duty = $1 AND shard = 0 AND owner = $2 AND epoch = $3 AND released_at IS NULL
RETURNING true
"""
_RELEASE: Final = """
UPDATE relay.lease SET released_at = clock_timestamp(), owner = NULL
 WHERE duty = $1 AND shard = 0 AND owner = $2 AND epoch = $3
"""


class WatchLostError(Exception):
    """Another watchdog is active now: this one stands by."""


@dataclass(slots=True)
class WatchLease:
    """One watchdog's claim.

    Attributes:
        owner: unique for a process.
        seconds: how long it holds without a renewal.
    """

    connection: asyncpg.Connection
    owner: str
    seconds: float
    clock: Callable[[], float] = time.monotonic
    epoch: int = field(default=0, init=False)
    _valid_until: float = field(default=0.0, init=False)

    async def take(self) -> bool:
        """Take it; False: another watchdog holds it."""
        asked = self.clock()
        epoch = await self.connection.fetchval(_TAKE, DUTY, self.owner, self.seconds)
        if epoch is None:
            return False
        self.epoch, self._valid_until = epoch, asked + self.seconds
        return True

    async def renew(self) -> None:
        """Hold it for another while.

        Raises:
            WatchLostError: it is another one's now.
        """
        asked = self.clock()
        held = await self.connection.fetchval(_RENEW, DUTY, self.owner, self.epoch, self.seconds)
        if not held:
            raise WatchLostError("another watchdog took over")
        self._valid_until = asked + self.seconds

    def valid(self) -> bool:
        """Tell whether it holds yet, by our own clock."""
        return self.clock() < self._valid_until

    def require(self) -> None:
        """Raise WatchLostError when it may have lapsed by now."""
        if not self.valid():
            raise WatchLostError("the watchdog's lease could not be renewed in time")

    async def release(self) -> None:
        """Give it back, so that a standby need not wait."""
        await self.connection.execute(_RELEASE, DUTY, self.owner, self.epoch)
