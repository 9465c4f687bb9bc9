"""One round of the watchdog: what is overdue, what came late, what belongs together.

Invariant: a round may end anywhere and the next one goes on: each statement brings the records
nearer to what is true, whichever came before it. It looks at what changed, never at all orders; a
round that was dear makes the next one wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import asyncpg
import structlog

from relay.diagnose.decide.duty import Standing, standing
from relay.diagnose.gather.around import read_processes
from relay.diagnose.gather.database import read_orders
from relay.diagnose.gather.logs import LogReading
from relay.diagnose.gather.orders import Gatherer, GatherOptions
from relay.diagnose.incidents.listing import list_incidents
from relay.diagnose.incidents.rows import IncidentChange, assign, write_story
from relay.diagnose.incidents.story import still_open_from, tell
from relay.diagnose.report.diagnosis import Diagnosis
from relay.diagnose.report.explain import diagnose
from relay.diagnose.verdicts import Verdict
from relay.diagnose.watch import cases
from relay.diagnose.watch.cases import OpenCase
from relay.diagnose.watch.late import find_late, looked_until
from relay.diagnose.watch.overdue import find_open
from relay.diagnose.watch.overdue_spans import OverdueSpans, report_of
from relay.diagnose.watch.set_aside import SetAside
from relay.runtime.database import is_connection_loss
from relay.runtime.flow import ApplyColumns, Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.liveness import GONE_SECONDS

_LOG: Final = structlog.get_logger("relay.watchdog")
# In one round: a few orders among thousands are found by halving; what fails everywhere is not
# looked for in each of them. The next round finds the next few.
_FAILED_LOOKS: Final = 40

# Not a case: it is on its way, or a person closed it.
_NO_CASE: Final = frozenset({Verdict.IN_FLIGHT, Verdict.CLOSED})


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """How the watchdog works.

    Attributes:
        round_seconds: pause between rounds, at least.
        rest_factor: a round of t seconds is followed by a pause of at least t times this.
        position_seconds: between the positions of what changes.
        sample_seconds: between looks at the groups.
        measure_seconds: between measurements of the hops, at least.
        lease_seconds: until a dead watchdog is replaced.
        page_orders: orders diagnosed at once.
        pages: of orders that are new, diagnosed in one round.
        again_after_seconds: an open case is diagnosed anew when its diagnosis is older.
        provisional_seconds: the same while a process may have died since its last heartbeat (so
            long after it, that is certain), and of a few cases.
        few_cases: so many are diagnosed within a second: what is recorded of them is hardly older
            than what `relay diagnose` says now.
        spans_per_incident: `return missing` spans of one incident.
        wait_span_seconds: a wait in the outbox that lasted longer is a span, too.
    """

    round_seconds: float = 10.0
    rest_factor: float = 10.0
    position_seconds: float = 10.0
    sample_seconds: float = 1.0
    measure_seconds: float = 10.0
    lease_seconds: float = 15.0
    page_orders: int = 2000
    pages: int = 1
    again_after_seconds: float = 30.0
    provisional_seconds: float = GONE_SECONDS
    few_cases: int = 200
    spans_per_incident: int = 1000
    wait_span_seconds: float = 1.0
    reading: LogReading = field(
        default_factory=lambda: LogReading(
            scan_seconds=3.0,
            recheck_seconds=1.0,
            readback_seconds=3.0,
            elsewhere_seconds=1.0,
            neighbours_at_most=20_000,
        )
    )


@dataclass(slots=True)
class RoundReport:
    """What a round did.

    Attributes:
        set_aside: orders that could not be judged, and are left alone for a while.
        counts: open cases by hop and verdict; None: they could not be counted.
        failures: of steps that were not completed; the others were.
    """

    opened: int = 0
    late: int = 0
    closed: int = 0
    diagnosed_again: int = 0
    reported: int = 0
    settled: int = 0
    held: int = 0
    changes: list[IncidentChange] = field(default_factory=list)
    counts: Mapping[tuple[str, str], int] | None = None
    incidents_open: int = 0
    set_aside: int = 0
    failures: list[Exception] = field(default_factory=list)


@dataclass(slots=True)
class Round:
    """Does rounds over one database connection."""

    connection: asyncpg.Connection
    kafka: KafkaConnection
    flow: Flow
    options: WatchOptions
    spans: OverdueSpans | None
    _told_held: bool = field(default=False, init=False)
    _aside: SetAside = field(default_factory=SetAside, init=False)
    _failed_looks: int = field(default=0, init=False)

    async def run(self) -> RoundReport:
        """Do one round: a step that fails keeps no other one from being done.

        Raises:
            asyncpg's errors: the database is away.
        """
        report, self._failed_looks = RoundReport(), 0
        steps: tuple[Callable[[RoundReport], Awaitable[None]], ...] = (
            self._close_returned,
            self._open_new,
            self._diagnose_again,
            self._note_late,
            self._assign,
            self._report,
            self._count,
        )
        for step in steps:
            try:
                await step(report)
            except Exception as error:
                if is_connection_loss(error) or self.connection.is_closed():
                    raise
                report.failures.append(error)
        report.set_aside = len(self._aside)
        return report

    async def _assign(self, report: RoundReport) -> None:
        now_at = await self.connection.fetchval("SELECT clock_timestamp()")
        report.changes = await assign(self.connection, self.flow, now_at)
        await self._tell_stories(report.changes)

    async def _count(self, report: RoundReport) -> None:
        report.counts = await cases.open_counts(self.connection, self.flow)
        report.incidents_open = await self.connection.fetchval(_OPEN_INCIDENTS, self._others)

    async def _close_returned(self, report: RoundReport) -> None:
        """Close the cases of orders that were returned since, without diagnosing them."""
        if not isinstance(self.flow.apply, ApplyColumns):
            return  # those are diagnosed again
        still = await cases.every_waiting_case(self.connection, self.flow, self.options.page_orders)
        for start in range(0, len(still), self.options.page_orders):
            page = still[start : start + self.options.page_orders]
            orders = await read_orders(self.connection, self.flow, [one.order_id for one in page])
            done = [
                one.key for one in page if one.order_id in orders and orders[one.order_id].terminal
            ]
            report.closed += await cases.close_returned(self.connection, done)

    async def _open_new(self, report: RoundReport) -> None:
        for _ in range(self.options.pages):
            # Those that are set aside stay where they are: they must not fill the page.
            page = self.options.page_orders + len(self._aside)
            seen = await find_open(self.connection, self.flow, unrecorded=True, at_most=page)
            found = [one for one in seen if one.order_id not in self._aside]
            if not found:
                return
            events = {one.order_id: one.event_id for one in found if one.event_id is not None}
            diagnoses = await self._diagnose([one.order_id for one in found], events)
            opened = await self._record(diagnoses)
            report.opened += opened
            # Those that are no case are found again: a page of nothing else is the last one.
            if len(seen) < page or not opened:
                return

    async def _record(self, diagnoses: Sequence[Diagnosis]) -> int:
        worth = [one for one in diagnoses if one.verdict not in _NO_CASE]
        return len(await cases.open_cases(self.connection, self.flow, worth))

    async def _diagnose(
        self, order_ids: Sequence[str], events: Mapping[str, str]
    ) -> list[Diagnosis]:
        """Diagnose orders; one that cannot be judged is set aside, and the others are."""
        try:
            return await self._diagnose_all(order_ids, events)
        except Exception as error:
            if is_connection_loss(error) or self.connection.is_closed():
                raise
            self._failed_looks += 1
            if self._failed_looks > _FAILED_LOOKS:
                raise
            if len(order_ids) == 1:
                self._aside.add(order_ids[0], error)
                return []
        middle = len(order_ids) // 2
        first = await self._diagnose(order_ids[:middle], events)
        return first + await self._diagnose(order_ids[middle:], events)

    async def _diagnose_all(
        self, order_ids: Sequence[str], events: Mapping[str, str]
    ) -> list[Diagnosis]:
        if not order_ids:
            return []
        options = GatherOptions(logs=self.options.reading)
        gatherer = Gatherer(self.connection, self.kafka, self.flow, options)
        return [diagnose(one) for one in await gatherer.gather(order_ids, events)]

    async def _diagnose_again(self, report: RoundReport) -> None:
        stale = await cases.stale_cases(
            self.connection,
            self.flow,
            timedelta(seconds=self.options.again_after_seconds),
            timedelta(seconds=self.options.provisional_seconds),
            few=self.options.few_cases,
            at_most=self.options.page_orders,
        )
        if not stale:
            return
        events = {one.order_id: one.event_id for one in stale if one.event_id is not None}
        order_ids = [one.order_id for one in stale if one.order_id not in self._aside]
        by_order = {one.order_id: one for one in await self._diagnose(order_ids, events)}
        judged = [one for one in stale if one.order_id in by_order]
        await self._write_again(judged, by_order, report)

    async def _write_again(
        self, stale: Sequence[OpenCase], found: Mapping[str, Diagnosis], report: RoundReport
    ) -> None:
        returned = [one.key for one in stale if found[one.order_id].verdict is Verdict.RETURNED]
        report.closed += await cases.close_returned(self.connection, returned)
        done = set(returned)
        others = [(one.key, found[one.order_id]) for one in stale if one.key not in done]
        await cases.update_cases(self.connection, others)
        report.diagnosed_again += len(others)

    async def _note_late(self, report: RoundReport) -> None:
        """Find orders that were returned late while nobody watched."""
        late = await find_late(self.connection, self.flow, self.options.page_orders)
        if late.order_ids:
            diagnoses = await self._diagnose(late.order_ids, {})
            report.late += await self._record([one for one in diagnoses if one.delay is not None])
        await looked_until(self.connection, self.flow, late.until)

    async def _tell_stories(self, changes: Sequence[IncidentChange]) -> None:
        """Lay new and changed incidents over the records; open ones keep being told."""
        changed = {one.incident_id for one in changes}
        for seen in await list_incidents(self.connection, self.flow, closed=True, at_most=20):
            if seen.closed_at is None or seen.incident_id in changed:
                from_at = await still_open_from(self.connection, seen.incident_id)
                span = from_at or seen.from_at, seen.to_at
                story = await tell(self.connection, self.flow, seen.kind, *span, orders=seen.orders)
                if story != seen.story:
                    await write_story(self.connection, seen.incident_id, story)

    async def _report(self, report: RoundReport) -> None:
        if self.spans is None:
            return
        consumers = await read_processes(self.connection, self.flow, "confirm")
        now_at = await self.connection.fetchval("SELECT clock_timestamp()")
        down = standing(consumers, now_at) is not Standing.ALIVE
        rows = await self.connection.fetch(
            _UNREPORTED,
            down,
            self.options.spans_per_incident,
            self.options.page_orders,
            self._others,
        )
        self.spans.export([report_of(row) for row in rows], now_at)
        await self.connection.execute(_REPORTED, [row["event_id"] for row in rows], now_at)
        report.reported = len(rows)
        report.held = await self.connection.fetchval(_HELD, self._others) if down else 0
        self._log_held(report.held)
        await self._report_settled(self.spans, report)

    async def _report_settled(self, spans: OverdueSpans, report: RoundReport) -> None:
        """Say in the trace of an order that was reported that it came back, or was closed."""
        rows = await self.connection.fetch(SETTLED, self.options.page_orders, self._others)
        spans.export_settled([report_of(row) for row in rows])
        await self.connection.execute(_SETTLED_TOLD, [row["event_id"] for row in rows])
        report.settled = len(rows)

    @property
    def _others(self) -> list[str]:
        return list(self.flow.others.names)

    def _log_held(self, held: int) -> None:
        if held and not self._told_held:
            _LOG.warning(
                "spans_held",
                orders=held,
                why="the confirmation consumer is down; its incident says",
            )
        self._told_held = bool(held)


_OPEN_INCIDENTS: Final = """
SELECT count(*) FROM relay.incident WHERE closed_at IS NULL AND flow <> ALL ($1::text[])
"""

# While the consumer is down its orders are one incident; their spans wait, and most are never
# needed. Of one incident only so many are written: the others differ by nothing but the order.
_UNREPORTED: Final = """
WITH told AS (
    SELECT incident_id, count(*) AS spans FROM relay.overdue
     WHERE incident_id IN (SELECT incident_id FROM relay.incident WHERE closed_at IS NULL)
       AND reported_at IS NOT NULL
     GROUP BY incident_id
), waiting AS (
    SELECT *, row_number() OVER (PARTITION BY incident_id ORDER BY placed_at) AS place
      FROM relay.overdue
     WHERE closed_at IS NULL AND reported_as IS DISTINCT FROM verdict
       AND flow <> ALL ($4::text[])
       AND NOT ($1 AND hop = 'confirm')
)
SELECT event_id, aggregate_id, event_type, traceparent, hop, verdict, cause, incident_id,
       placed_at, deadline_at, evidence::text AS evidence, reported_at, reported_as
  FROM waiting LEFT JOIN told USING (incident_id)
 WHERE incident_id IS NULL OR place + coalesce(spans, 0) <= $2
 ORDER BY placed_at LIMIT $3
"""
_REPORTED: Final = """
UPDATE relay.overdue SET reported_at = $2, reported_as = verdict
 WHERE event_id = ANY ($1::text[])
"""
# `settled`: the trace says how it ended; a case that is opened again is reported again. One that
# was closed longer ago, by a version that did not say so, stays as it is.
SETTLED: Final = """
SELECT event_id, aggregate_id, event_type, traceparent, hop, verdict, cause, incident_id,
       placed_at, deadline_at, evidence::text AS evidence, reported_at, reported_as, closed_at,
       closed_as, closed_by, closed_why
  FROM relay.overdue
 WHERE closed_at > clock_timestamp() - interval '1 day' AND reported_as <> 'settled'
   AND flow <> ALL ($2::text[])
 ORDER BY closed_at LIMIT $1
"""
_SETTLED_TOLD: Final = """
UPDATE relay.overdue SET reported_as = 'settled'
 WHERE event_id = ANY ($1::text[]) AND closed_at IS NOT NULL
"""
_HELD: Final = """
SELECT count(*) FROM relay.overdue
 WHERE closed_at IS NULL AND hop = 'confirm' AND reported_as IS DISTINCT FROM verdict
   AND flow <> ALL ($1::text[])
"""
