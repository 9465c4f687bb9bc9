"""Hop 2: moves the checkpoint over what was acknowledged, together with the proof.

Invariant: one write at a time, in order; a failed batch ends the loop with its error before
anything of its page, or of a later one, is covered. Small pages wait a little for others, so that a
write serves several.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from relay.publish.meter import Meter
from relay.publish.options import PublishOptions
from relay.publish.reading.checkpoint import CheckpointWriter, Delivery
from relay.publish.reading.window import Position
from relay.publish.sending.in_flight_pages import InFlightPage, InFlightPages, joined
from relay.publish.sending.sizing import Sizing
from relay.runtime.testpoints import TestPoint

_IDLE_SECONDS: Final = 5.0


@dataclass(slots=True)
class Progress:
    """What the relay has done since it started, for status and metrics.

    Attributes:
        failing: the last write of the checkpoint failed. What was sent before it is sent again by
            every run until one succeeds, so that little is sent until then.
    """

    published: int = 0
    parked: int = 0
    released: int = 0
    replayed: int = 0
    pages: int = 0
    reads: int = 0
    failing: bool = False


@dataclass(slots=True)
class Commits:
    """Writes ledger, parked rows and checkpoint.

    Attributes:
        writing: held while the writer's connection is in use.
        unwritten: a position reached by reading windows without rows, with nothing under way.
    """

    writer: CheckpointWriter
    writing: asyncio.Lock
    in_flight: InFlightPages
    options: PublishOptions
    sizing: Sizing
    progress: Progress
    meter: Meter
    test_point: TestPoint
    unwritten: Position | None = None
    _written_at: float = field(default=0.0, init=False)

    async def run(self) -> None:
        """Write until cancelled.

        Raises:
            ProducerBrokenError: a batch failed.
            CheckpointConflictError: another relay took over.
        """
        while True:
            await self.in_flight.changed.wait()
            self.in_flight.changed.clear()
            if self.in_flight.failure is not None:
                raise self.in_flight.failure
            ready = self.in_flight.done()
            if ready and not await self._wait_for_more(ready):
                await self.test_point("after_send_before_checkpoint")
                await self._write(ready)
                await self.test_point("after_checkpoint")
            elif not ready and self._written_long_ago:
                await self.write_idle()

    def reached(self, position: Position) -> None:
        """Note how far was read without a row, with nothing under way."""
        self.unwritten = position
        if self._written_long_ago:
            self.in_flight.changed.set()

    @property
    def _written_long_ago(self) -> bool:
        return time.monotonic() - self._written_at >= _IDLE_SECONDS

    async def _wait_for_more(self, ready: list[InFlightPage]) -> bool:
        """Wait out the pause since the last write, if there is little to write; True: waited."""
        pause_seconds = self._written_at + self.options.checkpoint_seconds - time.monotonic()
        if pause_seconds <= 0 or sum(page.rows for page in ready) >= self.options.page_rows:
            return False
        await asyncio.sleep(pause_seconds)
        self.in_flight.changed.set()
        return True

    async def _write(self, ready: list[InFlightPage]) -> None:
        deliveries = [delivery for page in ready for delivery in page.deliveries()]
        parked = [row for page in ready for row in page.parked]
        released = [outbox_id for page in ready for outbox_id in page.released]
        replay = next((page.replay for page in ready if page.replay is not None), None)
        try:
            async with self.writing:
                await self.writer.advance(
                    ready[-1].after, joined(deliveries), parked, released, replay
                )
        except BaseException:
            self.progress.failing = True
            raise
        self.progress.failing = False
        self._written_at = time.monotonic()
        self.in_flight.remove(ready)
        self.sizing.forget([row.outbox_id for row in parked])
        self.progress.pages += len(ready)
        self.progress.parked += len(parked)
        self.progress.released += len(released)
        self.progress.published += _rows(deliveries, replayed=False)
        self.progress.replayed += _rows(deliveries, replayed=True)
        if replay is not None:
            self.sizing.forget([one.outbox_id for one in replay.refused])
        self.meter.written(ready)
        # Pages may have become done meanwhile, with nobody left to say so.
        self.in_flight.changed.set()

    async def write_idle(self) -> None:
        """Move the checkpoint over windows without rows: now and then, nothing depends on it."""
        position = self.unwritten
        if position is not None and not self.in_flight:
            self.unwritten = None
            async with self.writing:
                await self.writer.advance(position, (), ())
            self._written_at = time.monotonic()


def _rows(deliveries: Sequence[Delivery], *, replayed: bool) -> int:
    return sum(len(one.outbox_ids) for one in deliveries if (one.replay_id is not None) == replayed)
