"""Hop 2: the loop of an active relay: read ahead, send, and move the checkpoint in order.

Invariant: the checkpoint covers a page only after every record of it, and of the pages before it,
was acknowledged or parked. A failure anywhere ends the whole run with its error: nothing is sent
after it, and the next run begins at the checkpoint. Asked to stop, it reads no more, waits for the
acknowledgements under way, and writes the checkpoint.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog
from aiokafka.errors import KafkaError

from relay.publish.batch import Batch
from relay.publish.checkpoint import CheckpointWriter, Delivery, Parked
from relay.publish.cursor import OutboxCursor
from relay.publish.dispatch import Dispatcher, Prepared
from relay.publish.errors import LeaseLostError, TopicWaitError
from relay.publish.lease import Lease
from relay.publish.meter import Meter
from relay.publish.options import PublishOptions
from relay.publish.pacing import Pace
from relay.publish.page import Page
from relay.publish.parking import asked_for, leaving, still_parked
from relay.publish.publisher import EncodedBatch, Publisher
from relay.publish.spans import SendSpans, SentBatch
from relay.publish.testpoints import TestPoint
from relay.publish.topics import Topics
from relay.publish.window import Position
from relay.runtime.backoff import Backoff

_LOG: Final = structlog.get_logger("relay.publish")
_IDLE_CHECKPOINT_SECONDS: Final = 5.0
_RELEASE_SECONDS: Final = 1.0


@dataclass(slots=True)
class _Underway:
    """A page that was handed over."""

    after: Position
    acknowledgements: list[asyncio.Future[Delivery]]
    parked: list[Parked]
    released: list[int]

    @property
    def done(self) -> bool:
        return all(future.done() for future in self.acknowledgements)


@dataclass(slots=True)
class Progress:
    """What the relay has done since it started, for status and metrics."""

    published: int = 0
    parked: int = 0
    released: int = 0
    pages: int = 0
    reads: int = 0


@dataclass(slots=True)
class Pipeline:
    """One run of an active relay, from one checkpoint.

    Attributes:
        writing: held while the writer's connection is in use.
        waits: told what a page waits for before it can be sent, and with None that it no longer
            does.
    """

    cursor: OutboxCursor
    dispatcher: Dispatcher
    publisher: Publisher
    topics: Topics
    writer: CheckpointWriter
    writing: asyncio.Lock
    lease: Lease
    options: PublishOptions
    progress: Progress
    meter: Meter
    spans: SendSpans
    waits: Callable[[BaseException | None], None]
    test_point: TestPoint
    _underway: deque[_Underway] = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _room: asyncio.Event = field(default_factory=asyncio.Event)
    _unwritten: Position | None = None
    _failure: BaseException | None = None
    _partition_counts: dict[str, int] = field(default_factory=dict)
    _look_for_releases_at: float = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop` is set, then drain.

        Raises:
            ExceptionGroup: of what ended the run: ProducerBrokenError, LeaseLostError, asyncpg's.
        """
        async with asyncio.TaskGroup() as group:
            commits = group.create_task(self._commit_pages())
            wakes = group.create_task(self._wake_at(stop))
            await self._read_pages(stop)
            await self._drain()
            commits.cancel()
            wakes.cancel()

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._room.set()

    async def _read_pages(self, stop: asyncio.Event) -> None:
        pace = Pace(self.options.poll_seconds, self.options.idle_poll_seconds)
        while not stop.is_set():
            if len(self._underway) >= self.options.pages_in_flight:
                self._room.clear()
                await self._room.wait()
                continue
            await self._release(stop)
            page = await self.cursor.next_page()
            self.progress.reads += 1
            self.meter.read(page.created_at)
            if page.ids:
                await self._hand_over(page, stop)
            elif not self._underway:
                self._unwritten = page.after
            pace = pace.after_read(len(page.ids))
            if not self.cursor.in_window:
                await asyncio.sleep(pace.pause_seconds)

    async def _hand_over(
        self, page: Page, stop: asyncio.Event, released: list[int] | None = None
    ) -> None:
        await self.test_point("after_read")
        await self._unpark(page)
        if not await self._topics_ready(page, stop):
            return
        prepared = self.dispatcher.prepare(page, self._partition_counts)
        await self.test_point("before_send")
        if self.lease.left_seconds() <= 0:
            raise LeaseLostError("could not renew the lease in time")
        futures = [self._send(page, prepared, *one) for one in prepared.batches]
        self._unwritten = None
        self._underway.append(_Underway(page.after, futures, prepared.parked, released or []))
        self._changed.set()

    async def _unpark(self, page: Page) -> None:
        """Ask again of the parked orders in a page: what held one may have been discarded."""
        parked = self.dispatcher.parked_orders
        if not parked or parked.isdisjoint(page.keys):
            return
        pending = {row.aggregate_id.encode() for one in self._underway for row in one.parked}
        asked = parked.intersection(page.keys) - pending
        parked -= asked - await still_parked(self.cursor.connection, list(asked))

    async def _topics_ready(self, page: Page, stop: asyncio.Event) -> bool:
        """Wait until every topic of the page can be sent to; False: asked to stop meanwhile."""
        backoff, attempt = Backoff(0.2, 5.0), 0
        while not stop.is_set():
            try:
                for topic in self.dispatcher.topics(page):
                    await self._know(topic)
            except (TopicWaitError, KafkaError, OSError, TimeoutError) as error:
                self.waits(error)
                await _pause(stop, backoff.ceiling_seconds(attempt))
                attempt += 1
            else:
                if attempt:
                    self.waits(None)
                return True
        return False

    async def _know(self, topic: str) -> None:
        count = await self.topics.partition_count(topic)
        known = self._partition_counts.get(topic)
        if known is None:
            self.dispatcher.sizing.said(topic, await self.topics.largest_batch_bytes(topic))
        elif known != count:
            # Orders move to other partitions: what was sent must be there before what comes next.
            _LOG.warning("partitions_changed", topic=topic, before=known, now=count)
            await self._empty()
        self._partition_counts[topic] = count

    def _send(
        self, page: Page, prepared: Prepared, batch: Batch, encoded: EncodedBatch
    ) -> asyncio.Future[Delivery]:
        future = self.publisher.hand_over(batch, encoded)
        future.add_done_callback(partial(self._tell, SentBatch.of(page, prepared.trace, batch)))
        future.add_done_callback(self._acknowledged)
        return future

    def _tell(self, sent: SentBatch, future: asyncio.Future[Delivery]) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        self.meter.acknowledged(sent.topic, sent.created_at)
        self.spans.acknowledged(sent, future.result().base_offset)

    def _acknowledged(self, future: asyncio.Future[Delivery]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            self._failure = self._failure or error
        if error is not None or not self._underway or self._underway[0].done:
            self._changed.set()

    async def _commit_pages(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_IDLE_CHECKPOINT_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                await self._write_idle()
                continue
            self._changed.clear()
            if self._failure is not None:
                raise self._failure
            ready = self._done_pages()
            if ready:
                await self.test_point("after_send_before_checkpoint")
                await self._write(ready)
                await self.test_point("after_checkpoint")

    def _done_pages(self) -> list[_Underway]:
        """Return the pages at the head that are acknowledged; they still count as under way."""
        ready: list[_Underway] = []
        for page in self._underway:
            if not page.done:
                break
            ready.append(page)
        return ready

    async def _write(self, ready: list[_Underway]) -> None:
        deliveries = [future.result() for page in ready for future in page.acknowledgements]
        parked = [row for page in ready for row in page.parked]
        released = [outbox_id for page in ready for outbox_id in page.released]
        async with self.writing:
            await self.writer.advance(ready[-1].after, deliveries, parked, released)
        for _page in ready:
            self._underway.popleft()
        self.dispatcher.sizing.forget([row.outbox_id for row in parked])
        self._room.set()
        self._changed.set()
        self.progress.pages += len(ready)
        self.progress.parked += len(parked)
        self.meter.parked([row.reason for row in parked])
        self.progress.released += len(released)
        self.progress.published += sum(len(d.outbox_ids) for d in deliveries)

    async def _write_idle(self) -> None:
        """Move the checkpoint over windows without rows: now and then, nothing depends on it."""
        position = self._unwritten
        if position is not None and not self._underway:
            self._unwritten = None
            async with self.writing:
                await self.writer.advance(position, (), ())

    async def _release(self, stop: asyncio.Event) -> None:
        """Send what an operator released, before anything newer of the same orders is read."""
        now = time.monotonic()
        if not self.dispatcher.parked_orders or now < self._look_for_releases_at:
            return
        self._look_for_releases_at = now + _RELEASE_SECONDS
        orders = await asked_for(self.cursor.connection)
        if not orders:
            return
        # What is under way may park more of the same orders.
        await self._empty()
        async with self.writing:
            outbox_ids = await leaving(self.writer.connection, orders, self.options.page_rows)
        if not outbox_ids:
            return
        page = await self.cursor.rows(outbox_ids, self.writer.checkpoint.position)
        self.dispatcher.parked_orders -= set(page.keys)
        await self._hand_over(page, stop, list(page.ids))
        await self._empty()
        # Those with more to wait for are parked still.
        keys = list(set(page.keys))
        self.dispatcher.parked_orders |= await still_parked(self.cursor.connection, keys)

    async def _empty(self) -> None:
        """Wait until nothing is under way."""
        while self._underway:
            self._room.clear()
            await self._room.wait()

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self.options.drain_seconds):
                await self._empty()
                await self._write_idle()
        except TimeoutError:
            pages = len(self._underway)
            _LOG.warning("stopped_undrained", pages=pages, consequence="they are sent again")


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
