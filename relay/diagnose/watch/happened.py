"""What happened meanwhile, on one time axis.

Processes, outages, members, jumps of offsets, checks that came out otherwise, what people did.

Invariant: reads only; every entry is a record that somebody wrote as it happened. A stretch is cut
at AT_MOST entries of a kind, and a kind that was cut is named.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final

import asyncpg

from relay.diagnose.check.result import Result, State, changes
from relay.diagnose.incidents.story import GroupPoint, absences, offset_jump
from relay.runtime.flow import Flow
from relay.runtime.liveness import SILENT_SECONDS

AT_MOST: Final = 100


@dataclass(frozen=True, slots=True)
class Happened:
    """One thing that happened.

    Attributes:
        what: `started`, `stopped`, `silent`, `outage`, `members_gone`, `members_back`, `jumped`,
            `check`, `act`, `incident`.
        subject: whom it is about: a process, a group, a resource, an incident, a person.
        detail: what else was recorded, in the recorder's words.
        to_at: when it ended; None: at once, or not yet.
        hop: the hop that it strikes; None: none, or all.
    """

    at: datetime
    what: str
    subject: str
    detail: str = ""
    to_at: datetime | None = None
    hop: str | None = None


_HOPS: Final = {"relay": "publish", "confirm": "confirm"}
_PROCESSES: Final = """
SELECT kind, instance, version, started_at, heartbeat_at, stopped_at, stop_reason,
       stopped_at IS NULL AND heartbeat_at < clock_timestamp() - make_interval(secs => $4) AS silent
  FROM relay.process_record
 WHERE heartbeat_at >= $1 AND started_at < $2
   AND coalesce(detail #>> '{flow,name}', '?') <> ALL ($5::text[])
 ORDER BY heartbeat_at DESC LIMIT $3
"""
_OUTAGES: Final = """
SELECT kind, resource, from_at, to_at, error FROM relay.outage_record
 WHERE from_at < $2 AND coalesce(to_at, 'infinity') >= $1
 ORDER BY from_at DESC LIMIT $3
"""
_ACTS: Final = """
SELECT at, who, action, subject, why, result FROM relay.audit_log
 WHERE audit_id > (SELECT coalesce(max(audit_id), 0) - 5000 FROM relay.audit_log)
   AND at >= $1 AND at < $2
 ORDER BY audit_id DESC LIMIT $3
"""
_INCIDENTS: Final = """
SELECT incident_id, hop, verdict, cause, opened_at FROM relay.incident
 WHERE opened_at >= $1 AND opened_at < $2 AND flow <> ALL ($4::text[])
 ORDER BY opened_at DESC LIMIT $3
"""


async def read_happened(
    connection: asyncpg.Connection, flow: Flow, from_at: datetime, to_at: datetime
) -> list[Happened]:
    """Return what was recorded from `from_at` to before `to_at`, the oldest first.

    Raises:
        asyncpg.PostgresError: it cannot be read.
    """
    found: list[Happened] = []
    others = list(flow.others.names)
    asked = from_at, to_at, AT_MOST, SILENT_SECONDS, others
    for row in await connection.fetch(_PROCESSES, *asked):
        found += _life(row)
    found += [_outage(row) for row in await connection.fetch(_OUTAGES, from_at, to_at, AT_MOST)]
    found += [_act(row) for row in await connection.fetch(_ACTS, from_at, to_at, AT_MOST)]
    rows = await connection.fetch(_INCIDENTS, from_at, to_at, AT_MOST, others)
    found += [_opened(row) for row in rows]
    found += await _checks(connection, from_at, to_at)
    between = from_at, to_at
    for group in flow.processor_groups:
        found += await _members(connection, group, sorted(flow.topics), between, "process")
    group = flow.confirm_group
    found += await _members(connection, group, [flow.returns_topic], between, "confirm")
    inside = (one for one in found if one.at < to_at and (one.to_at or one.at) >= from_at)
    return sorted(inside, key=lambda one: one.at)


def _life(row: asyncpg.Record) -> list[Happened]:
    subject, hop = f"{row['kind']} {row['instance']}", _HOPS.get(row["kind"])
    found = [Happened(row["started_at"], "started", subject, f"version {row['version']}", hop=hop)]
    if row["stopped_at"] is not None:
        found.append(
            Happened(row["stopped_at"], "stopped", subject, row["stop_reason"] or "", hop=hop)
        )
    elif row["silent"]:
        found.append(Happened(row["heartbeat_at"], "silent", subject, hop=hop))
    return found


def _outage(row: asyncpg.Record) -> Happened:
    return Happened(
        row["from_at"],
        "outage",
        f"{row['resource']} for {row['kind']}",
        " ".join(row["error"].split())[:200],
        to_at=row["to_at"] or datetime.max.replace(tzinfo=row["from_at"].tzinfo),
        hop=_HOPS.get(row["kind"]),
    )


def _act(row: asyncpg.Record) -> Happened:
    what = " ".join(filter(None, (row["action"], row["subject"])))
    return Happened(row["at"], "act", row["who"], f"{what}: {row['why'] or row['result']}"[:300])


def _opened(row: asyncpg.Record) -> Happened:
    return Happened(
        row["opened_at"],
        "incident",
        f"I-{row['incident_id']}",
        f"{row['verdict']} / {row['cause']}",
        hop=row["hop"] if row["hop"] != "-" else None,
    )


# The run before the stretch is what its first run is compared with.
_CHECKS: Final = """
(SELECT run_at, results::text FROM relay.check_run WHERE run_at < $1
  ORDER BY check_run_id DESC LIMIT 1)
 UNION ALL
(SELECT run_at, results::text FROM relay.check_run WHERE run_at >= $1 AND run_at < $2
  ORDER BY check_run_id DESC LIMIT $3)
 ORDER BY 1
"""
_CHECK_RUNS: Final = 20
_CHANGES_TOLD: Final = 5


async def _checks(
    connection: asyncpg.Connection, from_at: datetime, to_at: datetime
) -> list[Happened]:
    rows = await connection.fetch(_CHECKS, from_at, to_at, _CHECK_RUNS)
    runs = [(row["run_at"], json.loads(row["results"])) for row in rows]
    found = []
    for (_, before), (at, now) in pairwise(runs):
        changed = changes(before, [_result(one) for one in now])
        found += [
            Happened(at, "check", one.name, f"{one.before} -> {one.now}"[:300])
            for one in changed[:_CHANGES_TOLD]
        ]
    return found


def _result(stored: dict[str, Any]) -> Result:
    return Result(stored["name"], State(stored["state"]), stored["found"], stored["fix"] or "-")


_POINTS: Final = """
SELECT taken_at, topic, partition, members, committed_offset FROM relay.position
 WHERE consumer_group = $1 AND topic = ANY ($2::text[]) AND taken_at >= $3 AND taken_at < $4
   AND members IS NOT NULL
 ORDER BY taken_at LIMIT 50000
"""
_WIDE: Final = timedelta(minutes=10)


async def _members(
    connection: asyncpg.Connection,
    group: str,
    topics: Sequence[str],
    between: tuple[datetime, datetime],
    hop: str,
) -> list[Happened]:
    from_at, to_at = between
    rows = await connection.fetch(_POINTS, group, list(topics), from_at - _WIDE, to_at + _WIDE)
    points = [GroupPoint(at, (t, p), members, at_ or 0) for at, t, p, members, at_ in rows]
    found = []
    for one in absences(points):
        lost = f"its last of {one.members_before}" if one.members_before else "nobody was there"
        gone = one.back_at or datetime.max.replace(tzinfo=one.gone_at.tzinfo)
        found.append(Happened(one.gone_at, "members_gone", group, lost, to_at=gone, hop=hop))
        if one.back_at is not None:
            found.append(Happened(one.back_at, "members_back", group, hop=hop))
            width = offset_jump(points, one)
            if width:
                found.append(Happened(one.back_at, "jumped", group, f"{width:,} records", hop=hop))
    return found
