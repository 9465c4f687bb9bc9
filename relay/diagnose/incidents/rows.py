"""Incidents in the database: opened, grown, relabelled when their cases turn, closed.

Invariant: an incident's id never changes; its counts are counted, never added up; what a person
closed stays closed. Each change is reported once, by the row that it changed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from relay.diagnose.causes import meaning_of
from relay.diagnose.fate import fate_of
from relay.diagnose.incidents.clusters import (
    GAP,
    ORDINARY_SPAN,
    SINGLE_ORDERS,
    Case,
    Cluster,
    Kind,
    Span,
    are_all_there_is,
    cluster,
    dominant,
    few_alike,
    grown_tenfold,
    ordinary_rate,
)
from relay.diagnose.incidents.twins import join_twins
from relay.diagnose.verdicts import Fate, Verdict
from relay.runtime.flow import Flow

# Cases older than that without an incident stay single losses.
_UNASSIGNED_SPAN: Final = timedelta(days=1)
_UNASSIGNED_AT_MOST: Final = 50_000
# A closed incident takes cases in for so long.
_STILL_JOINED: Final = timedelta(hours=1)

# What a late order's case is counted with: the verdict that it had while it waited.
_WAITED_AS: Final = {
    "publish": Verdict.NOT_PUBLISHED,
    "process": Verdict.NOT_PROCESSED,
    "confirm": Verdict.NOT_CONFIRMED,
}


@dataclass(frozen=True, slots=True)
class IncidentChange:
    """What happened to an incident: `opened`, `grown` or `closed`."""

    event: str
    incident_id: int
    kind: Kind
    orders: int


def kind_of(hop: str, verdict: str, cause: str) -> Kind:
    """Return what a case is counted as: a late order like those that still wait."""
    if verdict == Verdict.RETURNED:
        waited = _WAITED_AS.get(hop)
        if waited is not None and waited in meaning_of(cause).verdicts:
            return hop, waited.value, cause
    return hop, verdict, cause


_UNASSIGNED: Final = """
SELECT event_id, hop, verdict, cause, placed_at, outbox_id FROM relay.overdue
 WHERE incident_id IS NULL AND placed_at >= $1 AND closed_as IS DISTINCT FROM 'closed'
   AND flow <> ALL ($3::text[])
 ORDER BY placed_at LIMIT $2
"""
_JOINABLE: Final = """
SELECT incident_id, hop, verdict, cause, from_at, to_at FROM relay.incident
 WHERE (closed_at IS NULL OR (closed_by = 'watchdog' AND to_at >= $1))
   AND flow <> ALL ($2::text[])
 ORDER BY incident_id
"""
_USUAL: Final = """
SELECT placed_at FROM relay.overdue
 WHERE incident_id IS NULL AND placed_at >= $1 AND hop = $2 AND cause = $3
   AND flow <> ALL ($4::text[])
 ORDER BY placed_at
"""


# As who closes one does: first the incident, then its cases.
_LOCK_OPEN: Final = """
SELECT FROM relay.incident WHERE closed_at IS NULL ORDER BY incident_id FOR UPDATE
"""


async def assign(
    connection: asyncpg.Connection, flow: Flow, now_at: datetime
) -> list[IncidentChange]:
    """Give a flow's cases to incidents, open new ones, and bring its open ones up to date."""
    others = list(flow.others.names)
    rows = await connection.fetch(
        _UNASSIGNED, now_at - _UNASSIGNED_SPAN, _UNASSIGNED_AT_MOST, others
    )
    cases = [
        Case(
            row["event_id"],
            kind_of(row["hop"], row["verdict"], row["cause"]),
            row["placed_at"],
            row["outbox_id"],
        )
        for row in rows
    ]
    spans = [
        Span(row["incident_id"], (row["hop"], row["verdict"], row["cause"]), *row[4:])
        for row in await connection.fetch(_JOINABLE, now_at - _STILL_JOINED, others)
    ]
    ordinary = await _ordinary(connection, others, {case.kind for case in cases}, now_at)
    found = cluster(cases, spans, ordinary)
    found += await _few(connection, few_alike(cases, found))
    # Nobody sees the orders of one event in two incidents while they are put together.
    async with connection.transaction():
        await connection.execute(_LOCK_OPEN)
        opened = [await _put(connection, flow.name, one) for one in found]
        changes = await _refresh(connection, others)
        joined = [IncidentChange("closed", *one) for one in await join_twins(connection, others)]
        if joined:
            changes += await _refresh(connection, others)
    return [one for one in opened if one is not None] + changes + joined


