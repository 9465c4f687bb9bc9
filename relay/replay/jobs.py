"""Replays as they are stored: plans, what people decide about them, and how far they are.

Invariant: a decision and its row in the audit log, which the database writes, are one transaction.
A replay moves between its states only as `_MOVES` says, whoever asks from whichever terminal, and
is conducted by one process at a time (its row names the connection, and counts for as long as that
lives).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from relay.publish.reading.replays import CONDUCTOR_NAME, PART_ITEMS
from relay.replay.plan import Plan, Skip
from relay.replay.selection import Selection
from relay.runtime.audit import announce


class ReplayError(Exception):
    """It cannot be done to this replay; the message says why and what to do."""


class NoSuchReplayError(ReplayError):
    """No replay has that id."""

    not_found = True


@dataclass(frozen=True, slots=True)
class Job:
    """A replay as it is stored."""

    replay_id: UUID
    state: str
    planned_at: datetime
    planned_by: str
    selection: Mapping[str, Any]
    plan: Mapping[str, Any]
    target_topic: str | None
    item_count: int
    released_count: int
    sent_count: int
    reason: str | None
    run_by: str | None
    trouble: str | None
    started_at: datetime | None
    finished_at: datetime | None
    progress: Mapping[str, Any] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether nothing more will be sent."""
        return self.state in ("done", "cancelled")

    @property
    def missing(self) -> Sequence[str]:
        """Orders whose event is written first."""
        found: Sequence[str] = self.plan.get("missing", ())
        return found

    @property
    def returns(self) -> Sequence[str]:
        """Orders whose return is given to the consumer once more."""
        found: Sequence[str] = self.plan.get("returns", ())
        return found

    @property
    def besides(self) -> tuple[str, ...]:
        """Orders that are helped without sending their event again."""
        return (*self.missing, *self.returns)

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.item_count or self.besides)

    @property
    def not_judged(self) -> int:
        """Orders that were asked about, and of which the evidence could not be had."""
        skipped = self.plan.get("skipped", ())
        return sum(one["count"] for one in skipped if one["reason"] in _NOT_JUDGED)


_NOT_JUDGED: Final = frozenset({Skip.UNKNOWN, Skip.UNCLAIMED})

_CREATE: Final = """
INSERT INTO relay.replay_job (replay_id, selection, plan, target_topic)
VALUES ($1, $2::jsonb, '{}', $3)
"""
_PLANNED: Final = """
UPDATE relay.replay_job SET plan = $2::jsonb, item_count = $3
 WHERE replay_id = $1 AND state = 'planned'
"""
_PART: Final = """
INSERT INTO relay.replay_part (replay_id, number, outbox_ids) VALUES ($1, $2, $3)
"""


async def store_plan(
    connection: asyncpg.Connection,
    replay_id: UUID,
    selection: Mapping[str, Any],
    plan: Plan,
    *,
    target: str | None,
    who: str,
) -> None:
    """Store a plan with its items, in the caller's transaction.

    Raises:
        asyncpg.InsufficientPrivilegeError: replays are relay_operator's.
    """
    await create_job(connection, replay_id, selection, target)
    await store_items(connection, replay_id, selection, plan, who)
    ids = plan.outbox_ids
    await connection.executemany(
        _PART,
        [
            (replay_id, number, ids[first : first + PART_ITEMS])
            for number, first in enumerate(range(0, len(ids), PART_ITEMS))
        ],
    )


async def create_job(
    connection: asyncpg.Connection,
    replay_id: UUID,
    selection: Mapping[str, Any],
    target: str | None,
) -> None:
    """Begin a plan; its items follow in the same transaction.

    Raises:
        asyncpg.InsufficientPrivilegeError: replays are relay_operator's.
    """
    chosen = json.dumps(dict(selection), default=str)
    await connection.execute(_CREATE, replay_id, chosen, target)


