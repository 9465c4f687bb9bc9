"""Hop 2: the loop of an active relay: read ahead, hand over, and let the checkpoint follow.

Invariant: a failure anywhere ends the whole run with its error: nothing is sent after it, and the
next run begins at the checkpoint. Asked to stop, it reads no more, waits for the acknowledgements
under way, and the checkpoint is written.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from relay.publish.errors import LeaseLostError, TopicForbiddenError, TopicWaitError
from relay.publish.options import PublishOptions
from relay.publish.ownership.lease import Lease
from relay.publish.reading.cursor import OutboxCursor
from relay.publish.reading.pacing import Pace
from relay.publish.reading.page import Page
from relay.publish.reading.parking import asked_for, leaving, still_parked
from relay.publish.reading.proven import ProvenPosition
from relay.publish.reading.replays import LOOK_SECONDS, Replayed, Replays, pause
from relay.publish.sending.batch import Batch
from relay.publish.sending.commits import Commits
from relay.publish.sending.dispatch import Dispatcher, Prepared
from relay.publish.sending.in_flight_pages import InFlightPage, InFlightPages
from relay.publish.sending.known_topics import UNKNOWN, KnownTopics
from relay.publish.sending.publisher import Publisher
from relay.publish.sending.spans import SendSpans, SentPage
from relay.runtime.shutdown import stopped_within
from relay.runtime.testpoints import TestPoint

_LOG: Final = structlog.get_logger("relay.publish")
_RELEASE_SECONDS: Final = 1.0
# Sent at once while nobody knows whether the database takes the proof of it (a full disk, a right
# that was taken away): every attempt sends them again, for hours perhaps.
_CAREFUL_ROWS: Final = 1


@dataclass(slots=True)
class Pipeline:
    """One run of an active relay, from one checkpoint.

    Attributes:
        live: False: a replay's items are sent and nothing else: no window is read, no row leaves
            quarantine or enters it, and the checkpoint stays where it is.
        proven: where somebody else publishes, what the checkpoint follows; None: it does not.
        one_window: the window that the checkpoint has open is read, and no other: what comes after
            it is somebody else's.
    """

    cursor: OutboxCursor
    dispatcher: Dispatcher
    publisher: Publisher
    known: KnownTopics
    in_flight: InFlightPages
    commits: Commits
    lease: Lease
    options: PublishOptions
    spans: SendSpans
    replays: Replays
    test_point: TestPoint
    live: bool = True
    proven: ProvenPosition | None = None
    one_window: bool = False
    _look_for_releases_at: float = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop` is set, then drain.

        Raises:
            ExceptionGroup: of what ended the run: ProducerBrokenError, LeaseLostError, asyncpg's.
        """
        async with asyncio.TaskGroup() as group:
            commits = group.create_task(self.commits.run())
            wakes = group.create_task(self._wake_at(stop))
            looks = group.create_task(self.publisher.look())
            await self._read_pages(stop)
            await self._drain()
            commits.cancel()
            wakes.cancel()
            looks.cancel()

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.in_flight.left.set()

    async def _read_pages(self, stop: asyncio.Event) -> None:
        options = self.options
        # What no topic takes is not even read for the first page.
        of_flow = self.dispatcher.routes.every_topic
        await self._ask_again(Page.empty(self.cursor.position), of_flow, of_flow)
        # Of what is replayed, and of the ledger, nothing is asked more often than this.
        longest = options.idle_poll_seconds if self.live else LOOK_SECONDS
        pace = Pace(options.poll_seconds, longest, time.monotonic())
        while not stop.is_set():
            self.commits.meter.mark.turn()
            if self.one_window and not self.cursor.in_window:
                await self.in_flight.empty()
                self.commits.reached(self.cursor.position)
                stop.set()
                return
            if not self._may_read():
                self.in_flight.left.clear()
                await self.in_flight.left.wait()
                continue
            if self.live:
                await self._release(stop)
            rows = await self._replay()
            if self.live:
                rows += await self._read_window(stop)
            elif self.proven is not None:
                await self._follow(self.proven)
            now = time.monotonic()
            pace = pace.after_read(rows, now)
            if not self.live:
                await stopped_within(stop, pace.pause_seconds(now))
            elif not self.cursor.in_window:
                await asyncio.sleep(pace.pause_seconds(now))

    async def _read_window(self, stop: asyncio.Event) -> int:
        """Read the next page of live rows and hand it over; return how many there were."""
        page = await self.cursor.next_page()
        self.commits.progress.reads += 1
        self.commits.meter.read(len(page.ids))
        if page.ids:
            await self._hand_over(page, stop)
        elif not self.in_flight:
            self.commits.reached(page.after)
        return len(page.ids)

    async def _follow(self, proven: ProvenPosition) -> None:
        """Move the checkpoint over what the ledger proves, with nothing of a replay under way."""
        if self.in_flight:
            return
        position = await proven.next(self.cursor.connection, self.cursor.position)
        self.commits.meter.unproven(proven.unproven)
        if position is None:
            return
        async with self.commits.writing:
            await self.commits.writer.advance(position, (), (), high_id=proven.high_id)
        self.cursor.move_to(position)

    def _may_read(self) -> bool:
        """Tell whether another page may be under way, and how large it may be."""
        careful = self.commits.progress.failing
        rows = _CAREFUL_ROWS if careful else self.options.page_rows
        self.cursor.page_rows = self.replays.page_rows = rows
        if careful and self.in_flight:
            return False
        return self.in_flight.has_room(self.options.page_rows, self.options.page_bytes)

    async def _hand_over(
        self, page: Page, stop: asyncio.Event, released: list[int] | None = None
    ) -> None:
        await self.test_point("after_read")
        await self._unpark(page)
        topics = self.dispatcher.topics(page)
        if not await self.known.ready(topics, stop):
            return
        await self._ask_again(page, topics, self.dispatcher.doubtful_topics(page))
        prepared = self.dispatcher.prepare(page, self.known.partition_counts)
        await self._send(page, prepared, released=released or ())

    async def _send(
        self,
        page: Page,
        prepared: Prepared,
        *,
        released: Sequence[int] = (),
        replay: Replayed | None = None,
    ) -> None:
        await self.test_point("before_send")
        if self.lease.left_seconds() <= 0:
            raise LeaseLostError("could not renew the lease in time")
        in_flight = InFlightPage(
            page.after,
            # A long aggregate id is in a record twice.
            sum(batch.size_bytes for batch in prepared.batches),
            SentPage.of(page, prepared.trace, replay),
            len(prepared.batches),
            prepared.parked,
            released,
            replay,
        )
        self.commits.unwritten = None
        self.in_flight.add(in_flight)
        acknowledged = partial(self._acknowledged, in_flight)
        for batch in prepared.batches:
            self.publisher.hand_over(batch, acknowledged)

    def _acknowledged(self, page: InFlightPage, batch: Batch, base_offset: int | None) -> None:
        self.in_flight.acknowledged(page, batch, base_offset)
        self.spans.acknowledged(page.sent, batch, base_offset)

    async def _replay(self) -> int:
        """Send a replay's next items between two pages of live rows; return how many.

        One page of a replay is under way at a time: that is all that a kill can repeat.
        """
        in_flight = self.in_flight.replay
        if in_flight is not None:
            await self.replays.read_ahead(in_flight)
            return 1  # the next one follows at once
        found = await self.replays.next()
        if found is None:
            return 0
        page, replay = found
        if not await self._replay_topics_ready(page, replay):
            return 0
        topics = self.dispatcher.topics(page, replay)
        await self._ask_again(page, topics, self.dispatcher.doubtful_topics(page, replay))
        prepared = self.dispatcher.prepare_replay(page, self.known.partition_counts, replay)
        refused = (*replay.refused, *prepared.refused)
        await self._send(page, prepared, replay=dataclasses.replace(replay, refused=refused))
        return len(page.ids)

    async def _replay_topics_ready(self, page: Page, replay: Replayed) -> bool:
        """Tell whether the page can be sent; live traffic does not wait until it can."""
        try:
            for topic in self.dispatcher.topics(page, replay):
                await self.known.know(topic)
        except UNKNOWN as error:
            if replay.topic is not None and isinstance(error, TopicWaitError):
                await self._pause_replay(replay, f"the relay waits for {error}")
            self.replays.later()
            return False
        return True

    async def pause_replay_to(self, error: TopicForbiddenError) -> None:
        """Stop a replay to another topic that this user may not write to: it stopped us."""
        replay = self.in_flight.replay
        if replay is not None and replay.topic == error.topic:
            await self._pause_replay(replay, str(error))

    async def _pause_replay(self, replay: Replayed, trouble: str) -> None:
        _LOG.warning("replay_paused", replay_id=str(replay.replay_id), trouble=trouble)
        async with self.commits.writing:
            await pause(self.commits.writer.connection, replay.replay_id, trouble)

    async def _unpark(self, page: Page) -> None:
        """Ask again of the parked orders in a page: what held one may have been discarded."""
        parked = self.dispatcher.parked_orders
        if parked.disjoint(page.names):
            return
        asked = parked.ids_among(page.names)
        still = await still_parked(self.cursor.connection, asked)
        parked.keep_only(asked, still | self.in_flight.parked_orders())

    async def _ask_again(self, page: Page, topics: set[str], doubtful: set[str]) -> None:
        """Ask what topics take before rows are parked for their size; read what fits by now."""
        if not doubtful:
            return
        await self.known.ask_limits(doubtful)
        sizing, most_bytes = self.dispatcher.sizing, self.options.largest_record_bytes
        await self.cursor.complete(page, sizing.largest_payload_bytes(topics, most_bytes))
        of_flow = self.dispatcher.routes.every_topic
        self.cursor.largest_bytes = sizing.largest_known_bytes(of_flow, most_bytes)

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
        await self.in_flight.empty()
        writer = self.commits.writer
        async with self.commits.writing:
            outbox_ids = await leaving(writer.connection, orders, self.cursor.page_rows)
        if not outbox_ids:
            return
        page = await self.cursor.rows(outbox_ids, writer.checkpoint.position)
        parked = self.dispatcher.parked_orders
        parked.discard(zip(page.aggregate_types, page.names, strict=True))
        await self._hand_over(page, stop, list(page.ids))
        await self.in_flight.empty()
        # Those with more to wait for are parked still.
        parked.add(await still_parked(self.cursor.connection, set(page.names)))

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self.options.drain_seconds):
                await self.in_flight.empty()
                await self.commits.write_idle()
        except TimeoutError:
            pages = len(self.in_flight)
            _LOG.warning("stopped_undrained", pages=pages, consequence="they are sent again")