async def _ordinary(
    connection: asyncpg.Connection, others: list[str], kinds: Iterable[Kind], now_at: datetime
) -> dict[Kind, float]:
    found = {}
    for kind in kinds:
        if kind[2] in SINGLE_ORDERS:
            since = now_at - ORDINARY_SPAN - GAP
            rows = await connection.fetch(_USUAL, since, kind[0], kind[2], others)
            found[kind] = ordinary_rate([row["placed_at"] for row in rows], now_at)
    return found


# The newest rows only: who has more of them since the first lost order is no small shop.
_PLACED: Final = """
SELECT count(DISTINCT o.aggregate_id) FILTER (
           WHERE o.created_at BETWEEN $1 AND $2
             AND ($3::bigint[] = '{}' OR o.aggregate_type IN (
                 SELECT aggregate_type FROM relay.outbox_summary WHERE id = ANY ($3)))),
       count(*) < $4 OR min(o.created_at) < $1
  FROM (SELECT aggregate_id, aggregate_type, created_at FROM relay.outbox_summary
         ORDER BY id DESC LIMIT $4) AS o
"""
_NEWEST_ROWS: Final = 1000
_FEW_AT_ONCE: Final = 20


async def _few(connection: asyncpg.Connection, candidates: Sequence[Cluster]) -> list[Cluster]:
    """Return those of few orders that are nearly all that were placed from the first of them on."""
    found = []
    for one in candidates[:_FEW_AT_ONCE]:
        ids = [case.outbox_id for case in one.cases if case.outbox_id is not None]
        placed, all_of_them = await connection.fetchrow(
            _PLACED, one.from_at, one.to_at + GAP, ids[:1], _NEWEST_ROWS
        )
        if all_of_them and are_all_there_is(len(one.cases), placed):
            found.append(one)
    return found


_INSERT: Final = """
INSERT INTO relay.incident (hop, verdict, cause, from_at, to_at, order_count, alerted_count, flow)
VALUES ($1, $2, $3, $4, $5, $6, $6, $7) RETURNING incident_id
"""
_JOIN: Final = """
UPDATE relay.overdue SET incident_id = $1 WHERE event_id = ANY ($2::text[]) AND incident_id IS NULL
"""


async def _put(connection: asyncpg.Connection, flow: str, found: Cluster) -> IncidentChange | None:
    """Put a cluster's cases into its incident, a new one where it has none."""
    keys = [case.key for case in found.cases]
    if found.incident_id is not None:
        await connection.execute(_JOIN, found.incident_id, keys)
        return None
    async with connection.transaction():
        incident_id = await connection.fetchval(
            _INSERT, *found.kind, found.from_at, found.to_at, len(keys), flow
        )
        await connection.execute(_JOIN, incident_id, keys)
    return IncidentChange("opened", incident_id, found.kind, len(keys))


# Closed ones, too, for as long as cases may still join them.
_STATE: Final = """
SELECT i.incident_id, i.hop, i.verdict, i.cause, i.alerted_count, i.closed_at, i.order_count,
       i.from_at, i.to_at,
       v.hop AS case_hop, v.verdict AS case_verdict, v.cause AS case_cause,
       count(*) AS orders, count(*) FILTER (WHERE v.closed_at IS NULL) AS open_orders,
       min(v.placed_at) AS first_at, max(v.placed_at) AS last_at
  FROM relay.incident AS i JOIN relay.overdue AS v USING (incident_id)
 WHERE (i.closed_at IS NULL OR (i.closed_by = 'watchdog' AND i.to_at >= $1))
   AND i.flow <> ALL ($2::text[])
 GROUP BY i.incident_id, v.hop, v.verdict, v.cause
"""
_RECENT: Final = "SELECT clock_timestamp() - $1::interval"


