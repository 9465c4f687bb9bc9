"""Hops 1 to 5: the demo's story: the whole loop on real servers, a few orders lost on purpose.

Invariant: bounded in time; whatever happens, nothing that it started keeps running, and the logs of
a failure are kept. What came back is judged by the orders' own status, what was lost by the
evidence; what was done on purpose, the truth, is only compared with it.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from relay.diagnose.report.timeline import Timeline, timeline
from relay.diagnose.session import session
from relay.embedded.folders import run_folder
from relay.kafka.broker import connected
from relay.runtime.database import connect
from relay.runtime.settings import Settings
from relay.runtime.tasks import awaited
from relay.sample.demo_counts import Counts, HopCounter
from relay.sample.demo_mishaps import Mishaps, lost_by_processor
from relay.sample.demo_result import (
    Audience,
    DemoFailedError,
    DemoOptions,
    DemoResult,
    DemoStoppedError,
)
from relay.sample.demo_servers import PARTITIONS, Servers, servers
from relay.sample.demo_services import Services
from relay.sample.demo_times import hop_times
from relay.sample.load import Load, LoadPlan, make_load
from relay.sample.load_report import statuses, times_of
from relay.sample.place import over_http

_READY_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.2
_HTTP_SECONDS: Final = 10.0
# Two rounds of the watchdog, whose first looks are often too early.
_TRACES_SECONDS: Final = 30.0
# Above this total the demo's processor rejects: a third of the load's orders.
_REJECT_ABOVE: Final = "50"
# Orders that did not come back, and are diagnosed: those lost on purpose first.
_TOLD_AT_MOST: Final = 50

_UNTOLD: Final = """
SELECT count(*) FROM unnest($1::text[]) AS k (order_id)
 WHERE NOT EXISTS (SELECT FROM relay.overdue AS v
                    WHERE v.aggregate_id = k.order_id AND v.reported_at IS NOT NULL)
"""
_UNRETURNED: Final = """
SELECT order_id::text AS order_id,
       extract(epoch FROM submitted_at - clock_timestamp())::float8 + $2::float8 AS left_seconds
  FROM public.orders
 WHERE order_id = ANY ($1::uuid[]) AND status NOT IN ('confirmed', 'rejected')
 ORDER BY submitted_at
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """The loop that a demo leaves standing for a while: what a page of it is served with."""

    settings: Settings
    environment: Mapping[str, str]
    result: DemoResult


Afterwards = Callable[[Standing], Awaitable[None]]


