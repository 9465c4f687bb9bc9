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
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from relay.publish.batch import Batch
from relay.publish.checkpoint import CheckpointWriter, Delivery, Parked
from relay.publish.cursor import OutboxCursor
from relay.publish.dispatch import Dispatcher, Prepared
from relay.publish.errors import LeaseLostError
from relay.publish.lease import Lease
from relay.publish.options import PublishOptions
from relay.publish.pacing import Pace
from relay.publish.page import Page
from relay.publish.publisher import EncodedBatch, Publisher
from relay.publish.spans import SendSpans
from relay.publish.testpoints import TestPoint
from relay.publish.window import Position

_IDLE_CHECKPOINT_SECONDS: Final = 5.0


@dataclass(slots=True)
class _Underway:
    """A page that was handed over."""

    after: Position
    acknowledgements: list[asyncio.Future[Delivery]]
    parked: list[Parked]

    @property
    def done(self) -> bool:
        return all(future.done() for future in self.acknowledgements)


@dataclass(slots=True)
class Progress:
    """What the relay has done since it became active, for status and metrics."""

    published: int = 0
    parked: int = 0
    pages: int = 0
    reads: int = 0


@dataclass(slots=True)
class Pipeline:
    """One run of an active relay, from one checkpoint."""

    cursor: OutboxCursor
    dispatcher: Dispatcher
    publisher: Publisher
    writer: CheckpointWriter
    writing: asyncio.Lock
    lease: Lease
    options: PublishOptions
    progress: Progress
    spans: SendSpans
    test_point: TestPoint
    _underway: deque[_Underway] = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _room: asyncio.Event = field(default_factory=asyncio.Event)
    _unwritten: Position | None = None
    _failure: BaseException | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop` is set, then drain.

        Raises:
            ProducerBrokenError, LeaseLostError, asyncpg's errors: the run is over.
        """
        async with asyncio.TaskGroup() as group:
            commits = group.create_task(self._commit_pages())
            renewals = group.create_task(self._renew())
            await self._read_pages(stop)
            await self._drain()
            commits.cancel()
            renewals.cancel()

    async def _read_pages(self, stop: asyncio.Event) -> None:
        pace = Pace(self.options.poll_seconds, self.options.idle_poll_seconds)
        while not stop.is_set():
            while len(self._underway) >= self.options.pages_in_flight:
                self._room.clear()
                await self._room.wait()
            page = await self.cursor.next_page()
            self.progress.reads += 1
            if page.ids:
                await self._hand_over(page)
            elif not self._underway:
                self._unwritten = page.after
            pace = pace.after_read(len(page.ids))
            if not self.cursor.in_window:
                await asyncio.sleep(pace.pause_seconds)

    async def _hand_over(self, page: Page) -> None:
        await self.test_point("after_read")
        counts = {
            topic: await self.publisher.partition_count(topic)
            for topic in self.dispatcher.topics(page)
        }
        prepared = self.dispatcher.prepare(page, counts)
        await self.test_point("before_send")
        if self.lease.left_seconds() <= 0:
            raise LeaseLostError("could not renew the lease in time")
        futures = [self._send(page, prepared, *one) for one in prepared.batches]
        self._unwritten = None
        self._underway.append(_Underway(page.after, futures, prepared.parked))
        self._changed.set()

    def _send(
        self, page: Page, prepared: Prepared, batch: Batch, encoded: EncodedBatch
    ) -> asyncio.Future[Delivery]:
        future = self.publisher.hand_over(batch, encoded)
        future.add_done_callback(self._acknowledged)
        if self.spans.tracing.identities.recording:
            write = partial(self._write_spans, page, prepared, batch, time.time_ns())
            future.add_done_callback(write)
        return future

    def _write_spans(
        self,
        page: Page,
        prepared: Prepared,
        batch: Batch,
        started_ns: int,
        future: asyncio.Future[Delivery],
    ) -> None:
        if future.cancelled() or future.exception() is not None:
            return
        offset = future.result().base_offset
        identities = prepared.trace.identities
        self.spans.acknowledged(
            batch,
            base_offset=offset,
            identities=identities,
            keys=page.keys,
            created_at=page.created_at,
            started_ns=started_ns,
        )

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
            ready = self._take_done()
            if ready:
                await self.test_point("after_send_before_checkpoint")
                await self._write(ready)
                await self.test_point("after_checkpoint")

    def _take_done(self) -> list[_Underway]:
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
        async with self.writing:
            await self.writer.advance(ready[-1].after, deliveries, parked)
        for _page in ready:
            self._underway.popleft()
        self._room.set()
        self._changed.set()
        self.progress.pages += len(ready)
        self.progress.parked += len(parked)
        self.progress.published += sum(len(d.outbox_ids) for d in deliveries)

    async def _write_idle(self) -> None:
        """Move the checkpoint over windows without rows: now and then, nothing depends on it."""
        position = self._unwritten
        if position is not None and not self._underway:
            self._unwritten = None
            async with self.writing:
                await self.writer.advance(position, (), ())

    async def _drain(self) -> None:
        async with asyncio.timeout(self.options.drain_seconds):
            while self._underway:
                self._room.clear()
                await self._room.wait()
        await self._write_idle()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self.lease.seconds / 4)
            try:
                async with asyncio.timeout(max(0.001, self.lease.left_seconds())), self.writing:
                    await self.lease.renew()
            except TimeoutError as error:
                raise LeaseLostError("could not renew the lease in time") from error