@dataclass(slots=True)
class _State:
    """An incident and what its cases are now."""

    incident_id: int
    kind: Kind
    alerted: int
    closed: bool
    known: tuple[int, datetime, datetime]
    first_at: datetime
    last_at: datetime
    orders: int = 0
    open_kinds: Counter[Kind] | None = None

    @property
    def open_orders(self) -> int:
        return sum((self.open_kinds or Counter()).values())

    def new_kind(self) -> Kind:
        """Return what the incident is now: what at least half of its orders have turned into."""
        turned = dominant(self.open_kinds or Counter())
        if turned is None or turned == self.kind or turned[1] == Verdict.UNKNOWN:
            return self.kind
        assert self.open_kinds is not None
        return turned if self.open_kinds[turned] * 2 >= self.orders else self.kind


async def _refresh(connection: asyncpg.Connection, others: list[str]) -> list[IncidentChange]:
    since = await connection.fetchval(_RECENT, _STILL_JOINED)
    states: dict[int, _State] = {}
    for row in await connection.fetch(_STATE, since, others):
        _count(states, row)
    changes: list[IncidentChange] = []
    for state in states.values():
        changes += await _write(connection, state)
    return changes


def _count(states: dict[int, _State], row: asyncpg.Record) -> None:
    state = states.setdefault(
        row["incident_id"],
        _State(
            row["incident_id"],
            (row["hop"], row["verdict"], row["cause"]),
            row["alerted_count"],
            row["closed_at"] is not None,
            (row["order_count"], row["from_at"], row["to_at"]),
            row["first_at"],
            row["last_at"],
            open_kinds=Counter(),
        ),
    )
    assert state.open_kinds is not None
    state.orders += row["orders"]
    state.first_at = min(state.first_at, row["first_at"])
    state.last_at = max(state.last_at, row["last_at"])
    if row["open_orders"]:
        kind = kind_of(row["case_hop"], row["case_verdict"], row["case_cause"])
        state.open_kinds[kind] += row["open_orders"]


_UPDATE: Final = """
UPDATE relay.incident
   SET hop = $2, verdict = $3, cause = $4, from_at = $5, to_at = $6, order_count = $7,
       alerted_count = $8,
       closed_at = CASE WHEN $9 THEN coalesce(closed_at, clock_timestamp()) END,
       closed_by = CASE WHEN $9 THEN 'watchdog' END,
       closed_why = CASE WHEN $9 THEN $10 END
 WHERE incident_id = $1 AND (closed_at IS NULL OR closed_by = 'watchdog')
"""


# Orders of it that were lost another way: they belong to it no more.
_LET_GO: Final = """
UPDATE relay.overdue SET incident_id = NULL
 WHERE incident_id = $1 AND closed_at IS NULL AND hop = $2 AND verdict = $3 AND cause = $4
"""


async def _let_go(connection: asyncpg.Connection, state: _State, kind: Kind) -> None:
    """Part with open cases that turned into a loss of another kind than most."""
    for other in list(state.open_kinds or ()):
        if other != kind and fate_of(other[1], other[2]) is Fate.LOST:
            await connection.execute(_LET_GO, state.incident_id, *other)
            assert state.open_kinds is not None
            state.orders -= state.open_kinds.pop(other)


async def _write(connection: asyncpg.Connection, state: _State) -> list[IncidentChange]:
    kind = state.new_kind()
    await _let_go(connection, state, kind)
    done = state.open_orders == 0
    grown = grown_tenfold(state.orders, state.alerted)
    same = state.known == (state.orders, state.first_at, state.last_at)
    if same and kind == state.kind and done == state.closed:
        return []
    await connection.execute(
        _UPDATE,
        state.incident_id,
        *kind,
        state.first_at,
        state.last_at,
        state.orders,
        state.orders if grown else state.alerted,
        done,
        "every order was returned or closed",
    )
    changes = []
    if grown:
        changes.append(IncidentChange("grown", state.incident_id, kind, state.orders))
    if done and not state.closed:
        changes.append(IncidentChange("closed", state.incident_id, kind, state.orders))
    return changes


_TELL: Final = "UPDATE relay.incident SET story = $2::jsonb WHERE incident_id = $1"


async def write_story(
    connection: asyncpg.Connection, incident_id: int, story: dict[str, Any]
) -> None:
    """Keep what explains an incident, as it was recorded by now."""
    await connection.execute(_TELL, incident_id, json.dumps(story, default=str))