async def run_demo(
    options: DemoOptions,
    environment: Mapping[str, str],
    audience: Audience,
    stop: asyncio.Event,
    afterwards: Afterwards | None = None,
) -> DemoResult:
    """Tell the whole story.

    Args:
        options: how many orders, how fast, how many of them lost.
        environment: `os.environ`; it may name servers to use, and where spans go.
        audience: watches.
        stop: ends it early.
        afterwards: what is done while everything still runs; the demo ends when it returns.

    Raises:
        DemoStoppedError: `stop` was set.
        DemoFailedError: a service died, or something was not ready in time; the logs are kept.
        EmbeddedError, DatabaseError, MigrationError: there is nothing to run it on.
    """
    story = awaited(_story(options, environment, audience, afterwards), "demo")
    stopping = awaited(stop.wait(), "stop")
    await asyncio.wait({story, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if story.done():
        return story.result()
    audience.tell("stopping; once more stops at once")
    story.cancel()
    with suppress(asyncio.CancelledError):
        await story
    raise DemoStoppedError("stopped before the end; nothing was left running")


async def _story(
    options: DemoOptions,
    environment: Mapping[str, str],
    audience: Audience,
    afterwards: Afterwards | None,
) -> DemoResult:
    started = time.monotonic()
    async with servers(environment, options.deadline_seconds, audience.tell) as ground:
        audience.tell(
            f"PostgreSQL {ground.versions} and Kafka answer after {_since(started)}; schema "
            f"migrated, topics of {PARTITIONS} partitions"
        )
        with run_folder() as folder:
            journal = folder / "order-processor" / "journal.jsonl"
            mishaps = Mishaps.dealt(options.lose)
            arguments = ("--reject-above", _REJECT_ABOVE, *mishaps.processor_arguments(journal))
            services = Services(folder, ground.environment, arguments)
            stage = _Stage(options, ground, services, mishaps, journal, audience, afterwards)
            try:
                result = await _run_stage(stage)
            except Exception as error:
                logs = await asyncio.to_thread(_keep_logs, folder, ground, services)
                raise DemoFailedError(f"{error}\n\n{logs}") from error
            if not result.problems:
                return result
            logs = await asyncio.to_thread(_keep_logs, folder, ground, services)
            return replace(result, logs=logs)


@dataclass(frozen=True, slots=True)
class _Stage:
    options: DemoOptions
    ground: Servers
    services: Services
    mishaps: Mishaps
    journal: Path
    audience: Audience
    afterwards: Afterwards | None


async def _run_stage(stage: _Stage) -> DemoResult:
    async with _running(stage) as exit_codes:
        connection = await connect(stage.ground.settings.database.dsn, "relay demo")
        try:
            result = await _orders_and_returns(stage, connection)
            if stage.afterwards is not None:
                ground = stage.ground
                await stage.afterwards(Standing(ground.settings, ground.environment, result))
        finally:
            await connection.close()
    return replace(result, exit_codes=exit_codes)


@asynccontextmanager
async def _running(stage: _Stage) -> AsyncIterator[dict[str, int | None]]:
    """Run the services while the block runs; what is given fills with their exit codes."""
    exit_codes: dict[str, int | None] = {}
    started = time.monotonic()
    try:
        await asyncio.to_thread(stage.services.start)
        await stage.services.ready(_READY_SECONDS)
        stage.audience.tell(
            f"order service ({stage.services.order_url}), relay, order processor and confirmation "
            f"consumer are ready after {_since(started)}"
        )
        yield exit_codes
    finally:
        exit_codes.update(await stage.services.stop())


async def _orders_and_returns(stage: _Stage, connection: asyncpg.Connection) -> DemoResult:
    settings = stage.ground.settings
    load = Load(LoadPlan(stage.options.orders, stage.options.rate, run=f"demo-{uuid4().hex[:8]}"))
    async with connected(settings.kafka, "relay-demo") as broker:
        counter = HopCounter(connection, broker, settings.flow)
        await counter.begin()
        lost = await stage.mishaps.place(connection)
        await _watch(stage, load, counter)
        times = await hop_times(connection, broker, settings.flow, load.order_ids)
    orders = [*load.order_ids, *lost]
    lost |= await asyncio.to_thread(lost_by_processor, stage.journal)
    unreturned = await _overdue(stage, connection, orders)
    if "OTEL_EXPORTER_OTLP_ENDPOINT" in stage.ground.environment:
        await _told_in_traces(stage, connection, unreturned)
    example = next((one for one in reversed(load.order_ids) if one not in set(unreturned)), None)
    stage.audience.tell("reading the evidence")
    told = sorted(unreturned, key=lost.__contains__, reverse=True)[:_TOLD_AT_MOST]
    timelines = await _timelines(stage, told)
    placing = times_of(load.place_seconds)
    return DemoResult(
        placed=len(orders),
        place_seconds=load.seconds,
        failed=dict(load.failed),
        statuses=await statuses(connection, orders),
        returned=len(orders) - len(unreturned),
        lost={one: hop for one, hop in lost.items() if one in set(orders)},
        missing=timelines,
        hops={**({"place": placing} if placing else {}), **times},
        example=None if example is None else (await _timelines(stage, [example]))[0],
    )


async def _overdue(
    stage: _Stage, connection: asyncpg.Connection, orders: Sequence[str]
) -> list[str]:
    """Return the orders that did not come back, once the deadline of them all is over."""
    rows = await connection.fetch(
        _UNRETURNED, [UUID(one) for one in orders], stage.options.deadline_seconds
    )
    left_seconds = max((row["left_seconds"] for row in rows), default=0.0)
    if left_seconds > 0:
        stage.audience.tell(f"{len(rows)} did not come back; overdue in {left_seconds:.1f} s")
        await asyncio.sleep(left_seconds)
    return [row["order_id"] for row in rows]


async def _told_in_traces(
    stage: _Stage, connection: asyncpg.Connection, orders: Sequence[str]
) -> None:
    """Wait until the watchdog has written the missing returns into the orders' traces."""
    stage.audience.tell("waiting for the watchdog's spans")
    deadline = time.monotonic() + _TRACES_SECONDS
    while time.monotonic() < deadline:
        if await connection.fetchval(_UNTOLD, orders) == 0:
            return
        await asyncio.sleep(_LOOK_SECONDS)


async def _watch(stage: _Stage, load: Load, counter: HopCounter) -> None:
    """Place the orders and look on until all that can come back has, or the time is over."""
    url, options = stage.services.order_url, stage.options
    placing = awaited(
        make_load(load.plan, lambda: over_http(url, _HTTP_SECONDS), load, asyncio.Event()), "load"
    )
    started = time.monotonic()
    deadline = started + options.orders / options.rate + options.timeout_seconds
    try:
        while time.monotonic() < deadline:
            stage.services.check()
            counts = await counter.counts()
            stage.audience.show(counts, time.monotonic() - started)
            if placing.done() and _is_over(stage, placing, load, counts):
                return
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        placing.cancel()
        with suppress(asyncio.CancelledError):
            await placing


def _is_over(stage: _Stage, placing: asyncio.Task[None], load: Load, counts: Counts) -> bool:
    placing.result()
    placed = len(load.order_ids)
    return counts.process >= placed and counts.confirm >= placed - len(
        lost_by_processor(stage.journal)
    )


async def _timelines(stage: _Stage, order_ids: Sequence[str]) -> tuple[Timeline, ...]:
    settings = stage.ground.settings
    async with session(settings.database.dsn, settings.kafka, settings.flow) as opened:
        return tuple(timeline(one) for one in await opened.diagnose(order_ids))


def _keep_logs(folder: Path, ground: Servers, services: Services) -> str:
    """Copy all logs to where they stay; return their ends, and where that is."""
    kept = Path(tempfile.mkdtemp(prefix="relay-demo-failed-"))
    for log in (*folder.glob("*/*"), *ground.logs):
        with suppress(OSError):
            shutil.copy(log, kept)
    return "\n\n".join((*services.log_tails(), f"all logs are kept in {kept}"))


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.1f} s"