async def store_items(
    connection: asyncpg.Connection,
    replay_id: UUID,
    selection: Mapping[str, Any],
    plan: Plan,
    who: str,
) -> None:
    """Store what a plan says, and how many items it has; with that it is planned, and audited."""
    result = f"{plan.count:,} events, nothing sent"
    await announce(connection, who, None, result=result, detail={"selection": dict(selection)})
    stored = json.dumps(plan.as_data(), default=str)
    await connection.execute(_PLANNED, replay_id, stored, plan.count)


def selection_data(selection: Selection) -> dict[str, Any]:
    """Return a selection as it is stored: long lists by their length and first entries."""
    data = selection.as_data()
    for name, value in data.items():
        if isinstance(value, tuple) and len(value) > _LISTED:
            data[name] = {"count": len(value), "first": list(value[:_LISTED])}
    return data


_LISTED: Final = 20

_READ: Final = """
SELECT replay_id, state, planned_at, planned_by, selection::text, plan::text, target_topic,
       item_count, released_count, sent_count, reason, run_by, trouble, started_at, finished_at,
       progress::text
  FROM relay.replay_job
"""
_READ_ONE: Final = f"{_READ} WHERE replay_id = $1"
_READ_LAST: Final = f"{_READ} ORDER BY planned_at DESC LIMIT $1"
_STARTING: Final = """
SELECT replay_id FROM relay.replay_job WHERE left(replay_id::text, length($1)) = $1 LIMIT 2
"""


async def read_job(connection: asyncpg.Connection, replay_id: UUID) -> Job:
    """Read a replay.

    Raises:
        ReplayError: there is none of that id.
    """
    row = await connection.fetchrow(_READ_ONE, replay_id)
    if row is None:
        raise NoSuchReplayError(f"there is no replay {replay_id}: `relay replay list` names them")
    return _job(row)


async def find_job(connection: asyncpg.Connection, named: str) -> Job:
    """Read the replay whose id is, or begins with, what a person wrote.

    Raises:
        ReplayError: there is none, or several.
    """
    found = await connection.fetch(_STARTING, named.strip().lower())
    if len(found) != 1 or not named.strip():
        how = "no replay begins" if not found else "several replays begin"
        kind = ReplayError if found else NoSuchReplayError
        raise kind(f"{how} with {named!r}: `relay replay list` names them")
    return await read_job(connection, found[0]["replay_id"])


async def list_jobs(connection: asyncpg.Connection, at_most: int) -> list[Job]:
    """Read the latest replays, newest first."""
    return [_job(row) for row in await connection.fetch(_READ_LAST, at_most)]


_WITH_EVENT: Final = """
SELECT DISTINCT replay_id FROM relay.delivery_ledger
 WHERE id_range @> $1::bigint AND replay_id IS NOT NULL AND $1 = ANY (outbox_ids)
 LIMIT 20
"""


async def jobs_with_order(connection: asyncpg.Connection, outbox_id: int | None) -> list[Job]:
    """Read the replays that sent an event again, the newest first; None: there is no event."""
    if outbox_id is None:
        return []
    rows = await connection.fetch(_WITH_EVENT, outbox_id)
    jobs = [await read_job(connection, row["replay_id"]) for row in rows]
    return sorted(jobs, key=lambda one: one.planned_at, reverse=True)


def _job(row: asyncpg.Record) -> Job:
    values = dict(row)
    for name in ("selection", "plan", "progress"):
        values[name] = json.loads(values[name])
    return Job(**values)


# What may become what.
_MOVES: Final[Mapping[str, tuple[str, ...]]] = {
    "running": ("planned", "running", "paused", "sent"),
    "paused": ("running",),
    "cancelled": ("planned", "running", "paused", "sent"),
    "done": ("running", "sent"),
}
_MOVE: Final = """
UPDATE relay.replay_job
   SET state = $2, reason = coalesce($3, reason), run_by = coalesce($4, run_by), trouble = $5,
       started_at = CASE WHEN $2 = 'running' THEN coalesce(started_at, clock_timestamp())
                         ELSE started_at END,
       finished_at = CASE WHEN $2 IN ('done', 'cancelled') THEN clock_timestamp() END,
       progress = coalesce($6::jsonb, progress)
 WHERE replay_id = $1 AND state = ANY ($7::text[])
"""


