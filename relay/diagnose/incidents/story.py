"""Lays an incident over what was recorded while it happened, and tells it in a sentence.

Invariant: every word of it comes from a process record, an outage record or a position; what was
not recorded is not told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from relay.diagnose.causes import Cause, meaning_of
from relay.diagnose.causes.external import EXTERNAL
from relay.diagnose.incidents.clusters import Kind
from relay.runtime.flow import Flow
from relay.runtime.liveness import GONE_SECONDS, SILENT_SECONDS

_BEFORE: Final = timedelta(minutes=10)
_AFTER: Final = timedelta(hours=12)

_RELAY: Final = frozenset(
    {Cause.RELAY_DOWN, Cause.RELAY_PAUSED, Cause.RELAY_STUCK, Cause.LEASE_STUCK}
)
_CONSUMER: Final = frozenset({Cause.CONSUMER_DOWN, Cause.CONSUMER_PAUSED, Cause.CONSUMER_STUCK})
_PROCESSOR: Final = frozenset(
    {Cause.PROCESSOR_DOWN, Cause.OFFSETS_SKIPPED, Cause.PROCESSOR_CRASHED}
)
_PUBLISHER: Final = frozenset(EXTERNAL) - {Cause.WITNESS_BEHIND, Cause.WITNESS_DOWN}
_AWAY: Final = frozenset(
    {
        Cause.BROKER_UNREACHABLE,
        Cause.REGISTRY_UNREACHABLE,
        Cause.DATABASE_UNREACHABLE,
        Cause.DATABASE_REFUSES,
        Cause.PERMISSION_DENIED,
    }
)


_STILL_OPEN_FROM: Final = """
SELECT min(placed_at) FROM relay.overdue WHERE incident_id = $1 AND closed_at IS NULL
"""


async def still_open_from(connection: asyncpg.Connection, incident_id: int) -> datetime | None:
    """Return when the first of its orders that have not come back was placed; None: all have.

    Of two nights of one kind, the one that still hurts is told.
    """
    found: datetime | None = await connection.fetchval(_STILL_OPEN_FROM, incident_id)
    return found


async def tell(
    connection: asyncpg.Connection,
    flow: Flow,
    kind: Kind,
    from_at: datetime,
    to_at: datetime,
    *,
    orders: int,
) -> dict[str, Any]:
    """Return `{"text": ..., ...}` for an incident.

    Args:
        connection: any role that may read the records.
        flow: names the processor's groups.
        kind: hop, verdict, cause.
        from_at: when its first order was placed.
        to_at: when its last was.
        orders: how many it has.
    """
    cause = kind[2]
    if cause in _RELAY:
        parts = await _processes(connection, flow, "relay", (from_at, to_at), _silence(cause))
    elif cause in _CONSUMER:
        parts = await _processes(connection, flow, "confirm", (from_at, to_at), _silence(cause))
    elif cause in _PROCESSOR:
        lost = orders if cause == Cause.OFFSETS_SKIPPED else None
        parts = await _groups(connection, flow, from_at, to_at, lost=lost)
    elif cause in _PUBLISHER:
        parts = await _publisher(connection, from_at, to_at)
    elif cause == Cause.WITNESS_DOWN:
        parts = await _processes(connection, flow, "witness", (from_at, to_at), _silence(cause))
    elif cause in _AWAY:
        parts = await _outages(connection, from_at, to_at)
    else:
        parts = []
    return {"text": "; ".join(parts) or meaning_of(cause).meaning, "told": parts}


@dataclass(frozen=True, slots=True)
class Life:
    """A process's life, as it recorded it."""

    instance: str
    started_at: datetime
    heartbeat_at: datetime
    stopped_at: datetime | None
    stop_reason: str | None


_LIVES: Final = """
SELECT instance, started_at, heartbeat_at, stopped_at, stop_reason FROM relay.process_record
 WHERE kind = $1 AND heartbeat_at >= $2 AND started_at <= $3
   AND coalesce(detail #>> '{flow,name}', '?') <> ALL ($4::text[])
 ORDER BY heartbeat_at LIMIT 100
"""
_NOW: Final = "SELECT clock_timestamp()"


def _silence(cause: str) -> timedelta:
    """Return after how long without a heartbeat a process counts as ended."""
    down = cause in (Cause.RELAY_DOWN, Cause.CONSUMER_DOWN, Cause.WITNESS_DOWN)
    return timedelta(seconds=GONE_SECONDS if down else SILENT_SECONDS)


