"""Hop 2: a new checkpoint for a database that was restored or copied, so that no row is skipped.

Invariant: no relay is active meanwhile (the lease is held here, and its epoch fences the relay that
had it). Rows with proof of publication come to lie behind the new checkpoint, all others ahead of
it: the relay sends those, through its one path. The checkpoint is set last, together with its row
in the audit log: killed anywhere before, the relay still refuses, and the next run does it all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from relay.publish.ownership.lease import DUTY
from relay.publish.ownership.server_identity import server_state
from relay.repair.baseline import Baseline, read_baseline
from relay.repair.later_records import LaterRecords, read_later_records
from relay.repair.retained import RetainedRows, count_retained, parts, renumber
from relay.runtime.audit import Action, note_action
from relay.runtime.duty_lease import RELEASE, RENEW, TAKE
from relay.runtime.kafka_connection import KafkaConnection

_LEASE_SECONDS: Final = 60.0


class RelayActiveError(Exception):
    """A relay is at work: stop every `relay run` first."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rebaseline would do; nothing was changed for it."""

    baseline: Baseline
    rows: RetainedRows
    later: LaterRecords

    @property
    def needed(self) -> bool:
        """Whether the relay refuses this checkpoint."""
        return bool(self.baseline.wrong)


async def plan(
    connection: asyncpg.Connection,
    kafka: KafkaConnection,
    topics: Sequence[str],
    *,
    shard: int = 0,
    at_most_seconds: float = 120.0,
) -> Plan:
    """Say what a rebaseline would do.

    Args:
        connection: as relay_operator.
        kafka: where the topics are; unreachable, ghosts and duplicates stay unknown.
        topics: of every flow: an outbox has one checkpoint.
        shard: whose checkpoint.
        at_most_seconds: for reading what lies behind the ledger's end.
    """
    baseline = await read_baseline(connection, shard)
    rows = await count_retained(connection, list(topics))
    later = await read_later_records(connection, kafka, topics, at_most_seconds=at_most_seconds)
    return Plan(baseline, rows, later)


@dataclass(frozen=True, slots=True)
class Rebaselined:
    """What was done.

    Attributes:
        to_send: rows that the relay will send now.
        set_behind: published rows whose transaction numbers were of another cluster.
        sequences: that were behind the ids given out, and were set forward.
    """

    to_send: int
    set_behind: int
    sequences: int
    epoch: int


_SNAPSHOT: Final = "SELECT pg_current_snapshot()::text"
_SEQUENCES: Final = "SELECT relay.move_sequences_on()"
_SET: Final = """
UPDATE relay.checkpoint
   SET prev = $2::text::pg_snapshot, cur = NULL, last_id = NULL, epoch = $3, seq = seq + 1,
       system_identifier = $4, home = $5, timeline = $6, updated_at = clock_timestamp()
 WHERE shard = $1 AND epoch <= $3
"""
_HELD: Final = """
SELECT true FROM relay.lease
 WHERE duty = $1 AND shard = $2 AND epoch = $3 AND released_at IS NULL FOR UPDATE
"""


@dataclass(slots=True)
class Rebaseline:
    """One rebaseline of a shard.

    Attributes:
        told: called with the rows dealt with so far.
    """

    connection: asyncpg.Connection
    topics: Sequence[str]
    who: str
    why: str
    shard: int = 0
    told: Callable[[int], None] = lambda _rows: None
    _epoch: int = 0
    _renew_at: float = 0.0

    async def run(self) -> Rebaselined:
        """Do it.

        Raises:
            RelayActiveError: a relay holds the lease, or took it meanwhile; nothing is skipped.
            asyncpg.InsufficientPrivilegeError: that is relay_operator's to do.
        """
        con = self.connection
        before = await read_baseline(con, self.shard)
        await self._take_lease()
        try:
            await self._note("started", {"wrong": before.wrong, "before": before.columns})
            # Before any row is read: what is appended from here on is ahead of this snapshot.
            sequences = await con.fetchval(_SEQUENCES)
            snapshot = await con.fetchval(_SNAPSHOT)
            behind, ahead = await self._renumber(snapshot)
            async with con.transaction():
                await self._set(snapshot)
                after = await read_baseline(con, self.shard)
                detail = {
                    "wrong": before.wrong, "before": before.columns, "after": after.columns,
                    "to_send": ahead, "set_behind": behind, "sequences": sequences,
                }  # fmt: skip
                await self._note(f"{ahead} rows to send", detail)
        finally:
            if not con.is_closed():
                await con.execute(RELEASE, DUTY, self.shard, self._epoch)
        return Rebaselined(ahead, behind, sequences, self._epoch)

    async def _take_lease(self) -> None:
        owner = f"rebaseline by {self.who}"
        epoch = await self.connection.fetchval(TAKE, DUTY, self.shard, owner, _LEASE_SECONDS)
        if epoch is None:
            raise RelayActiveError(
                "a relay is active: stop every `relay run` (one that is dead gives way when its"
                " lease lapses, after some seconds)"
            )
        self._epoch, self._renew_at = epoch, time.monotonic() + _LEASE_SECONDS / 4

    async def _renumber(self, snapshot: str) -> tuple[int, int]:
        behind, ahead, topics = 0, 0, list(self.topics)
        async for part in parts(self.connection):
            async with self.connection.transaction():
                set_behind, set_ahead = await renumber(self.connection, part, topics, snapshot)
            behind, ahead = behind + set_behind, ahead + set_ahead
            self.told(behind + ahead)
            await self._renew()
        return behind, ahead

    async def _renew(self) -> None:
        if time.monotonic() < self._renew_at:
            return
        held = await self.connection.fetchval(RENEW, DUTY, self.shard, self._epoch, _LEASE_SECONDS)
        if not held:
            raise RelayActiveError("the lease was lost meanwhile: run it again")
        self._renew_at = time.monotonic() + _LEASE_SECONDS / 4

    async def _set(self, snapshot: str) -> None:
        """Set the checkpoint, if nobody took the lease meanwhile."""
        con = self.connection
        server = await server_state(con)
        if not await con.fetchval(_HELD, DUTY, self.shard, self._epoch):
            raise RelayActiveError("the lease was lost meanwhile: run it again")
        done = await con.execute(
            _SET,
            self.shard,
            snapshot,
            self._epoch,
            server.system_identifier,
            server.home,
            server.timeline,
        )
        if done != "UPDATE 1":
            raise RelayActiveError("another relay moved the checkpoint meanwhile: run it again")

    async def _note(self, result: str, detail: dict[str, Any]) -> None:
        subject = f"shard {self.shard}"
        await note_action(
            self.connection, Action(self.who, "rebaseline", subject, self.why, result, detail)
        )