async def move(
    connection: asyncpg.Connection,
    job: Job,
    state: str,
    *,
    who: str,
    why: str | None = None,
    trouble: str | None = None,
    result: str = "done",
    progress: Mapping[str, Any] | None = None,
) -> None:
    """Bring a replay into another state, audited.

    Raises:
        ReplayError: it cannot come there from where it is.
        asyncpg.InsufficientPrivilegeError: replays are relay_operator's.
    """
    kept = None if progress is None else json.dumps(dict(progress), default=str)
    person = who if state == "running" else None
    detail: dict[str, Any] = dict(progress or {})
    if trouble is not None:
        detail["trouble"] = trouble
    async with connection.transaction():
        await announce(connection, who, why or job.reason, result=result, detail=detail)
        done = await connection.execute(
            _MOVE, job.replay_id, state, why, person, trouble, kept, list(_MOVES[state])
        )
        if done != "UPDATE 1":
            now = (await read_job(connection, job.replay_id)).state
            raise ReplayError(f"replay {job.replay_id} is {now}: it cannot become {state}")


_RELEASE: Final = """
UPDATE relay.replay_job
   SET released_count = greatest(released_count, least(item_count, $2))
 WHERE replay_id = $1 AND state = 'running'
"""
_ALL_SENT: Final = """
UPDATE relay.replay_job SET state = 'sent'
 WHERE replay_id = $1 AND state = 'running' AND sent_count = item_count
"""
_REFUSED: Final = """
SELECT reason, count(*) FROM relay.replay_refused WHERE replay_id = $1 GROUP BY reason
"""
_NOTE: Final = "UPDATE relay.replay_job SET progress = progress || $2::jsonb WHERE replay_id = $1"


async def release(connection: asyncpg.Connection, replay_id: UUID, count: int) -> None:
    """Let the items up to `count` be sent."""
    await connection.execute(_RELEASE, replay_id, count)


async def all_sent(connection: asyncpg.Connection, replay_id: UUID) -> None:
    """Note that every item was sent, or refused."""
    await connection.execute(_ALL_SENT, replay_id)


async def refused(connection: asyncpg.Connection, replay_id: UUID) -> dict[str, int]:
    """Return how many items could not be sent, by reason."""
    return dict(list(await connection.fetch(_REFUSED, replay_id)))


async def note_progress(
    connection: asyncpg.Connection, replay_id: UUID, progress: Mapping[str, Any]
) -> None:
    """Keep what is known of a replay, for whoever asks from another terminal."""
    await connection.execute(_NOTE, replay_id, json.dumps(dict(progress), default=str))


# The connection that is named there has ended when no backend of `relay replay` has its number. One
# conducts one replay: where another names this number, it was a backend before this one.
_CLAIM: Final = f"""
WITH ended AS (
    UPDATE relay.replay_job SET conductor_pid = NULL
     WHERE conductor_pid = pg_backend_pid() AND replay_id <> $1
)
UPDATE relay.replay_job AS j SET conductor_pid = pg_backend_pid()
 WHERE j.replay_id = $1
   AND (j.conductor_pid IS NULL OR j.conductor_pid = pg_backend_pid()
        OR NOT EXISTS (SELECT FROM pg_stat_activity AS a
                        WHERE a.pid = j.conductor_pid AND a.datname = current_database()
                          AND a.application_name = '{CONDUCTOR_NAME}'))
RETURNING true
"""  # noqa: S608 - a constant


async def claim(connection: asyncpg.Connection, replay_id: UUID) -> None:
    """Become the one who conducts a replay, for as long as the connection lives.

    Raises:
        ReplayError: somebody else is.
    """
    if not await connection.fetchval(_CLAIM, replay_id):
        raise ReplayError(
            f"replay {replay_id} is conducted by another process:"
            f" `relay replay status {replay_id}` shows it"
        )
