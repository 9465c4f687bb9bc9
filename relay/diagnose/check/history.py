"""The runs of `relay check` and of `relay probe` that were stored.

Invariant: reads only; the newest first, so many and no more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from relay.diagnose.check.result import Change, Result, State, changes


@dataclass(frozen=True, slots=True)
class CheckRun:
    """A stored run of `relay check`.

    Attributes:
        run_by: the database's word for who ran it.
        changed: against the last healthy run before it.
    """

    run_at: datetime
    run_by: str
    healthy: bool
    results: tuple[Result, ...]
    changed: tuple[Change, ...] = ()
    healthy_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ProbeRun:
    """A stored canary; `ok` is None while it is under way, or where its sender was killed."""

    probe_id: UUID
    run_at: datetime
    ok: bool | None
    failed_hop: str | None
    through_processor: bool
    seconds: Mapping[str, float]


_CHECKS: Final = """
SELECT run_at, run_by, healthy, results::text FROM relay.check_run
 ORDER BY check_run_id DESC LIMIT $1
"""
_HEALTHY: Final = """
SELECT run_at, results::text FROM relay.check_run WHERE healthy AND run_at < $1
 ORDER BY check_run_id DESC LIMIT 1
"""


async def read_checks(connection: asyncpg.Connection, at_most: int = 20) -> list[CheckRun]:
    """Return the latest runs; the first of them compared with the last healthy one before it."""
    rows = await connection.fetch(_CHECKS, at_most)
    runs = [
        CheckRun(row["run_at"], row["run_by"], row["healthy"], _results(row["results"]))
        for row in rows
    ]
    if not runs:
        return []
    newest = runs[0]
    healthy = await connection.fetchrow(_HEALTHY, newest.run_at)
    if healthy is None:
        return runs
    changed = changes(json.loads(healthy["results"]), newest.results)
    runs[0] = CheckRun(
        newest.run_at,
        newest.run_by,
        newest.healthy,
        newest.results,
        changed,
        healthy["run_at"],
    )
    return runs


def _results(text: str) -> tuple[Result, ...]:
    stored: list[dict[str, Any]] = json.loads(text)
    return tuple(
        Result(one["name"], State(one["state"]), one["found"], one.get("fix") or "-")
        for one in stored
    )


_PROBES: Final = """
SELECT probe_id, run_at, ok, failed_hop, through_processor, timings::text AS seconds
  FROM relay.probe_run WHERE run_at > clock_timestamp() - interval '30 days'
 ORDER BY run_at DESC LIMIT $1
"""


async def read_probes(connection: asyncpg.Connection, at_most: int = 30) -> list[ProbeRun]:
    """Return the latest canaries of a month."""
    rows = await connection.fetch(_PROBES, at_most)
    return [ProbeRun(**{**dict(row), "seconds": json.loads(row["seconds"])}) for row in rows]
