"""Hop 2's service: waits for its turn, publishes, and begins again after every failure.

Invariant: whatever was lost (a connection, the lease, the producer), the next run begins with the
checkpoint as the database has it now, never with a position kept in memory: after a failover ids
and transaction numbers are issued again. It tries for as long as it takes and says what it waits
for; it gives up only where going on would lose events (a restored database) or cannot work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import structlog

from relay.kafka.service import RecordedService
from relay.publish.errors import LeaseLostError, ServersDifferError, TopicWaitError
from relay.publish.maintenance.duties import MaintenanceOptions
from relay.publish.maintenance.loop import maintain
from relay.publish.meter import Meter
from relay.publish.options import PublishOptions
from relay.publish.ownership.deference import Deference
from relay.publish.ownership.lease import (
    REPLAY_WRITER_NAME,
    WITNESS_WRITER_NAME,
    WRITER_NAME,
    Lease,
    Taken,
    holder,
)
from relay.publish.ownership.server_identity import note_timeline, refuse_two_servers, server_state
from relay.publish.reading.outbox_sql import READER_SETTINGS
from relay.publish.reading.proven import ProvenPosition
from relay.publish.sending.batch import Limit
from relay.publish.sending.commits import Progress
from relay.publish.sending.sizing import Sizing
from relay.publish.tenure import Tenure, Work
from relay.runtime.backoff import Backoff
from relay.runtime.database import (
    DATABASE_FAILURES,
    DatabaseRefusedError,
    connect,
    is_connection_loss,
)
from relay.runtime.failure_code import failure_code
from relay.runtime.flow import Flow
from relay.runtime.flow_record import as_recorded
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.migrations import require_schema
from relay.runtime.outage import OutageLog
from relay.runtime.process import ProcessRecord
from relay.runtime.publisher_record import refuse_external, refuse_relay
from relay.runtime.repeats import Repeats
from relay.runtime.shutdown import stopped_within
from relay.runtime.tasks import background, end
from relay.runtime.testpoints import TestPoint, nothing
from relay.telemetry.metrics import Metrics
from relay.telemetry.tracing import Tracing

_LOG: Final = structlog.get_logger("relay.publish")
_STANDBY_SECONDS: Final = 0.2
_AWAY: Final = Backoff(0.05, 1.0)  # it goes on within a second of the database's return
_REFUSED: Final = Backoff(0.05, 5.0)
# Synchronous commit would make every checkpoint wait for the disk; a checkpoint lost in a crash of
# the server only means that rows are sent again, and it cannot be lost without what came after it.
_WRITER_SETTINGS: Final = {"synchronous_commit": "off", "jit": "off"}
# Reader and writer: who diagnoses looks for a relay by these.
_NAMES: Final = ("relay-run-reader", WRITER_NAME)
_REPLAY_NAMES: Final = ("relay-replay-reader", REPLAY_WRITER_NAME)
_WITNESS_NAMES: Final = ("relay-witness-reader", WITNESS_WRITER_NAME)
_DATABASE_ERRORS: Final = (*DATABASE_FAILURES, ServersDifferError)


@dataclass(slots=True)
class RelayService(RecordedService):
    """One relay process.

    Attributes:
        flows: all of them: an outbox has one relay.
        live: False: it sends what is replayed and nothing else, and leaves the lease to any relay
            that wants it.
        proven: of a witness's leader, beside `live` False: somebody else publishes, and the
            checkpoint follows what the ledger proves. It holds the lease as a relay does.
        one_window: beside `live`: it publishes the window that the checkpoint has open, and ends:
            what comes after it was handed over to somebody else.
        state: `starting`, `connecting`, `standby`, `active`, `waiting`, `stopped`.
        maintenance: its duties; None: another process has them.
    """

    log = _LOG
    dsn: str | None
    kafka: KafkaConnection
    flows: Sequence[Flow]
    options: PublishOptions
    tracing: Tracing
    stop: asyncio.Event
    test_point: TestPoint = nothing
    metrics: Metrics | None = None
    maintenance: MaintenanceOptions | None = field(default_factory=MaintenanceOptions)
    live: bool = True
    proven: ProvenPosition | None = None
    one_window: bool = False
    process: ProcessRecord = field(default_factory=lambda: ProcessRecord("relay"))
    state: str = "starting"
    epoch: int = 0
    progress: Progress = field(default_factory=Progress)
    outages: OutageLog = field(init=False)
    _meter: Meter = field(init=False)
    _deference: Deference = field(init=False)
    _work: Work = field(init=False)
    _waiting_for: str | None = None
    _failure_code: str | None = None
    _connected_once: bool = False
    _broker_took_us: bool = False
    _repeats: Repeats = field(default_factory=Repeats)

    def __post_init__(self) -> None:
        self.process.flow = as_recorded(*self.flows)
        self.outages = OutageLog(self.process)
        self._meter = Meter(self.metrics)
        sizing = Sizing(
            Limit(self.options.batch_bytes), compressed=self.options.compression != "none"
        )
        self._work = Work(
            self.kafka, self.flows, self.options, self.tracing, self.test_point, sizing,
            self.progress, self._meter, self.live, self.proven, self.one_window,
        )  # fmt: skip
        self._deference = Deference(self.options.shard)
        self._meter.begin(
            self.options.shard, sorted({one for flow in self.flows for one in flow.topics})
        )

    @property
    def ready(self) -> bool:
        """Whether it does its work now: publishes, or stands by for another that does."""
        return self.state == "standby" or (self.state == "active" and not self.progress.failing)

    @property
    def stalled_seconds(self) -> float | None:
        """For how long it has made no progress, if that is too long."""
        return self._meter.mark.stalled_seconds()

    def detail(self) -> Mapping[str, Any]:
        """Return what `relay status` shows of this process."""
        return {
            "state": self.state,
            "waiting_for": self.waiting_for,
            "epoch": self.epoch,
            "published": self.progress.published,
            "parked": self.progress.parked,
            "replayed": self.progress.replayed,
            "released": self.progress.released,
        }

    async def run(self) -> None:
        """Publish until asked to stop.

        Raises:
            RestoredDatabaseError: going on would lose events.
            ExternalPublisherError: somebody else publishes this outbox.
            SchemaVersionError, DatabaseRefusedError, KafkaSettingsError, KafkaRefusedError,
                CompressionMissingError: the settings cannot work.
        """
        await self._live(self._sessions)

    async def _sessions(self) -> None:
        attempt = 0
        while not self.stop.is_set():
            self._meter.mark.turn()
            published, backoff = self.progress.published, _REFUSED
            try:
                await self._session()
            except DatabaseRefusedError as error:
                if not self._connected_once:
                    raise
                self._lost("database", error)
            except _DATABASE_ERRORS as error:
                self._lost("database", error)
                if is_connection_loss(error):
                    backoff = _AWAY
            except LeaseLostError as error:
                self.state = "standby"
                _LOG.warning("lease_lost", error=str(error))
            attempt = 0 if self.progress.published > published else attempt + 1
            await stopped_within(self.stop, backoff.delay_seconds(attempt))

    async def _session(self) -> None:
        """Connect, wait for the lease, and publish while this relay holds it."""
        self.state = "connecting"
        async with AsyncExitStack() as stack:
            names = self._names()
            reader = await connect(self.dsn, names[0], server_settings=READER_SETTINGS)
            stack.callback(reader.terminate)
            writer = await connect(self.dsn, names[1], server_settings=_WRITER_SETTINGS)
            stack.callback(writer.terminate)
            await require_schema(writer)
            await self._refuse_other_publisher(writer)
            refuse_two_servers(await server_state(reader), await server_state(writer))
            self._back("database")
            self._connected_once = True
            owner = str(self.process.process_id)
            lease = Lease(writer, self.options.shard, owner, self.options.lease_seconds)
            tenure = Tenure(self._work, reader, writer, lease, self)
            taken = await self._wait_for_lease(tenure)
            if taken is not None:
                await self._refuse_other_publisher(writer)
                await note_timeline(writer, taken.timeline, taken.old_timeline)
                if self.maintenance is not None:
                    duties = maintain(self.dsn, self.maintenance, self.metrics)
                    stack.push_async_callback(end, background(duties, "upkeep"))
                stop = self.stop
                if self._defers:
                    stop = asyncio.Event()
                    leaving = tenure.until_relay_waits(self._deference, self.stop, stop)
                    stack.push_async_callback(end, background(leaving, "deference"))
                try:
                    await tenure.run(taken, stop)
                finally:
                    self._meter.holds(self.options.shard, self.epoch, active=False)

    @property
    def _defers(self) -> bool:
        """Whether a relay that comes is given the lease."""
        return not self.live and self.proven is None

    def _names(self) -> tuple[str, str]:
        if self.live:
            return _NAMES
        return _REPLAY_NAMES if self.proven is None else _WITNESS_NAMES

    async def _refuse_other_publisher(self, writer: asyncpg.Connection) -> None:
        """Refuse to publish beside somebody else, or to follow somebody who no longer publishes.

        Asked again behind the lease: whoever changes the kind holds its row.

        Raises:
            ExternalPublisherError, RelayPublishesError: it is not this process's turn, for good.
        """
        if self.one_window:
            return
        if self.live:
            await refuse_external(writer)
        elif self.proven is not None:
            await refuse_relay(writer)

    async def _wait_for_lease(self, tenure: Tenure) -> Taken | None:
        told = False
        while not self.stop.is_set():
            taken = None
            self._meter.mark.turn()
            if not self._defers or await self._deference.may_take(tenure.writer):
                with suppress(asyncpg.LockNotAvailableError):
                    taken = await tenure.lease.take()
            if taken is not None:
                return taken
            self.state, self._waiting_for = "standby", "the lease"
            if not told:
                told = True
                _LOG.info("standby", held_by=await holder(tenure.writer, self.options.shard))
            await stopped_within(self.stop, _STANDBY_SECONDS)
        return None

    def active(self, epoch: int) -> None:
        """The broker is reached, and rows are being published."""
        self.broker_back()
        self.epoch = epoch
        self._meter.holds(self.options.shard, epoch, active=True)
        _LOG.info("active", epoch=epoch, shard=self.options.shard)

    def waits(self, error: BaseException | None) -> None:
        """Note that the broker is away or refuses, or (None) that it takes records again.

        Raises:
            KafkaRefusedError: it never took us: settings that never worked.
        """
        self._meter.mark.turn()
        if error is None:
            self.broker_back()
        elif not isinstance(error, TopicWaitError):
            self.broker_away(error)
        elif self.waiting_for != str(error) or self._repeats.due(str(error)):
            self.state, self._waiting_for = "waiting", str(error)
            self._failure_code = failure_code(error, "broker")
            _LOG.warning("waiting", waiting_for=str(error))
