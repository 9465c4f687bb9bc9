"""Hop 5's service: applies returns, and begins again after every failure.

Invariant: each connection begins with the database's offsets, never with a position kept in memory.
It tries for as long as it takes and says what it waits for; only settings that cannot work end it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

import asyncpg
import structlog

from relay.consumers.apply.applying import Applier
from relay.consumers.apply.canaries import BesideCanaries
from relay.consumers.apply.columns import ColumnsApplier
from relay.consumers.apply.function import FunctionApplier
from relay.consumers.apply.observe import Observer
from relay.consumers.confirm.failures import Failure, classify, described
from relay.consumers.confirm.handling import DatabaseBlockedError, Returns, Streak, Waiting
from relay.consumers.confirm.lanes import Lanes
from relay.consumers.confirm.options import ConfirmOptions
from relay.consumers.confirm.quarantine_room import QuarantineRoom
from relay.consumers.confirm.report import Report
from relay.consumers.confirm.spans import ReturnSpans
from relay.consumers.confirm.transaction import Confirmation
from relay.consumers.returns.decoding import DecoderUnavailableError, decoder_for
from relay.consumers.returns.fold import Outcome, Statuses
from relay.consumers.returns.reader import ReturnReader
from relay.consumers.returns.trimming import trimming
from relay.kafka.consumer.blocked import BlockedPartitions
from relay.kafka.consumer.lane_connections import lane_connections
from relay.kafka.consumer.loop import Loop
from relay.kafka.consumer.offset_store import OffsetStore
from relay.kafka.consumer.stoppable_calls import StoppableCalls
from relay.kafka.service import RecordedService
from relay.orders.catalog import FlowTableError, as_far_as_known, orders_table, with_key_column
from relay.orders.rights import function_name
from relay.runtime.backoff import Backoff
from relay.runtime.database import DATABASE_FAILURES, DatabaseRefusedError, connect
from relay.runtime.failure_code import failure_code
from relay.runtime.flow import ApplyColumns, ApplyFunction, Flow
from relay.runtime.flow_record import as_recorded
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.migrations import require_schema
from relay.runtime.outage import JOINED_WITHIN_SECONDS, OutageLog
from relay.runtime.process import ProcessRecord
from relay.runtime.progress_mark import LIMIT_SECONDS, ProgressMark
from relay.runtime.testpoints import TestPoint, nothing
from relay.telemetry.metrics import Metrics
from relay.telemetry.tracing import Tracing

log = structlog.get_logger(__name__)

CONNECTION_NAME: Final = "relay-confirm"

# PostgreSQL 17 and newer. A client that is frozen between preparing a statement and executing it is
# not "idle in transaction", but "active", and would keep its locks for as long as it is frozen.
_LIMIT_TRANSACTIONS: Final = """
SELECT set_config(name, $1, false) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'
"""
_WAITED_OUT: Final = (*DATABASE_FAILURES, DatabaseBlockedError, FlowTableError)


@dataclass(slots=True)
class ConfirmService(RecordedService):
    """One confirmation consumer.

    Attributes:
        state: for `relay status` and /readyz: starting, connecting, joining, active, waiting (for
            database, broker or schema registry), blocked (the database refuses everything),
            stopped.
        blocked: partitions that wait, and why; the others go on.
    """

    log = log
    dsn: str | None
    kafka: KafkaConnection
    flow: Flow
    options: ConfirmOptions
    tracing: Tracing
    stop: asyncio.Event
    metrics: Metrics | None = None
    test_point: TestPoint = nothing
    process: ProcessRecord = field(default_factory=lambda: ProcessRecord("confirm"))
    state: str = "starting"
    blocked: BlockedPartitions = field(default_factory=BlockedPartitions)
    mark: ProgressMark = field(init=False)
    room: QuarantineRoom = field(init=False)
    outages: OutageLog = field(init=False)
    report: Report = field(init=False)
    _streak: Streak = field(default_factory=Streak)
    _waiting_for: str | None = None
    _failure_code: str | None = None
    _worked: bool = False
    _broker_took_us: bool = False
    _refused_at: float = -inf
    _done_at_refusal: int = 0
    _without_registry: bool = False

    def __post_init__(self) -> None:
        flow, client_id = self.flow, self.options.session.client_id
        self.process.flow = as_recorded(flow)
        self.outages = OutageLog(self.process)
        # One statement may take that long, and the loop waits for it.
        self.mark = ProgressMark(LIMIT_SECONDS + self._longest_seconds)
        self.room = QuarantineRoom(self.options.quarantine_rows, self.options.quarantine_bytes)
        spans = ReturnSpans.of(
            self.tracing,
            flow.returns_topic,
            group=flow.confirm_group,
            client_id=client_id,
            server=self.kafka.first_broker,
        )
        self.report = Report(spans, self.metrics, flow.terminal_statuses, self.test_point)
        if self.metrics is not None:
            confirm = self.metrics.confirm
            confirm.begin(flow.name, flow.deadlines)
            confirm.active.set_function(lambda: int(self.ready))
            confirm.partitions_blocked.set_function(lambda: len(self.blocked.reasons()))
            confirm.quarantine_full.set_function(lambda: int(self.room.full))

    @property
    def stalled_seconds(self) -> float | None:
        """For how long it has made no progress, if that is too long."""
        return self.mark.stalled_seconds()

    @property
    def ready(self) -> bool:
        """Whether it does its work now."""
        return self.state == "active"

    def detail(self) -> Mapping[str, Any]:
        """Return what `relay status` shows of this process."""
        return {
            "state": self.state,
            "waiting_for": self.waiting_for,
            "blocked_partitions": self.blocked.reasons(),
            "quarantine_full": self.room.full,
            "group": self.flow.confirm_group,
            **self.report.detail(),
        }

    async def run(self) -> None:
        """Apply returns until asked to stop.

        Raises:
            FlowTableError: the flow names what the database does not have.
            SchemaVersionError: the database's schema is not this program's.
            DatabaseRefusedError, KafkaSettingsError, KafkaRefusedError, SettingsError: the settings
                cannot work.
        """
        decoder_for(self.flow.decoding)
        await self._live(self._connections)

    async def _connections(self) -> None:
        """Work on one database connection after the other."""
        attempt, waiter = 0, StoppableCalls(self.stop)
        while not self.stop.is_set():
            self.mark.turn()
            before, backoff = self.report.counts.total(), self.options.away_backoff
            try:
                await self._connection()
            except DecoderUnavailableError as error:
                backoff = self._wait_for_registry(error)
            except _WAITED_OUT as error:
                backoff = self._wait_for_database(error)
            attempt = 0 if self.report.counts.total() > before else attempt + 1
            if not self.stop.is_set():
                await waiter.pause(backoff.delay_seconds(attempt))

    def _wait_for_database(self, error: Exception) -> Backoff:
        """Note what is waited for, and return how; raise what waiting cannot mend."""
        if isinstance(error, DatabaseRefusedError | FlowTableError) and not self._worked:
            raise error  # settings that never worked
        if classify(error) is Failure.AWAY:
            self._lost("database", error)
            return self.options.away_backoff
        self.state, self._waiting_for = "blocked", f"the database: {described(error)}"
        self._failure_code = failure_code(error, "database")
        # It is away for this work, although it answers.
        said = self.outages.began("database", error)
        self._refused_at, self._done_at_refusal = time.monotonic(), self.report.counts.total()
        if said:
            log.error("returns_refused_by_database", error=described(error))
        return self.options.blocked_backoff

    def _wait_for_registry(self, error: DecoderUnavailableError) -> Backoff:
        """Note that returns came that cannot be read now; over once some were handled."""
        self._lost("registry", error)
        self._without_registry = True
        self._refused_at, self._done_at_refusal = time.monotonic(), self.report.counts.total()
        return self.options.blocked_backoff

    def _refused_lately(self) -> bool:
        """Tell whether the database's last refusal still stands: a new connection proves nothing.

        It is over once returns were handled, or when it did not come back within a while.
        """
        handled = self.report.counts.total() > self._done_at_refusal
        return not handled and time.monotonic() - self._refused_at < JOINED_WITHIN_SECONDS

    @property
    def failure_code(self) -> str | None:
        """The code of what it waits for; None: it does its work."""
        if self.state in ("waiting", "blocked"):
            return self._failure_code
        if self._refused_lately():
            return self._failure_code
        if self.state == "active":
            self._back("database")
            if self._without_registry:
                self._back("registry")
                self._without_registry = False
        return None

    async def _connection(self) -> None:
        self.state = "connecting"
        session = self.options.session
        async with lane_connections(
            self._connect, session.connections, self.stop, session.drain_seconds
        ) as connections:
            await require_schema(connections[0])
            lanes = await self._lanes(connections)
            if not self._refused_lately():
                self._back("database")
            self._worked = True
            self.state, self._waiting_for = "joining", f"the group {self.flow.confirm_group}"
            await self._loop().run(lanes, self.stop)

    async def _connect(self) -> asyncpg.Connection:
        connection = await connect(
            self.dsn,
            CONNECTION_NAME,
            command_timeout_seconds=self.options.statement_seconds,
            server_settings=self._server_settings(),
        )
        try:
            await connection.execute(_LIMIT_TRANSACTIONS, str(int(self._longest_seconds * 1000)))
        except BaseException:
            connection.terminate()
            raise
        return connection

    @property
    def _longest_seconds(self) -> float:
        return self.options.statement_seconds + self.options.frozen_seconds

    def _server_settings(self) -> dict[str, str]:
        frozen_ms = int(self.options.frozen_seconds * 1000)
        return {
            "idle_in_transaction_session_timeout": str(frozen_ms),
            # Planned for the arrays at hand: a plan made while the inbox was empty would scan it
            # for ever.
            "plan_cache_mode": "force_custom_plan",
            "jit": "off",
            # A batch's rows are named one by one. By its costs the planner rather reads a small
            # table whole.
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
        }

    async def _lanes(self, connections: Sequence[asyncpg.Connection]) -> Lanes:
        written = isinstance(self.flow.apply, ApplyColumns)
        known = with_key_column if written else as_far_as_known
        flow = await known(connections[0], self.flow)
        offsets = OffsetStore(flow.confirm_group, flow.returns_topic, self.process.instance)
        reader = ReturnReader(flow)
        how = BesideCanaries(await applier(connections[0], self.flow))
        trim = trimming(flow.max_return_bytes)
        confirmation = Confirmation(
            reader, how, offsets, trim, self.room, names_differ=flow.names_differ
        )
        batch_records, waiting = self.options.session.batch_records, Waiting()
        return Lanes(
            [
                Returns(one, confirmation, self.report, self._streak, batch_records, waiting)
                for one in connections
            ]
        )

    def _loop(self) -> Loop:
        flow = self.flow
        return Loop(
            self.kafka,
            flow.returns_topic,
            flow.confirm_group,
            self.options.session,
            self,
            self.blocked,
            self.mark.turn,
        )

    def _described(self, error: BaseException) -> str:
        return described(error)


async def applier(connection: asyncpg.Connection, flow: Flow) -> Applier:
    """Choose how returns are applied, and check it against the database.

    Raises:
        FlowTableError: the flow names what the database does not have.
    """
    statuses = Statuses(flow.all_ranks, flow.terminal_statuses)
    if isinstance(flow.apply, ApplyColumns):
        return ColumnsApplier(statuses, await orders_table(connection, flow))
    if isinstance(flow.apply, ApplyFunction):
        name = await function_name(connection, flow.apply.function)
        return FunctionApplier(statuses, name)
    observed = Statuses(flow.status_ranks, flow.terminal_statuses, Outcome.OBSERVED)
    return Observer(observed, flow.initial_status, flow.confirm_group, flow.others.groups)
