"""Hop 2: what a relay does while it holds the lease: producer after producer, from the checkpoint.

Invariant: every producer begins with the checkpoint as the database has it at that moment, under a
new epoch, so that nothing of a failed run can still write. The lease is renewed throughout, also
while the broker is away; a relay that cannot renew it in time ends its tenure by its own clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import asyncpg
import structlog
from aiokafka.client import AIOKafkaClient

from relay.kafka.failures import BROKER_FAILURES
from relay.kafka.refusal import refusal
from relay.publish.errors import (
    LeaseLostError,
    ProducerBrokenError,
    RecordRefusedError,
    TopicForbiddenError,
)
from relay.publish.meter import Meter
from relay.publish.options import PublishOptions
from relay.publish.ownership.deference import LOOK_SECONDS, Deference
from relay.publish.ownership.lease import Lease, Taken
from relay.publish.pipeline import Pipeline
from relay.publish.reading.checkpoint import CheckpointWriter
from relay.publish.reading.cursor import OutboxCursor
from relay.publish.reading.parked_orders import ParkedOrders
from relay.publish.reading.parking import learn_types, parked_orders
from relay.publish.reading.proven import ProvenPosition
from relay.publish.reading.replays import Replays
from relay.publish.sending.commits import Commits, Progress
from relay.publish.sending.compression import Codec
from relay.publish.sending.dispatch import Dispatcher
from relay.publish.sending.in_flight_pages import InFlightPages
from relay.publish.sending.known_topics import KnownTopics
from relay.publish.sending.publisher import Publisher
from relay.publish.sending.sizing import Sizing
from relay.publish.sending.spans import SendSpans
from relay.publish.sending.topics import Topics
from relay.publish.sending.wire_form import WireEncoder
from relay.runtime.backoff import Backoff
from relay.runtime.flow import Flow
from relay.runtime.flows import Routes
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.process import client_id
from relay.runtime.shutdown import stopped_within
from relay.runtime.testpoints import TestPoint
from relay.telemetry.tracing import Tracing

_LOG: Final = structlog.get_logger("relay.publish")
_CLOSE_SECONDS: Final = 5.0
_LARGE_PAGES: Final = 2


class Watcher(Protocol):
    """Who is told how the tenure goes."""

    def active(self, epoch: int) -> None:
        """The broker is reached, and rows are being published."""

    def waits(self, error: BaseException | None) -> None:
        """The broker is away or refuses, and is asked again; None: no longer."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a relay is to do, the same for all its tenures.

    Attributes:
        live: False: only what is replayed.
        proven: of a witness's leader: what the checkpoint follows.
        one_window: only the one that the checkpoint has open.
    """

    kafka: KafkaConnection
    flows: Sequence[Flow]
    options: PublishOptions
    tracing: Tracing
    test_point: TestPoint
    sizing: Sizing
    progress: Progress
    meter: Meter
    live: bool = True
    proven: ProvenPosition | None = None
    one_window: bool = False


@dataclass(slots=True)
class Tenure:
    """The time between taking the lease and losing it, or giving it back."""

    work: Work
    reader: asyncpg.Connection
    writer: asyncpg.Connection
    lease: Lease
    watcher: Watcher
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, taken: Taken, stop: asyncio.Event) -> None:
        """Publish until asked to stop; the lease is then given back.

        Raises:
            LeaseLostError: another relay is active, or may be.
            RestoredDatabaseError: going on would lose events.
            asyncpg's errors, OSError: a connection is lost.
        """
        try:
            async with asyncio.TaskGroup() as group:
                renewing = group.create_task(self._renew())
                await self._produce(taken, stop)
                renewing.cancel()
        except BaseExceptionGroup as errors:
            raise _first(errors) from errors
        await self.lease.release()

    async def until_relay_waits(
        self, deference: Deference, stop: asyncio.Event, leave: asyncio.Event
    ) -> None:
        """Set `leave` once a relay is there that wants the lease, or `stop` is set."""
        try:
            while not await stopped_within(stop, LOOK_SECONDS):
                async with self._writing:
                    if await deference.relay_waits(self.writer):
                        _LOG.info("lease_left_to_a_relay", epoch=self.lease.epoch)
                        return
        finally:
            leave.set()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.lease.seconds / 4)
            try:
                async with asyncio.timeout(max(0.001, self.lease.left_seconds())), self._writing:
                    await self.lease.renew()
            except TimeoutError as error:
                self._cut()
                raise LeaseLostError("could not renew the lease in time") from error
            except LeaseLostError:
                self._cut()
                raise

    def _cut(self) -> None:
        """End both connections: what waits on them must not wait for a frozen server."""
        self.reader.terminate()
        self.writer.terminate()

    async def _produce(self, taken: Taken, stop: asyncio.Event) -> None:
        backoff, attempt = Backoff(0.05, 5.0), 0
        while not stop.is_set():
            self.work.meter.mark.turn()
            published = self.work.progress.published
            try:
                await self._with_producer(taken, stop)
            except ProducerBrokenError as error:
                self._learn(error)
            if stop.is_set():
                return
            attempt = 0 if self.work.progress.published > published else attempt + 1
            await stopped_within(stop, backoff.delay_seconds(attempt))
            async with self._writing:
                again = await self.lease.take()
            if again is None:
                raise LeaseLostError("the lease is another relay's now")
            taken = again
            await self.work.test_point("producer_rebuilt")

    def _learn(self, error: ProducerBrokenError) -> None:
        _LOG.warning("producer_broken", error=str(error))
        self.work.meter.rebuilt()
        if isinstance(error, RecordRefusedError):
            self.work.sizing.refused(error.topic, error.outbox_ids, error.size_bytes)
        else:
            self.watcher.waits(error)

    async def _with_producer(self, taken: Taken, stop: asyncio.Event) -> None:
        publisher = await self._start_publisher(stop)
        if publisher is None:
            return
        pipeline = None
        try:
            pipeline = await self._pipeline(taken, publisher)
            self.watcher.active(self.lease.epoch)
            await pipeline.run(stop)
        except BaseExceptionGroup as errors:
            first = _first(errors)
            if isinstance(first, TopicForbiddenError) and pipeline is not None:
                await pipeline.pause_replay_to(first)
            raise first from errors
        finally:
            await publisher.close(_CLOSE_SECONDS)

    async def _start_publisher(self, stop: asyncio.Event) -> Publisher | None:
        """Start a producer, for as long as it takes; None: asked to stop meanwhile."""
        backoff, attempt = Backoff(0.1, 5.0), 0
        timeout_seconds = self.work.options.request_timeout_seconds
        while not stop.is_set():
            client = AIOKafkaClient(
                **self.work.kafka.client_options(client_id("relay")),
                request_timeout_ms=int(timeout_seconds * 1000),
            )
            publisher = Publisher(client, timeout_seconds, 2 * timeout_seconds, self.watcher.waits)
            try:
                await publisher.start()
            except BROKER_FAILURES as error:
                await publisher.close(_CLOSE_SECONDS)
                self.watcher.waits(await refusal(self.work.kafka) or error)
                await stopped_within(stop, backoff.delay_seconds(attempt))
                attempt += 1
            else:
                return publisher
        return None

    async def _parked_orders(self) -> ParkedOrders:
        if not self.work.live:
            return ParkedOrders()
        async with self._writing:
            await learn_types(self.writer)
        return await parked_orders(self.reader)

    async def _dispatcher(self) -> Dispatcher:
        work, routes = self.work, Routes.of(self.work.flows)
        options = work.options
        return Dispatcher(
            routes,
            WireEncoder(routes, options.source, options.dataschemas, self.lease.epoch),
            work.tracing.identities,
            work.sizing,
            Codec.named(options.compression),
            await self._parked_orders(),
        )

    async def _pipeline(self, taken: Taken, publisher: Publisher) -> Pipeline:
        work, checkpoint = self.work, taken.checkpoint
        options = work.options
        cursor = OutboxCursor(
            self.reader,
            checkpoint.position,
            page_rows=options.page_rows,
            page_bytes=options.page_bytes,
            largest_bytes=options.largest_record_bytes,
            hint_id=checkpoint.hint_id,
        )
        dispatcher = await self._dispatcher()
        pages = options.pages_in_flight
        # Of pages that are full of bytes fewer: each is held twice, and read beside them.
        most_bytes = options.page_bytes * min(pages, _LARGE_PAGES)
        in_flight = InFlightPages(options.page_rows * pages, most_bytes)
        publisher.broken = in_flight.failed
        commits = Commits(
            writer=CheckpointWriter(self.writer, checkpoint),
            writing=self._writing,
            in_flight=in_flight,
            options=options,
            sizing=work.sizing,
            progress=work.progress,
            meter=work.meter,
            test_point=work.test_point,
        )
        return Pipeline(
            cursor=cursor,
            dispatcher=dispatcher,
            publisher=publisher,
            known=KnownTopics(Topics(publisher.client), work.sizing, in_flight, self.watcher.waits),
            in_flight=in_flight,
            commits=commits,
            lease=self.lease,
            options=options,
            spans=SendSpans(
                work.tracing,
                client_id("relay"),
                work.kafka.first_broker,
                options.wait_span_seconds,
            ),
            replays=Replays(
                cursor, options.page_rows, conducted_only=not work.live and work.proven is None
            ),
            test_point=work.test_point,
            live=work.live,
            proven=work.proven,
            one_window=work.one_window,
        )


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that counts: one that ends the tenure before one that ends a producer."""
    flat = list(_flat(errors))
    return next((error for error in flat if not isinstance(error, ProducerBrokenError)), flat[0])


def _flat(errors: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in errors.exceptions:
        found += _flat(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
