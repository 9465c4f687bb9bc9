"""Hop 2's other service: witnesses what somebody else publishes, and begins again after failures.

Invariant: each connection begins with the database's offsets, never with a position kept in memory.
It tries for as long as it takes and says what it waits for; only settings that cannot work end it.
Beside the reading runs the leader (one of all witnesses holds the relay's lease): it moves the
checkpoint over what is proven, keeps partitions and retention, and sends what is replayed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import asyncpg
import structlog

from relay.kafka.consumer.lane_connections import lane_connections
from relay.kafka.consumer.loop import Loop
from relay.kafka.consumer.offset_store import OffsetStore
from relay.kafka.consumer.stoppable_calls import StoppableCalls
from relay.kafka.service import RecordedService
from relay.runtime.database import DATABASE_FAILURES, DatabaseRefusedError, connect
from relay.runtime.flow import Flow
from relay.runtime.flow_record import as_recorded
from relay.runtime.flows import every_topic
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.migrations import require_schema
from relay.runtime.outage import OutageLog
from relay.runtime.process import ProcessRecord
from relay.runtime.publisher_record import become
from relay.runtime.tasks import awaited, background, end
from relay.telemetry.metrics import Metrics
from relay.witness.handling import TopicWitness
from relay.witness.observer import Observer, PublisherNames
from relay.witness.options import WitnessOptions
from relay.witness.report import Report
from relay.witness.testpoints import TestPoint, nothing

log = structlog.get_logger("relay.witness")

CONNECTION_NAME: Final = "relay-witness"
SESSION_SETTINGS: Final = {
    # A batch's rows are named one by one: a plan by their index, whatever the statistics say.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "idle_in_transaction_session_timeout": "10s",
}


class Leader(Protocol):
    """Who keeps the checkpoint, once he holds the lease."""

    @property
    def state(self) -> str:
        """Return what it is doing: `active`, `standby`, ..."""
        ...

    async def run(self) -> None:
        """Work until told to stop, by the witness's own event."""
        ...


@dataclass(slots=True)
class WitnessService(RecordedService):
    """One witness.

    Attributes:
        flows: all of them: an outbox has one publisher.
        names: where the publisher can be looked at.
        leader: runs beside it, until `stop`; None: another process has its duties.
        state: starting, connecting, joining, active, waiting (for database or broker), stopped.
    """

    log = log
    dsn: str | None
    kafka: KafkaConnection
    flows: Sequence[Flow]
    options: WitnessOptions
    names: PublisherNames
    stop: asyncio.Event
    leader: Leader | None = None
    metrics: Metrics | None = None
    test_point: TestPoint = nothing
    process: ProcessRecord = field(default_factory=lambda: ProcessRecord("witness"))
    state: str = "starting"
    outages: OutageLog = field(init=False)
    report: Report = field(init=False)
    _began: asyncio.Event = field(default_factory=asyncio.Event)
    _waiting_for: str | None = None
    _failure_code: str | None = None
    _worked: bool = False
    _broker_took_us: bool = False

    def __post_init__(self) -> None:
        self.process.flow = as_recorded(*self.flows)
        self.outages = OutageLog(self.process)
        self.report = Report(self.metrics)

    @property
    def ready(self) -> bool:
        """Whether it does its work now."""
        return self.state == "active"

    def detail(self) -> Mapping[str, Any]:
        """Return what `relay status` shows of this process."""
        return {
            "state": self.state,
            "waiting_for": self.waiting_for,
            "group": self.options.group,
            "leader": self.leader is not None and self.leader.state == "active",
            "records": dict(self.report.counts),
        }

    async def run(self) -> None:
        """Witness until asked to stop.

        Raises:
            PublisherActiveError, RelayPublishesError: the relay publishes this outbox.
            RestoredDatabaseError: the checkpoint is not of this database.
            SchemaVersionError, DatabaseRefusedError, KafkaSettingsError, KafkaRefusedError: the
                settings cannot work.
        """
        await self._live(self._witness)

    async def _witness(self) -> None:
        """Read, observe and lead side by side; the first that fails for good ends all."""
        work = [awaited(self._connections(), "witness")]
        if self.leader is not None:
            work.append(awaited(self._lead(self.leader), "leader"))
        observer = Observer(self.dsn, self.names, self.options.group, self.outages)
        observing = background(observer.run(self.stop), "observer")
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self.stop.set()
            self._began.set()
            await asyncio.gather(*work, return_exceptions=True)
            await end(observing)
        for task in work:
            task.result()

    async def _connections(self) -> None:
        """Work on one set of database connections after the other."""
        attempt, waiter = 0, StoppableCalls(self.stop)
        while not self.stop.is_set():
            before = self.report.counts.total()
            try:
                await self._connection()
            except (*DATABASE_FAILURES, BaseExceptionGroup) as error:
                self._wait_for_database(_that_counts(error))
            attempt = 0 if self.report.counts.total() > before else attempt + 1
            if not self.stop.is_set():
                await waiter.pause(self.options.away_backoff.delay_seconds(attempt))

    def _wait_for_database(self, error: BaseException) -> None:
        """Note what is waited for; raise what waiting cannot fix."""
        never_worked = isinstance(error, DatabaseRefusedError) and not self._worked
        if never_worked or not isinstance(error, DATABASE_FAILURES):
            raise error
        self._lost("database", error)

    async def _lead(self, leader: Leader) -> None:
        """Lead once the database says that somebody else publishes."""
        await self._began.wait()
        if not self.stop.is_set():
            await leader.run()

    async def _connection(self) -> None:
        self.state = "connecting"
        topics, session = every_topic(self.flows), self.options.session
        each = session.connections
        async with lane_connections(
            self._connect, each * len(topics), self.stop, session.drain_seconds
        ) as connections:
            await require_schema(connections[0])
            if not self._worked:
                why = 'a witness was started with [publisher] kind = "external"'
                who = f"relay witness {self.process.instance}"
                await become(connections[0], "external", who, why)
            self._worked = True
            self._began.set()
            self._back("database")
            self.state, self._waiting_for = "joining", f"the group {self.options.group}"
            async with asyncio.TaskGroup() as group:
                for number, topic in enumerate(topics):
                    own = connections[number * each : (number + 1) * each]
                    group.create_task(self._read(topic, own))

    async def _read(self, topic: str, connections: Sequence[asyncpg.Connection]) -> None:
        offsets = OffsetStore(self.options.group, topic, self.process.instance)
        handler = TopicWitness(
            connections, topic, offsets, self.options, self.report, self.test_point
        )
        loop = Loop(self.kafka, topic, self.options.group, self.options.session, self)
        await loop.run(handler, self.stop)

    async def _connect(self) -> asyncpg.Connection:
        return await connect(
            self.dsn,
            CONNECTION_NAME,
            command_timeout_seconds=self.options.statement_seconds,
            server_settings=SESSION_SETTINGS,
        )


def _that_counts(error: BaseException) -> BaseException:
    """Return what ended the topics' loops: what no waiting fixes before what it does."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    flat = [_that_counts(one) for one in error.exceptions]
    return next((one for one in flat if not isinstance(one, DATABASE_FAILURES)), flat[0])