async def _processes(
    connection: asyncpg.Connection,
    flow: Flow,
    kind: str,
    span: tuple[datetime, datetime],
    silence: timedelta,
) -> list[str]:
    from_at, to_at = span
    others = list(flow.others.names)
    rows = await connection.fetch(_LIVES, kind, from_at - _AFTER, to_at + _AFTER, others)
    now_at = await connection.fetchval(_NOW)
    return describe_processes(kind, [Life(*row) for row in rows], from_at, now_at, silence)


def describe_processes(
    kind: str, lives: Sequence[Life], from_at: datetime, now_at: datetime, silence: timedelta
) -> list[str]:
    """Tell how the processes of a kind ended around a time, and when one came back.

    Args:
        kind: of process, for the sentence.
        lives: all that were there around it.
        from_at: when the incident's first order was placed.
        now_at: by the database.
        silence: without a heartbeat for so long, a process counts as ended.
    """
    stale = timedelta(seconds=SILENT_SECONDS)
    ended = [
        one for one in lives if one.stopped_at is not None or now_at - one.heartbeat_at > silence
    ]
    before = [one for one in ended if one.heartbeat_at <= from_at + stale]
    last = max(before, key=lambda one: one.heartbeat_at, default=None)
    if last is None:
        last = min(ended, key=lambda one: one.heartbeat_at, default=None)
    parts = [] if last is None else [_end(kind, last)]
    if not lives:
        parts.append(f"no {kind} ever ran before")
    gone_at = from_at if last is None else last.heartbeat_at
    back = [one for one in lives if one.started_at > gone_at]
    first = min(back, key=lambda one: one.started_at, default=None)
    if first is not None:
        parts.append(f"{kind} {first.instance} started {_time(first.started_at)}")
    elif last is not None:
        parts.append(f"no {kind} has started since")
    return parts


def _end(kind: str, life: Life) -> str:
    if life.stopped_at is not None:
        return f"{kind} {life.instance} stopped {_time(life.stopped_at)} ({life.stop_reason})"
    return f"{kind} {life.instance} fell silent {_time(life.heartbeat_at)} without a farewell"


def _time(at: datetime) -> str:
    return f"{at.astimezone():%H:%M:%S}"


@dataclass(frozen=True, slots=True)
class GroupPoint:
    """A group's members and one partition's offset at a time."""

    at: datetime
    partition: tuple[str, int]
    members: int
    committed: int


_POINTS: Final = """
SELECT taken_at, topic, partition, members, committed_offset FROM relay.position
 WHERE consumer_group = $1 AND topic = ANY ($2::text[]) AND taken_at >= $3 AND taken_at <= $4
   AND members IS NOT NULL
 ORDER BY taken_at LIMIT 200000
"""


async def _groups(
    connection: asyncpg.Connection,
    flow: Flow,
    from_at: datetime,
    to_at: datetime,
    *,
    lost: int | None,
) -> list[str]:
    parts: list[str] = []
    for group in flow.processor_groups:
        rows = await connection.fetch(
            _POINTS, group, sorted(flow.topics), from_at - _BEFORE, from_at + _AFTER
        )
        points = [GroupPoint(at, (t, p), members, at_ or 0) for at, t, p, members, at_ in rows]
        parts += describe_group(group, points, from_at, to_at, lost=lost)
    return parts


@dataclass(frozen=True, slots=True)
class Absence:
    """A time without members: how many were lost, when, and when somebody was back."""

    gone_at: datetime
    back_at: datetime | None
    members_before: int


def describe_group(
    group: str,
    points: Sequence[GroupPoint],
    from_at: datetime,
    to_at: datetime,
    *,
    lost: int | None,
) -> list[str]:
    """Tell when a group lost its last member, when it came back, and how far its offsets jumped.

    Of several absences, the one that the incident's orders met is told: none that had ended before
    the first of them was placed at `from_at`.

    Args:
        group: its name.
        points: what was recorded of it, by time.
        from_at: when the incident's first order was placed.
        to_at: when its last was.
        lost: its offsets jumped over so many orders of the incident: the absence that ended with
            the widest jump is meant. None: they did not.
    """
    met = [one for one in absences(points) if one.back_at is None or one.back_at > from_at]
    if not met:
        return []
    if lost is not None:
        meant = max(met, key=lambda one: offset_jump(points, one))
    else:
        during = [one for one in met if one.gone_at <= to_at] or met[:1]
        meant = max(during, key=lambda one: (one.back_at or points[-1].at) - one.gone_at)
    parts = [_loss(group, meant)]
    if meant.back_at is None:
        return [*parts, "has not come back"]
    parts.append(f"resumed at {_time(meant.back_at)}")
    jump = offset_jump(points, meant) if lost is not None else 0
    if lost is not None and jump > 0:  # 0: its offsets moved while it had members
        parts.append(_jump(jump, lost))
    return parts


