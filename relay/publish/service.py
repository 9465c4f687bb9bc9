"""Hop 2's service: waits for its turn, publishes, and begins again after every failure.

Invariant: whatever was lost (a connection, the lease, the producer), the next run begins with the
checkpoint as the database has it now, never with a position kept in memory: after a failover ids
and transaction numbers are issued again. It tries for as long as it takes and says what it waits
for; it gives up only where going on would lose events (a restored database).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import structlog
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from relay.publish.batch import Limit
from relay.publish.checkpoint import CheckpointWriter
from relay.publish.cursor import READER_SETTINGS, OutboxCursor
from relay.publish.dispatch import Dispatcher, Sizing
from relay.publish.errors import (
    LeaseLostError,
    ProducerBrokenError,
    RecordRefusedError,
    ServersDifferError,
)
from relay.publish.lease import WRITER_NAME, Lease, Taken, holder
from relay.publish.options import PublishOptions
from relay.publish.parking import parked_orders
from relay.publish.pipeline import Pipeline, Progress
from relay.publish.publisher import Publisher
from relay.publish.record import RecordEncoder
from relay.publish.server import ServerState, refuse_two_servers, server_state
from relay.publish.spans import SendSpans
from relay.publish.testpoints import TestPoint, nothing
from relay.runtime.backoff import Backoff
from relay.runtime.database import DatabaseUnreachableError, connect
from relay.runtime.flow import Flow
from relay.runtime.heartbeat import Heartbeat, stop_reason
from relay.runtime.kafka import KafkaConnection
from relay.runtime.outage import OutageLog, Resource
from relay.runtime.process import ProcessRecord
from relay.telemetry.tracing import Tracing

_LOG: Final = structlog.get_logger("relay.publish")
_STANDBY_SECONDS: Final = 0.5
_CLOSE_SECONDS: Final = 5.0
# Synchronous commit would make every checkpoint wait for the disk; a checkpoint lost in a crash of
# the server only means that rows are sent again, and it cannot be lost without what came after it.
_WRITER_SETTINGS: Final = {"synchronous_commit": "off", "jit": "off"}


@dataclass(slots=True)
class _Connections:
    reader: asyncpg.Connection
    writer: asyncpg.Connection
    server: ServerState


@dataclass(slots=True)
class RelayService:
    """One relay process."""

    dsn: str | None
    kafka: KafkaConnection
    flow: Flow
    options: PublishOptions
    tracing: Tracing
    stop: asyncio.Event
    test_point: TestPoint = nothing
    process: ProcessRecord = field(default_factory=lambda: ProcessRecord("relay"))
    state: str = "starting"
    waiting_for: str | None = None
    epoch: int = 0
    progress: Progress = field(default_factory=Progress)
    outages: OutageLog = field(init=False)
    _sizing: Sizing = field(init=False)

    def __post_init__(self) -> None:
        self.outages = OutageLog(self.process)
        self._sizing = Sizing(Limit(self.options.batch_bytes))

    def detail(self) -> Mapping[str, Any]:
        """Return what `relay status` shows of this process."""
        return {
            "state": self.state,
            "waiting_for": self.waiting_for,
            "epoch": self.epoch,
            "published": self.progress.published,
            "parked": self.progress.parked,
        }

    async def run(self) -> None:
        """Publish until asked to stop.

        Raises:
            RestoredDatabaseError: going on would lose events.
            DatabaseRefusedError, KafkaSettingsError: the settings cannot work.
        """
        beat = Heartbeat(
            self.dsn, self.process, self.outages, detail=self.detail, noticed=_LOG.warning
        )
        beating = asyncio.create_task(beat.run(self.stop))
        try:
            await self._sessions()
        except BaseException as error:
            await self._end(beating, beat, type(error).__name__)
            raise
        await self._end(beating, beat, stop_reason(self.stop))

    async def _end(self, beating: asyncio.Task[None], beat: Heartbeat, reason: str) -> None:
        self.state = "stopped"
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await beat.farewell(reason)

    async def _sessions(self) -> None:
        backoff, attempt = Backoff(0.05, 5.0), 0
        while not self.stop.is_set():
            published = self.progress.published
            try:
                await self._session()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                self._lost("database", error)
            except (DatabaseUnreachableError, ServersDifferError) as error:
                self._lost("database", error)
            except LeaseLostError as error:
                self.state = "standby"
                _LOG.warning("lease_lost", error=str(error))
            attempt = 0 if self.progress.published > published else attempt + 1
            await self._pause(backoff.delay_seconds(attempt))

    def _lost(self, resource: Resource, error: BaseException) -> None:
        self.state, self.waiting_for = "waiting", f"the {resource}: {error}"
        if self.outages.began(resource, error):
            _LOG.warning("waiting", resource=resource, error=str(error) or repr(error))

    def _back(self, resource: Resource) -> None:
        seconds = self.outages.ended(resource)
        if seconds is not None:
            _LOG.info("back", resource=resource, away_seconds=round(seconds, 3))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.stop.wait()
        except TimeoutError:
            return

    async def _session(self) -> None:
        """Connect, wait for the lease, and publish while this relay holds it."""
        async with AsyncExitStack() as stack:
            connections = await self._connect(stack)
            self._back("database")
            lease = Lease(
                connections.writer,
                self.options.shard,
                str(self.process.process_id),
                self.options.lease_seconds,
            )
            taken = await self._wait_for_lease(lease, connections)
            while taken is not None and not self.stop.is_set():
                self.epoch = lease.epoch
                done = await self._active(lease, taken, connections)
                if done:
                    break
                # The epoch rises, so that nothing of the failed run can still write.
                taken = await lease.take(connections.server)
            if taken is not None:
                await lease.release()

    async def _connect(self, stack: AsyncExitStack) -> _Connections:
        self.state = "connecting"
        reader = await connect(self.dsn, "relay-run-reader", server_settings=READER_SETTINGS)
        stack.callback(reader.terminate)
        writer = await connect(self.dsn, WRITER_NAME, server_settings=_WRITER_SETTINGS)
        stack.callback(writer.terminate)
        server = await server_state(writer)
        refuse_two_servers(await server_state(reader), server)
        return _Connections(reader, writer, server)

    async def _wait_for_lease(self, lease: Lease, connections: _Connections) -> Taken | None:
        told = False
        while not self.stop.is_set():
            try:
                taken = await lease.take(connections.server)
            except asyncpg.LockNotAvailableError:
                taken = None
            if taken is not None:
                _LOG.info("active", epoch=lease.epoch, shard=lease.shard)
                return taken
            self.state, self.waiting_for = "standby", "the lease"
            if not told:
                told = True
                _LOG.info("standby", held_by=await holder(connections.writer, lease.shard))
            await self._pause(_STANDBY_SECONDS)
        return None

    async def _active(self, lease: Lease, taken: Taken, connections: _Connections) -> bool:
        """Publish from the checkpoint; False: the producer broke, begin again at the checkpoint."""
        publisher = await self._publisher(lease)
        if publisher is None:
            return True
        try:
            pipeline = await self._pipeline(lease, taken, connections, publisher)
            self.state, self.waiting_for = "active", None
            await pipeline.run(self.stop)
        except BaseExceptionGroup as group:
            self._handle(group)
            return False
        finally:
            await publisher.close(_CLOSE_SECONDS)
        return True

    def _handle(self, group: BaseExceptionGroup[BaseException]) -> None:
        """Raise what ends the session; note what only ends the producer."""
        for error in group.exceptions:
            if not isinstance(error, ProducerBrokenError):
                raise error
        for error in group.exceptions:
            _LOG.warning("producer_broken", error=str(error))
            if isinstance(error, RecordRefusedError):
                self._sizing.refused(error.topic, error.outbox_ids, error.size_bytes)

    async def _pipeline(
        self, lease: Lease, taken: Taken, connections: _Connections, publisher: Publisher
    ) -> Pipeline:
        options, checkpoint = self.options, taken.checkpoint
        cursor = OutboxCursor(
            connections.reader,
            checkpoint.position,
            page_rows=options.page_rows,
            page_bytes=options.page_bytes,
            hint_id=checkpoint.hint_id,
        )
        source = options.source or f"/{self.flow.name}"
        dispatcher = Dispatcher(
            self.flow.events,
            RecordEncoder(source, options.dataschemas, lease.epoch),
            self.tracing.identities,
            self._sizing,
            await parked_orders(connections.writer),
        )
        return Pipeline(
            cursor,
            dispatcher,
            publisher,
            CheckpointWriter(connections.writer, checkpoint),
            asyncio.Lock(),
            lease,
            options,
            self.progress,
            SendSpans(self.tracing, "relay"),
            self.test_point,
        )

    async def _publisher(self, lease: Lease) -> Publisher | None:
        """Start a producer, for as long as it takes; None: asked to stop meanwhile."""
        backoff, attempt = Backoff(0.1, 5.0), 0
        timeout_seconds = self.options.request_timeout_seconds
        while not self.stop.is_set():
            client = AIOKafkaClient(
                **self.kafka.client_options("relay"),
                request_timeout_ms=int(timeout_seconds * 1000),
            )
            publisher = Publisher(client, timeout_seconds, 2 * timeout_seconds, self._troubled)
            try:
                await publisher.start()
            except (KafkaError, OSError, TimeoutError) as error:
                self._lost("broker", error)
                await publisher.close(_CLOSE_SECONDS)
                await self._pause(backoff.delay_seconds(attempt))
                await lease.renew()
                attempt += 1
            else:
                self._back("broker")
                return publisher
        return None

    def _troubled(self, error: BaseException | None) -> None:
        """Note that the broker does not take a batch, or that it does again."""
        if error is None:
            self._back("broker")
            self.state, self.waiting_for = "active", None
        else:
            self._lost("broker", error)


async def run_relay(  # noqa: PLR0917 - the contract with whoever wires it
    dsn: str | None,
    kafka: KafkaConnection,
    flow: Flow,
    options: PublishOptions,
    telemetry: Tracing,
    stop: asyncio.Event,
    *,
    test_point: TestPoint = nothing,
) -> None:
    """Run the relay until `stop` is set: the one entry of this package.

    Raises:
        RestoredDatabaseError: going on would lose events.
        DatabaseRefusedError, KafkaSettingsError: the settings cannot work.
    """
    await RelayService(dsn, kafka, flow, options, telemetry, stop, test_point).run()
