"""Hop 2: who is the active relay of a shard: a lease by the database's clock, fenced by an epoch.

Invariant: at any time at most one relay can move a shard's checkpoint: a takeover raises the epoch
and reads the checkpoint in one transaction, and every checkpoint write names its epoch. A relay
that could not renew stops by its own monotonic clock, before the lease lapses for the others. What
a relay that lost its lease still sends can only be duplicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from relay.publish.errors import LeaseLostError
from relay.publish.ownership.server_identity import (
    Written,
    has_copied_rows,
    refuse_restored,
    server_state,
)
from relay.publish.reading.checkpoint import Checkpoint, position_of
from relay.runtime.duty_lease import DutyLease

_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '1s'"

READ_CHECKPOINT: Final = """
UPDATE relay.checkpoint AS c
   SET epoch = $2, system_identifier = coalesce(c.system_identifier, $3),
       home = coalesce(c.home, $5), timeline = $4
  FROM (SELECT shard, timeline FROM relay.checkpoint WHERE shard = $1 FOR UPDATE) AS before
 WHERE c.shard = before.shard
RETURNING c.prev::text, c.cur::text, c.last_id, c.seq, c.high_id, c.system_identifier, c.home,
          before.timeline AS old_timeline
"""

HOLDER: Final = """
SELECT owner, backend_pid,
       CASE WHEN isfinite(expires_at) THEN (expires_at - clock_timestamp())::text
            ELSE expires_at::text END AS left
  FROM relay.lease WHERE duty = $1 AND shard = $2
"""

# A relay that froze (or whose host is gone without a FIN) may hold a row lock for hours.
END_STALE: Final = """
SELECT pg_terminate_backend(l.backend_pid)
  FROM relay.lease AS l JOIN pg_stat_activity AS a ON a.pid = l.backend_pid
 WHERE l.duty = $1 AND l.shard = $2 AND l.expires_at < clock_timestamp()
   AND a.application_name = ANY ($3::text[]) AND a.pid <> pg_backend_pid()
"""

DUTY: Final = "relay"
WRITER_NAME: Final = "relay-run-writer"
REPLAY_WRITER_NAME: Final = "relay-replay-writer"
WITNESS_WRITER_NAME: Final = "relay-witness-writer"
_WRITER_NAMES: Final = [WRITER_NAME, REPLAY_WRITER_NAME, WITNESS_WRITER_NAME]


class Lease(DutyLease):
    """One relay's claim on a shard."""

    duty = DUTY

    async def take(self) -> Taken | None:
        """Take the lease and read the checkpoint; None: another relay holds it.

        Raises:
            RestoredDatabaseError: the checkpoint is not of this database.
            asyncpg.LockNotAvailableError: a stale backend is in the way; it was told to end.
        """
        asked = self.clock()
        try:
            async with self.connection.transaction():
                await self.connection.execute(_LOCK_TIMEOUT)
                epoch = await self._claim()
                if epoch is None:
                    return None
                taken = await self._read_checkpoint(epoch)
        except asyncpg.LockNotAvailableError:
            await self.connection.execute(END_STALE, DUTY, self.shard, _WRITER_NAMES)
            raise
        self._hold(epoch, asked)
        return taken

    async def _read_checkpoint(self, epoch: int) -> Taken:
        server = await server_state(self.connection)
        row = await self.connection.fetchrow(
            READ_CHECKPOINT,
            self.shard,
            epoch,
            server.system_identifier,
            server.timeline,
            server.home,
        )
        if row is None:
            raise LeaseLostError(f"shard {self.shard} has no checkpoint: run `relay migrate`")
        position = position_of(row["prev"], row["cur"], row["last_id"])
        # Asked again, now that nobody can move the checkpoint on: its transactions are not ahead.
        server = await server_state(self.connection)
        written = Written(row["system_identifier"], row["home"], position)
        refuse_restored(server, written, copied_rows=await has_copied_rows(self.connection))
        checkpoint = Checkpoint(self.shard, epoch, row["seq"], position, row["high_id"])
        return Taken(checkpoint, server.timeline, row["old_timeline"])

    def _lost(self) -> LeaseLostError:
        return LeaseLostError(f"the lease of shard {self.shard} is another relay's now")


@dataclass(frozen=True, slots=True)
class Taken:
    """What a takeover found. `old_timeline`: the one at the last takeover, None: the first."""

    checkpoint: Checkpoint
    timeline: str
    old_timeline: str | None


async def holder(connection: asyncpg.Connection, shard: int) -> str:
    """Say who holds the lease, for a standby's log."""
    row = await connection.fetchrow(HOLDER, DUTY, shard)
    if row is None:
        return "nobody: there is no lease row, run `relay migrate`"
    return f"{row['owner']} (for another {row['left']})"