def _jump(records: int, lost: int) -> str:
    """Tell how many records were jumped over, and how many of them were not answered.

    Some may have been answered before the offset was committed, or since; an incident of more
    orders than that is of several jumps, or of a group whose partitions were not all recorded.
    """
    said = f"offsets jumped by {records:,}"
    if lost < records:
        return f"{said}, {lost:,} of them without a return"
    return f"{said}, no returns" if lost == records else said


def absences(points: Sequence[GroupPoint]) -> list[Absence]:
    """Return the times in which a group had no members, the oldest first."""
    found: list[Absence] = []
    members, gone = 0, None
    for one in points:
        if one.members == 0 and gone is None:
            gone = one.at
        elif one.members > 0:
            if gone is not None:
                found.append(Absence(gone, one.at, members))
            members, gone = one.members, None
    return found if gone is None else [*found, Absence(gone, None, members)]


def _loss(group: str, absence: Absence) -> str:
    if not absence.members_before:
        return f"{group} had no members at {_time(absence.gone_at)}"
    several = absence.members_before > 1
    last = f"its last of {absence.members_before} members" if several else "its last member"
    return f"{group} lost {last} at {_time(absence.gone_at)}"


def offset_jump(points: Sequence[GroupPoint], absence: Absence) -> int:
    """Return how far the offsets of all partitions moved between the loss and the resumption."""
    if absence.back_at is None:
        return 0
    by_partition: defaultdict[tuple[str, int], list[GroupPoint]] = defaultdict(list)
    for one in points:
        by_partition[one.partition].append(one)
    empty, resumed = 0, 0
    for series in by_partition.values():
        before = [one.committed for one in series if one.at <= absence.gone_at]
        away = [one.committed for one in series if absence.gone_at <= one.at < absence.back_at]
        after = [one.committed for one in series if one.at >= absence.back_at]
        start = away[0] if away else before[-1] if before else 0
        empty += max(0, away[-1] - start) if away else 0
        resumed += max(0, after[0] - start) if after else 0
    # Moved while nobody was there: by hand. Else the one who came back began further on.
    return empty or resumed


_OUTAGES: Final = """
SELECT kind, resource, from_at, to_at, error FROM relay.outage_record
 WHERE from_at <= $2 AND coalesce(to_at, 'infinity') >= $1 AND resource <> 'publisher'
 ORDER BY from_at LIMIT 5
"""
# Each witness has seen it.
_PUBLISHER_AWAY: Final = """
SELECT error, min(from_at) AS from_at,
       nullif(max(coalesce(to_at, 'infinity')), 'infinity') AS to_at
  FROM relay.outage_record
 WHERE from_at <= $2 AND coalesce(to_at, 'infinity') >= $1 AND resource = 'publisher'
 GROUP BY error ORDER BY min(from_at) LIMIT 5
"""


async def _publisher(
    connection: asyncpg.Connection, from_at: datetime, to_at: datetime
) -> list[str]:
    rows = await connection.fetch(_PUBLISHER_AWAY, from_at - _BEFORE, to_at + _BEFORE)
    return [
        f"the publisher was away from {_time(row['from_at'])} "
        + (f"to {_time(row['to_at'])}" if row["to_at"] else "until now")
        + f" ({' '.join(row['error'].split())[:120]})"
        for row in rows
    ]


async def _outages(connection: asyncpg.Connection, from_at: datetime, to_at: datetime) -> list[str]:
    rows = await connection.fetch(_OUTAGES, from_at - _BEFORE, to_at + _BEFORE)
    return [
        f"{row['resource']} away for {row['kind']} from {_time(row['from_at'])} "
        + (f"to {_time(row['to_at'])}" if row["to_at"] else "until now")
        + f" ({' '.join(row['error'].split())[:80]})"
        for row in rows
    ]
