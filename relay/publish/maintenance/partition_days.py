"""Hop 2: makes the outbox's daily partitions ahead of time and drops those past their retention.

Invariant: no row leaves that was not handed over, and no order's INSERT waits longer than the short
lock_timeout of the database's functions: a lock that is not to be had (a report that reads the
outbox for an hour) means that the duty is tried again later, and says who holds it. A partition
that could not be made fails no order: its rows go to DEFAULT, and are moved when it can be made.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

import asyncpg

from relay.runtime.backoff import Backoff

_NAME = re.compile(r"outbox_p(\d{8})")
_MOST_DAYS_EMPTIED = 400
FOR_EVER_DAYS = 365_000
"""A thousand years: who keeps rows for longer keeps them for ever, and no calendar ends."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PartitionPlan:
    """What is to be made and what is to go."""

    create: tuple[date, ...]
    drop: tuple[date, ...]


@dataclass(slots=True)
class PartitionReport:
    """What was done. `refused` and `blocked` say why something was not.

    Attributes:
        moved_rows: taken out of DEFAULT.
        refused: partition -> `not_handed_over` (the relay is behind), ...
        blocked: what could not get its lock, and who held it.
    """

    created: list[date] = field(default_factory=list)
    dropped: list[date] = field(default_factory=list)
    moved_rows: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)


def partition_name(day: date) -> str:
    """Return the name of a day's partition."""
    return f"outbox_p{day:%Y%m%d}"


def partition_day(name: str) -> date | None:
    """Return the day of a partition; None: it is not one of ours (DEFAULT, or a user's own)."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        return date.fromisoformat(match[1])
    except ValueError:
        return None


def plan(
    names: Iterable[str],
    today: date,
    *,
    days_ahead: int,
    keep_days: int,
    default_is_large: bool = False,
) -> PartitionPlan:
    """Return what to create (today and `days_ahead`, nearest first) and to drop (oldest first).

    A partition is dropped when its last row is older than `keep_days` days: days are UTC. Making
    one reads all of DEFAULT while orders wait: as long as that is large, only tomorrow's is made,
    so that DEFAULT gets no more rows and can be emptied in peace.
    """
    days = {day for name in names if (day := partition_day(name)) is not None}
    ahead = (1,) if default_is_large else range(days_ahead + 1)
    wanted = [today + timedelta(days=count) for count in ahead]
    oldest = today - timedelta(days=min(keep_days, FOR_EVER_DAYS))
    return PartitionPlan(
        create=tuple(day for day in wanted if day not in days),
        drop=tuple(sorted(day for day in days if day < oldest)),
    )


_PARTITIONS = """
SELECT relname FROM pg_catalog.pg_inherits JOIN pg_catalog.pg_class ON oid = inhrelid
 WHERE inhparent = 'relay.outbox'::regclass
"""
_TODAY = "SELECT (clock_timestamp() AT TIME ZONE 'UTC')::date"
_DEFAULT_IS_LARGE = "SELECT relay.default_is_large()"


async def keep_partitions(
    connection: asyncpg.Connection, *, days_ahead: int, keep_days: int, attempts: int
) -> PartitionReport:
    """Do what is due once.

    Args:
        connection: in autocommit: each step is a transaction of its own.
        days_ahead: partitions wanted after today's.
        keep_days: days that rows are kept.
        attempts: how often a lock is tried for before it waits for the next run.
    """
    names = [row["relname"] for row in await connection.fetch(_PARTITIONS)]
    today = await connection.fetchval(_TODAY)
    due = plan(
        names,
        today,
        days_ahead=days_ahead,
        keep_days=keep_days,
        default_is_large=await connection.fetchval(_DEFAULT_IS_LARGE),
    )
    report = PartitionReport()
    step = _Step(connection, report, attempts)
    for day in due.create:
        await _create(step, day)
    await _empty_default(step)
    for day in due.drop:
        await _drop(step, day)
    return report


@dataclass(frozen=True, slots=True)
class _Step:
    """Runs one step until it gets its locks, or notes who holds them."""

    connection: asyncpg.Connection
    report: PartitionReport
    attempts: int
    backoff: Backoff = field(default_factory=lambda: Backoff(0.1, 2.0))

    async def run(self, name: str, call: Callable[[], Awaitable[T]], otherwise: T) -> T:
        for attempt in range(self.attempts):
            try:
                return await call()
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                # What waited behind us goes first: that is what the pause is for.
                await asyncio.sleep(self.backoff.delay_seconds(attempt))
        self.report.blocked[name] = await _holders(self.connection)
        return otherwise


_HOLDERS = """
SELECT DISTINCT a.pid, a.application_name, a.usename, a.state,
       extract(epoch FROM clock_timestamp() - a.xact_start)::int AS seconds
  FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
 WHERE l.granted AND l.locktype = 'relation' AND l.pid <> pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
   AND l.relation IN (SELECT inhrelid FROM pg_catalog.pg_inherits
                       WHERE inhparent = 'relay.outbox'::regclass
                       UNION ALL SELECT 'relay.outbox'::regclass)
 ORDER BY seconds DESC NULLS LAST LIMIT 3
"""


async def _holders(connection: asyncpg.Connection) -> str:
    rows = await connection.fetch(_HOLDERS)
    held = [
        f"pid {r['pid']} ({r['application_name'] or r['usename']}, {r['state']}, {r['seconds']} s)"
        for r in rows
    ]
    return ", ".join(held) or "a lock that is free again"


_CREATE = "SELECT relay.create_partition($1)"


async def _create(step: _Step, day: date) -> None:
    name = partition_name(day)

    async def create() -> bool:
        moved = await step.connection.fetchval(_CREATE, day)
        step.report.moved_rows += moved or 0
        return moved is not None  # None: another relay's maintenance was faster

    if await step.run(name, create, otherwise=False):
        step.report.created.append(day)


_EMPTY_DEFAULT = "CALL relay.empty_default()"


async def _empty_default(step: _Step) -> None:
    """Give every day that DEFAULT holds rows of a partition of its own, the oldest first."""

    async def empty() -> Any:
        return await step.connection.fetchrow(_EMPTY_DEFAULT)

    for _ in range(_MOST_DAYS_EMPTIED):
        done = await step.run("outbox_default", empty, otherwise=None)
        if done is None or done["emptied_day"] is None:
            return
        step.report.moved_rows += done["moved"]
        step.report.created.append(done["emptied_day"])


_HANDED_OVER = "SELECT relay.is_handed_over($1)"
_COUNT = "SELECT count(*) FROM relay.outbox WHERE created_at >= $1 AND created_at < $2"
_DROP = "SELECT relay.drop_partition($1, $2)"


async def _drop(step: _Step, day: date) -> None:
    name, connection = partition_name(day), step.connection
    if not await connection.fetchval(_HANDED_OVER, name):
        step.report.refused[name] = "not_handed_over"
        return
    from_at = datetime.combine(day, datetime.min.time(), UTC)
    rows = await connection.fetchval(_COUNT, from_at, from_at + timedelta(days=1))

    async def drop() -> str | None:
        outcome: str = await connection.fetchval(_DROP, name, rows)
        return outcome

    outcome = await step.run(name, drop, otherwise=None)
    if outcome == "dropped":
        step.report.dropped.append(day)
    elif outcome is not None:
        step.report.refused[name] = outcome
