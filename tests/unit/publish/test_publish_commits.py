"""When the checkpoint is written: with what is done, soon; over windows without rows, seldom."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from relay.publish.errors import ProducerBrokenError
from relay.publish.meter import Meter
from relay.publish.options import PublishOptions
from relay.publish.reading.checkpoint import Delivery, Parked
from relay.publish.reading.window import Position, Snapshot
from relay.publish.sending import commits as commits_module
from relay.publish.sending.batch import Batch, Limit
from relay.publish.sending.commits import Commits, Progress
from relay.publish.sending.in_flight_pages import InFlightPage, InFlightPages
from relay.publish.sending.sizing import Sizing
from relay.publish.sending.spans import SentPage
from relay.runtime.testpoints import nothing
from relay.telemetry.exporter import ExportCounts
from relay.telemetry.metrics import Metrics


@dataclass
class Writer:
    """Remembers what was to be written."""

    written: list[tuple[Position, list[Delivery]]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def advance(
        self, position: Position, deliveries: Sequence[Delivery], *_more: Any
    ) -> None:
        await asyncio.sleep(0)
        self.written.append((position, list(deliveries)))
        self.news.set()

    async def until(self, times: int) -> None:
        async with asyncio.timeout(5):
            while len(self.written) < times:
                self.news.clear()
                await self.news.wait()


def at(xmax: int) -> Position:
    return Position(Snapshot(xmax, xmax))


def page(after: Position, *keys: bytes, parked: Sequence[Parked] = ()) -> InFlightPage:
    sent = SentPage(keys, [bytes(8)] * len(keys), [None] * len(keys), 0)
    return InFlightPage(after, 10, sent, 1, parked)


def batch(*ids: int) -> Batch:
    return Batch("t", 0, range(len(ids)), ids, 100)


def commits(writer: Writer, metrics: Metrics | None = None) -> Commits:
    return Commits(
        writer=writer,  # type: ignore[arg-type]
        writing=asyncio.Lock(),
        in_flight=InFlightPages(100, 1000),
        options=PublishOptions(checkpoint_seconds=0.001),
        sizing=Sizing(Limit(1000), compressed=False),
        progress=Progress(),
        meter=Meter(metrics),
        test_point=nothing,
    )


@asynccontextmanager
async def running(one: Commits) -> AsyncIterator[None]:
    task = asyncio.create_task(one.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_windows_without_rows_are_noted_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer()
    one = commits(writer)
    async with running(one):
        one.reached(at(10))  # nothing was written yet: at once
        await writer.until(1)
        one.reached(at(11))
        await settle()
        assert writer.written == [(at(10), [])]
        monkeypatch.setattr(commits_module, "_IDLE_SECONDS", 0.0)
        one.reached(at(12))
        await writer.until(2)
    assert writer.written[1] == (at(12), [])


async def test_a_page_under_way_is_never_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits_module, "_IDLE_SECONDS", 0.0)
    writer = Writer()
    one = commits(writer)
    first = page(at(20), b"o-1")
    async with running(one):
        one.unwritten = at(30)  # as if it were left over
        one.in_flight.add(first)
        one.in_flight.changed.set()
        await settle()
        assert writer.written == []
        one.in_flight.acknowledged(first, batch(5), 7)
        await writer.until(1)
    assert writer.written[0] == (at(20), [Delivery("t", 0, 7, (5,))])


async def test_what_failed_ends_it_and_writes_nothing_more() -> None:
    writer = Writer()
    one = commits(writer)
    first, second = page(at(20), b"o-1"), page(at(21), b"o-2")
    one.in_flight.add(first)
    one.in_flight.add(second)
    one.in_flight.acknowledged(first, batch(5), 7)
    one.in_flight.failed(ProducerBrokenError("gone"))
    with pytest.raises(ProducerBrokenError, match="gone"):
        await one.run()
    assert writer.written == []


async def test_what_is_counted_is_what_the_broker_has() -> None:
    writer = Writer()
    metrics = Metrics("relay", "0", lambda: ExportCounts(0, {}, 0, 0))
    one = commits(writer, metrics)
    parked = Parked(3, bytes(16), "o-3", "no_topic", None, None, None)
    mixed = page(at(20), b"o-1", b"o-2", b"o-3", parked=[parked])
    async with running(one):
        one.in_flight.add(mixed)
        one.in_flight.acknowledged(mixed, batch(1, 2), 7)
        await writer.until(1)
        await settle()

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("relay_events_published_total", topic="t") == 2
    assert value("relay_events_parked_total", reason="no_topic") == 1
    assert value("relay_publish_latency_seconds_count") == 2
    assert (one.progress.published, one.progress.parked) == (2, 1)
