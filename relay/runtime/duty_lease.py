"""A duty that one process has at a time: its row of relay.lease.

Invariant: who has it is decided by the database's clock; that it may have lapsed, by this process's
own. A holder that is late is fenced off by the epoch, which rises with each new one.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Final

import asyncpg

# clock_timestamp(), not now(): a transaction may have waited. An owner takes its own lease again
# after a reconnect; the epoch rises all the same, since its old connection may still be writing.
TAKE: Final = """
UPDATE relay.lease
   SET owner = $3, epoch = epoch + 1, backend_pid = pg_backend_pid(),
       acquired_at = clock_timestamp(),
       expires_at = clock_timestamp() + make_interval(secs => $4), released_at = NULL
 WHERE duty = $1 AND shard = $2
   AND (owner IS NULL OR owner = $3 OR released_at IS NOT NULL OR expires_at IS NULL
        OR expires_at < clock_timestamp()
        -- Nobody takes it for so long: somebody wrote it by hand. The epoch fences him off.
        OR expires_at > clock_timestamp() + make_interval(hours => 1, secs => 10 * $4))
RETURNING epoch
"""

RENEW: Final = """
UPDATE relay.lease
   SET expires_at = clock_timestamp() + make_interval(secs => $4)
 WHERE duty = $1 AND shard = $2 AND epoch = $3 AND released_at IS NULL
RETURNING 1
"""

RELEASE: Final = """
UPDATE relay.lease SET released_at = clock_timestamp(), owner = NULL
 WHERE duty = $1 AND shard = $2 AND epoch = $3
"""


@dataclass(slots=True)
class DutyLease(ABC):
    """One process's claim on a duty.

    Attributes:
        owner: unique for a process.
        seconds: how long it holds without a renewal.
    """

    duty: ClassVar[str]
    connection: asyncpg.Connection
    shard: int
    owner: str
    seconds: float
    clock: Callable[[], float] = time.monotonic
    epoch: int = field(default=0, init=False)
    _valid_until: float = field(default=0.0, init=False)

    async def _claim(self) -> int | None:
        """Take it in the database, and return the new epoch; None: another holds it."""
        epoch: int | None = await self.connection.fetchval(
            TAKE, self.duty, self.shard, self.owner, self.seconds
        )
        return epoch

    def _hold(self, epoch: int, asked: float) -> None:
        self.epoch, self._valid_until = epoch, asked + self.seconds

    async def renew(self) -> None:
        """Hold it for another while.

        Raises what `_lost` returns where it is another one's now.
        """
        asked = self.clock()
        if not await self.connection.fetchval(
            RENEW, self.duty, self.shard, self.epoch, self.seconds
        ):
            raise self._lost()
        self._valid_until = asked + self.seconds

    @abstractmethod
    def _lost(self) -> Exception:
        """Return the error that says whose it is now."""

    def left_seconds(self) -> float:
        """Return for how long this process may still believe itself active, by its own clock."""
        return self._valid_until - self.clock()

    async def release(self) -> None:
        """Give it back, so that a standby need not wait."""
        await self.connection.execute(RELEASE, self.duty, self.shard, self.epoch)
