"""Hop 2: the pages that were handed over and are not covered by the checkpoint yet.

Invariant: pages leave in the order in which they came, and only when every batch of theirs, and of
the pages before, was acknowledged. Their rows together are bounded (that many are sent twice when
the process is killed), and so are their bytes (that is what this process's memory holds).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from relay.publish.reading.checkpoint import Delivery, Parked
from relay.publish.reading.parked_orders import Order
from relay.publish.reading.replays import Replayed
from relay.publish.reading.window import Position
from relay.publish.sending.batch import Batch
from relay.publish.sending.spans import SentPage


@dataclass(slots=True)
class InFlightPage:
    """A page that was handed over; `replay` is set where it is sent again.

    Attributes:
        sent: what is remembered of its rows.
        batches: how many there are of it.
        acknowledged: those that the broker has, with their base offsets (None: it did not say).
        acknowledged_at: the last of them, Unix time.
    """

    after: Position
    payload_bytes: int
    sent: SentPage
    batches: int
    parked: Sequence[Parked] = ()
    released: Sequence[int] = ()
    replay: Replayed | None = None
    acknowledged: list[tuple[Batch, int | None]] = field(default_factory=list)
    acknowledged_at: float = 0.0

    @property
    def rows(self) -> int:
        """How many rows it has, parked ones included."""
        return len(self.sent.keys)

    @property
    def done(self) -> bool:
        """Whether all its batches were acknowledged."""
        return len(self.acknowledged) == self.batches

    def deliveries(self) -> list[Delivery]:
        """Return what the broker has of it."""
        replay_id = self.sent.replay_id
        return [
            Delivery(batch.topic, batch.partition, base_offset, batch.outbox_ids, replay_id)
            for batch, base_offset in self.acknowledged
        ]


@dataclass(slots=True)
class InFlightPages:
    """Pages, oldest first.

    Attributes:
        most_rows: of all pages together.
        most_bytes: of their payloads together.
        changed: set when pages at the head may be done, or a batch failed.
        left: set when pages left.
        failure: of the first batch that failed.
    """

    most_rows: int
    most_bytes: int
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    failure: BaseException | None = None
    _pages: deque[InFlightPage] = field(default_factory=deque)
    _rows: int = 0
    _bytes: int = 0

    def __len__(self) -> int:
        return len(self._pages)

    def has_room(self, rows: int, payload_bytes: int) -> bool:
        """Whether a page of so many rows and bytes may be read."""
        return not self._pages or (
            self._rows + rows <= self.most_rows and self._bytes + payload_bytes <= self.most_bytes
        )

    def add(self, page: InFlightPage) -> None:
        """Note a page that was just handed over."""
        self._pages.append(page)
        self._rows += page.rows
        self._bytes += page.payload_bytes
        if not page.batches:
            self.changed.set()

    def acknowledged(self, page: InFlightPage, batch: Batch, base_offset: int | None) -> None:
        """Note that the broker has a batch of a page."""
        page.acknowledged.append((batch, base_offset))
        if page.done:
            page.acknowledged_at = time.time()
        if self._pages and self._pages[0].done:
            self.changed.set()

    def failed(self, error: BaseException) -> None:
        """Note that batches under way will not be acknowledged."""
        self.failure = self.failure or error
        self.changed.set()

    def done(self) -> list[InFlightPage]:
        """Return the pages at the head that are done; they stay until they are removed."""
        found: list[InFlightPage] = []
        for page in self._pages:
            if not page.done:
                break
            found.append(page)
        return found

    def remove(self, pages: Sequence[InFlightPage]) -> None:
        """Let pages at the head go: the checkpoint covers them."""
        for page in pages:
            first = self._pages.popleft()
            assert first is page
            self._rows -= page.rows
            self._bytes -= page.payload_bytes
        self.left.set()

    @property
    def replay(self) -> Replayed | None:
        """What is replayed by one of the pages."""
        return next((page.replay for page in self._pages if page.replay is not None), None)

    def parked_orders(self) -> set[Order]:
        """Return the orders that a page under way parks."""
        return {
            (row.aggregate_type, row.aggregate_id.encode())
            for page in self._pages
            for row in page.parked
        }

    async def empty(self) -> None:
        """Wait until nothing is under way."""
        while self._pages:
            self.left.clear()
            await self.left.wait()


def joined(deliveries: Iterable[Delivery]) -> list[Delivery]:
    """Join deliveries that follow one another in a partition: one ledger row does for them.

    At 2,000 orders a second a batch holds one record or two, and the ledger would be as long as the
    outbox.
    """
    open_ones: dict[tuple[str, int], int] = {}
    result: list[Delivery] = []
    for delivery in deliveries:
        place = open_ones.get((delivery.topic, delivery.partition))
        before = None if place is None else result[place]
        if place is not None and before is not None and _follows(before, delivery):
            result[place] = Delivery(
                delivery.topic,
                delivery.partition,
                before.base_offset,
                [*before.outbox_ids, *delivery.outbox_ids],
                before.replay_id,
            )
        else:
            open_ones[delivery.topic, delivery.partition] = len(result)
            result.append(delivery)
    return result


def _follows(before: Delivery, after: Delivery) -> bool:
    if before.base_offset is None or after.base_offset is None:
        return False
    if before.replay_id != after.replay_id:
        return False
    return before.base_offset + len(before.outbox_ids) == after.base_offset
