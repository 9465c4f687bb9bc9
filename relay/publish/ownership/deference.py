"""Hop 2: `relay replay` without a relay holds the lease only for as long as no relay wants it.

Invariant: whoever publishes live events goes first. A relay that connects gets the lease within
about a second, once the replay's page under way is covered by the checkpoint. A relay that is
connected and takes nothing (its process is frozen) is waited for once, and then passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from relay.publish.ownership.lease import DUTY, WRITER_NAME

LOOK_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 10.0

# The name and database of every connection are visible to every role.
_RELAYS: Final = """
SELECT ARRAY(SELECT pid FROM pg_catalog.pg_stat_activity
              WHERE datname = current_database() AND application_name = $3) AS relays,
       EXISTS (SELECT FROM relay.lease
                WHERE duty = $1 AND shard = $2 AND owner IS NOT NULL AND released_at IS NULL
                  AND expires_at > clock_timestamp()) AS held
"""


@dataclass(slots=True)
class Deference:
    """Says whether a replay's own publisher may hold the lease now."""

    shard: int
    clock: Callable[[], float] = time.monotonic
    _passed_over: set[int] = field(default_factory=set)
    _free_since: float | None = None

    async def relay_waits(self, connection: asyncpg.Connection) -> bool:
        """Tell, while this process holds the lease, whether a relay is there that wants it.

        Raises:
            asyncpg.PostgresError, OSError: the connection is lost or the statement failed.
        """
        row = await connection.fetchrow(_RELAYS, DUTY, self.shard, WRITER_NAME)
        return not self._passed_over.issuperset(row["relays"])

    async def may_take(self, connection: asyncpg.Connection) -> bool:
        """Tell whether the lease is free, and no relay is there to take it.

        Raises:
            asyncpg.PostgresError, OSError: the connection is lost or the statement failed.
        """
        row = await connection.fetchrow(_RELAYS, DUTY, self.shard, WRITER_NAME)
        return self.decide(set(row["relays"]), held=row["held"])

    def decide(self, relays: set[int], *, held: bool) -> bool:
        """Decide, from the relays' server processes and whether somebody holds the lease."""
        if held:
            self._free_since = None
            return False
        if relays <= self._passed_over:
            self._free_since = None
            return True
        now = self.clock()
        if self._free_since is None:
            self._free_since = now
        if now - self._free_since < _PATIENCE_SECONDS:
            return False
        self._passed_over |= relays
        self._free_since = None
        return True
