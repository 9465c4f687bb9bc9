"""The watchdog: records positions and finds overdue orders, for as long as it lives.

Invariant: one is active, by lease; the others stand by. It never disturbs the service that it runs
in: whatever fails is said, waited out and begun again; its connections are its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final
from uuid import uuid4

import asyncpg
import structlog

from relay.diagnose.incidents.rows import IncidentChange
from relay.diagnose.watch.lease import WatchLease, WatchLostError
from relay.diagnose.watch.looked import Looked, read_looked
from relay.diagnose.watch.measuring import Measuring
from relay.diagnose.watch.overdue_spans import OverdueSpans
from relay.diagnose.watch.positions import (
    Notebook,
    Position,
    Series,
    take_sample,
    write_positions,
)
from relay.diagnose.watch.round import Round, RoundReport, WatchOptions
from relay.kafka.broker import connected
from relay.orders.catalog import as_far_as_known
from relay.runtime.backoff import Backoff
from relay.runtime.command_line import GlobalOptions
from relay.runtime.database import DATABASE_FAILURES, DRIVER_FAILURES, connect
from relay.runtime.duty_record import WATCH_POSITIONS, WATCH_ROUND, duty_completed, duty_failed
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.progress_mark import ProgressMark
from relay.runtime.repeats import Repeats
from relay.runtime.shutdown import stopped_within
from relay.telemetry.metrics import Metrics, known
from relay.telemetry.tracing import Tracing

_LOG: Final = structlog.get_logger("relay.watchdog")

LEASE_CONNECTION: Final = "relay-watchdog-lease"
ROUND_CONNECTION: Final = "relay-watchdog-round"
POSITION_CONNECTION: Final = "relay-watchdog-positions"
MEASURE_CONNECTION: Final = "relay-watchdog-measure"
CLIENT_ID: Final = "relay-watchdog"
_LEASE_STATEMENT_SECONDS: Final = 5.0
_ROUND_STATEMENT_SECONDS: Final = 60.0
_SAMPLE_SECONDS: Final = 10.0
_REFRESH_SAMPLES: Final = 10
_RELEASE_SECONDS: Final = 2.0
_PAGES_ONCE: Final = 5


@dataclass(slots=True)
class Watchdog:
    """One watchdog, alone or inside a service.

    Attributes:
        flows: all of the installation; they are looked at one after the other.
        state: starting, standby, active, waiting, stopped.
        waiting_for: what it cannot go on without, in words.
        owner: unique for a process.
    """

    dsn: str | None
    kafka: KafkaConnection
    flows: Sequence[Flow]
    options: WatchOptions
    tracing: Tracing
    stop: asyncio.Event
    metrics: Metrics | None = None
    owner: str = field(default_factory=lambda: f"watchdog-{uuid4()}")
    state: str = "starting"
    waiting_for: str | None = None
    last: RoundReport | None = None
    rounds: int = 0
    mark: ProgressMark = field(default_factory=ProgressMark)
    _repeats: Repeats = field(default_factory=Repeats, init=False)

    def detail(self) -> Mapping[str, Any]:
        """Return what `relay status` shows of it."""
        return {"state": self.state, "waiting_for": self.waiting_for, "rounds": self.rounds}

    def __post_init__(self) -> None:
        if self.metrics is not None:
            known(self.metrics.duties.failures, (WATCH_ROUND, WATCH_POSITIONS))
            self.metrics.watch.begin([flow.name for flow in self.flows])

    async def run(self) -> None:
        """Watch until `stop` is set; never raises for what can be waited out."""
        backoff, attempt = Backoff(0.5, 10.0), 0
        while not self.stop.is_set():
            began = time.monotonic()
            self.mark.turn()
            try:
                await self._session()
            except WatchLostError as error:
                self._wait_for("standby", str(error))
            except ExceptionGroup as group:
                if group.subgroup(WatchLostError) is not None:
                    self._wait_for("standby", "another watchdog took over")
                else:
                    await self._failed(group, "; ".join(repr(one) for one in group.exceptions))
            except Exception as error:  # noqa: BLE001 - whatever it is: said, and begun again
                await self._failed(error, str(error) or type(error).__name__)
            attempt = 0 if time.monotonic() - began > self.options.lease_seconds else attempt + 1
            await stopped_within(self.stop, backoff.delay_seconds(attempt))
        self.state = "stopped"

    async def _failed(self, error: Exception, why: str) -> None:
        """Say why a session ended; where the lease was held, in the database, too."""
        was_active = self.state == "active"
        self._wait_for("waiting", why)
        self._count_failure(WATCH_ROUND)
        if not was_active:
            return
        try:
            connection = await connect(
                self.dsn, LEASE_CONNECTION, command_timeout_seconds=_LEASE_STATEMENT_SECONDS
            )
            try:
                await duty_failed(connection, WATCH_ROUND, error)
            finally:
                connection.terminate()
        except DATABASE_FAILURES as away:
            # The record's age tells it: no round is completed meanwhile.
            _LOG.info("duty_not_recorded", duty=WATCH_ROUND, why=str(away))

    def _count_failure(self, duty: str) -> None:
        if self.metrics is not None:
            self.metrics.duties.failures.labels(duty).inc()

    def _wait_for(self, state: str, why: str) -> None:
        if self._repeats.due(state):
            _LOG.warning("watchdog_waits", state=state, why=why)
        self.state, self.waiting_for = state, why

    async def _session(self) -> None:
        """Connect, wait for the lease, and watch while it is held."""
        leasing = await connect(
            self.dsn, LEASE_CONNECTION, command_timeout_seconds=_LEASE_STATEMENT_SECONDS
        )
        try:
            lease = WatchLease(leasing, 0, self.owner, self.options.lease_seconds)
            while not await lease.take():
                self.mark.turn()
                self.state, self.waiting_for = "standby", None
                await stopped_within(self.stop, self.options.lease_seconds / 3)
                if self.stop.is_set():
                    return
            _LOG.info("watchdog_active", epoch=lease.epoch)
            self._repeats = Repeats()
            if self.metrics is not None:
                self.metrics.watch.hold(lease.valid)
            await self._watch(lease)
            async with asyncio.timeout(_RELEASE_SECONDS):
                await lease.release()
        finally:
            leasing.terminate()
            if self.metrics is not None:
                self.metrics.watch.lose()

    async def _watch(self, lease: WatchLease) -> None:
        async with AsyncExitStack() as stack:
            recording = await connect(
                self.dsn, POSITION_CONNECTION, command_timeout_seconds=_LEASE_STATEMENT_SECONDS
            )
            stack.callback(recording.terminate)
            working = await connect(
                self.dsn,
                ROUND_CONNECTION,
                command_timeout_seconds=_ROUND_STATEMENT_SECONDS,
                server_settings={"plan_cache_mode": "force_custom_plan", "jit": "off"},
            )
            stack.callback(working.terminate)
            measuring = await connect(
                self.dsn, MEASURE_CONNECTION, command_timeout_seconds=_ROUND_STATEMENT_SECONDS
            )
            stack.callback(measuring.terminate)
            self.state, self.waiting_for = "active", None
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._keep(lease)),
                    group.create_task(self._record_positions(lease, recording)),
                    group.create_task(self._do_rounds(lease, working)),
                    group.create_task(self._measure(lease, measuring)),
                ]
                await self.stop.wait()
                for task in tasks:
                    task.cancel()

    async def _keep(self, lease: WatchLease) -> None:
        while True:
            await asyncio.sleep(self.options.lease_seconds / 3)
            await lease.renew()
            self.mark.turn()

    async def _do_rounds(self, lease: WatchLease, connection: asyncpg.Connection) -> None:
        work = []
        for named in self.flows:
            spans = OverdueSpans(self.tracing, named, self.options.wait_span_seconds)
            flow = await as_far_as_known(connection, named)
            work.append(Round(connection, self.kafka, flow, self.options, spans))
        while True:
            began, report = time.monotonic(), RoundReport()
            for of_flow in work:
                lease.require()
                found = await of_flow.run()
                self._report(of_flow.flow.name, found)
                report.failures += found.failures
                report.set_aside += found.set_aside
            self.rounds += 1
            took = time.monotonic() - began
            pause = max(self.options.round_seconds, took * self.options.rest_factor)
            await self._record_round(connection, report, pause + 2 * took)
            await asyncio.sleep(pause)

    async def _record_round(
        self, connection: asyncpg.Connection, report: RoundReport, again_within_seconds: float
    ) -> None:
        if not report.failures:
            await duty_completed(
                connection,
                WATCH_ROUND,
                again_within_seconds=again_within_seconds,
                set_aside=report.set_aside,
            )
            if self.metrics is not None:
                self.metrics.watch.measured("round")
            return
        for error in report.failures:
            _LOG.error("round_failed", error=repr(error), exc_info=error)
        self._count_failure(WATCH_ROUND)
        await duty_failed(connection, WATCH_ROUND, report.failures[0])

    def _report(self, flow: str, report: RoundReport) -> None:
        for change in report.changes:
            _log_change(change, GlobalOptions(flow=flow if len(self.flows) > 1 else None))
        self.last = report
        if self.metrics is None:
            return
        counts = report.counts
        self.metrics.watch.show(
            flow,
            incidents_open=None if counts is None else float(report.incidents_open),
            overdue_orders=None
            if counts is None
            else {(*one,): float(number) for one, number in counts.items()},
            orders_set_aside=float(report.set_aside),
        )
        for change in report.changes:
            self.metrics.watch.incident_alerts.labels(flow, change.event).inc()

    async def _measure(self, lease: WatchLease, connection: asyncpg.Connection) -> None:
        """Measure how every hop stands, again and again; a dear measurement makes the next wait."""
        if self.metrics is None:
            return
        work = []
        for named in self.flows:
            flow = await as_far_as_known(connection, named)
            work.append(Measuring(connection, self.kafka, flow, self.metrics.watch))
        while True:
            began = time.monotonic()
            for of_flow in work:
                lease.require()
                await of_flow.measure()
            if not any(of_flow.failing for of_flow in work):
                self.metrics.watch.measured("hops")
            took = time.monotonic() - began
            await asyncio.sleep(max(self.options.measure_seconds, took * self.options.rest_factor))

    async def _record_positions(self, lease: WatchLease, connection: asyncpg.Connection) -> None:
        """Record positions; the broker away, none are, and the gap tells."""
        notebook = Notebook(self.options.position_seconds)
        backoff, attempt = Backoff(0.2, 5.0), 0
        while True:
            try:
                async with connected(self.kafka, CLIENT_ID) as broker:
                    for number in count():
                        refresh = number % _REFRESH_SAMPLES == 0
                        sample: dict[Series, Position] = {}
                        for flow in self.flows:
                            async with asyncio.timeout(_SAMPLE_SECONDS):
                                sample |= await take_sample(broker, flow, refresh=refresh)
                        rows = notebook.take(sample, time.monotonic())
                        lease.require()
                        await _written(connection, rows)
                        if refresh or attempt:
                            await duty_completed(
                                connection,
                                WATCH_POSITIONS,
                                again_within_seconds=_REFRESH_SAMPLES * self.options.sample_seconds,
                            )
                        attempt = 0
                        await asyncio.sleep(self.options.sample_seconds)
            except (WatchLostError, *DRIVER_FAILURES):
                raise
            except Exception as error:  # noqa: BLE001 - the broker, or what it holds: no round ends
                if attempt == 0:
                    _LOG.warning("positions_not_recorded", why=str(error) or type(error).__name__)
                    self._count_failure(WATCH_POSITIONS)
                    await duty_failed(connection, WATCH_POSITIONS, error)
                attempt += 1
                await asyncio.sleep(backoff.delay_seconds(attempt))


async def _written(connection: asyncpg.Connection, rows: Any) -> None:
    """Write positions; what fails here is the database, and not the broker."""
    try:
        await write_positions(connection, rows)
    except (OSError, TimeoutError) as error:
        raise WatchLostError(f"the database does not answer: {error}") from error


@dataclass(frozen=True, slots=True)
class OneRound:
    """What came of one round that a command asked for.

    Attributes:
        report: of the round; None: it was not done.
        why_not: None: another watchdog is active, whose own rounds count.
    """

    report: RoundReport | None
    why_not: str | None = None


async def watch_once(
    dsn: str | None, kafka: KafkaConnection, flow: Flow, options: WatchOptions
) -> OneRound:
    """Do one round now, without spans, unless another watchdog is active.

    For commands that show what watchdogs record, where none may have run yet. It never raises: a
    role that may only read cannot do one.
    """
    try:
        leasing = await connect(dsn, LEASE_CONNECTION, command_timeout_seconds=30.0)
    except DATABASE_FAILURES as error:
        return OneRound(None, str(error) or type(error).__name__)
    try:
        lease = WatchLease(leasing, 0, f"once-{uuid4()}", options.lease_seconds * 4)
        if not await lease.take():
            return OneRound(None)
        try:
            # Nobody comes back for the next page: a night's orders are told at once.
            whole = replace(options, pages=_PAGES_ONCE)
            known = await as_far_as_known(leasing, flow)
            report = await Round(leasing, kafka, known, whole, None).run()
        finally:
            await lease.release()
    except Exception as error:  # noqa: BLE001 - said by the command, whatever it is
        return OneRound(None, str(error) or type(error).__name__)
    else:
        why = repr(report.failures[0]) if report.failures else None
        return OneRound(report, why)
    finally:
        leasing.terminate()


async def looked_by(connection: asyncpg.Connection, once: OneRound) -> Looked:
    """Say whether somebody looked: the one round just now, or a watchdog before it."""
    if once.report is not None and once.why_not is None:
        now_at = await connection.fetchval("SELECT clock_timestamp()")
        return Looked(now_at, None, once.report.set_aside)
    try:
        recorded = await read_looked(connection)
    except DATABASE_FAILURES as error:
        recorded = Looked(None, f"the watchdog's record cannot be read: {error}")
    if recorded.why_not is None or once.why_not is None:
        return recorded
    return replace(recorded, why_not=f"{recorded.why_not}; this command cannot: {once.why_not}")


def _log_change(change: IncidentChange, options: GlobalOptions) -> None:
    hop, verdict, cause = change.kind
    told = _LOG.info if change.event == "closed" else _LOG.error
    told(
        f"incident_{change.event}",
        incident=f"I-{change.incident_id}",
        hop=hop,
        verdict=verdict,
        cause=cause,
        orders=change.orders,
        next=options.put_into(f"relay incidents I-{change.incident_id}"),
    )
