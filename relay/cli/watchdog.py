"""All hops: `relay watchdog`: the overdue watchdog, alone or beside another service.

Invariant: beside another service it never ends that service and never keeps it from ending: what it
cannot do it says and waits out.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import click
import structlog

from relay.cli.output import settings_of
from relay.cli.service import Service, Surroundings, serve
from relay.diagnose.watch.round import WatchOptions
from relay.diagnose.watch.watchdog import Watchdog
from relay.runtime.heartbeat import Heartbeat, stop_reason
from relay.runtime.outage import OutageLog
from relay.runtime.process import ProcessRecord
from relay.runtime.settings import Settings

METRICS_PORT = 9466
_END_SECONDS = 3.0


@click.command("watchdog")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Find overdue orders, say where they are, and record positions, until told to stop.

    `relay run` and `relay confirm` do this already (watch.inside): alone it is for hosts where
    neither runs. Of all watchdogs one is active. SIGTERM ends with 0.
    """
    settings = settings_of(ctx)
    serve("watchdog", settings, METRICS_PORT, lambda around: Alone(make_watchdog(around)))


def make_watchdog(around: Surroundings) -> Watchdog:
    """Wire the watchdog from the settings."""
    settings = around.settings
    return Watchdog(
        settings.database.dsn,
        settings.kafka,
        settings.flow,
        watch_options(settings),
        around.tracing,
        around.stop,
        around.metrics,
    )


def watch_options(settings: Settings) -> WatchOptions:
    """Return the watchdog's options as the settings say."""
    watch = settings.watch
    return WatchOptions(round_seconds=watch.round_seconds, position_seconds=watch.position_seconds)


@dataclass(slots=True)
class Alone:
    """A process that is nothing but a watchdog, with a process record of its own."""

    watchdog: Watchdog
    process: ProcessRecord = field(default_factory=lambda: ProcessRecord("watchdog"))

    @property
    def state(self) -> str:
        """What it is doing."""
        return self.watchdog.state

    @property
    def ready(self) -> bool:
        """Whether it watches, or stands by for another that does."""
        return self.watchdog.state in ("active", "standby")

    @property
    def waiting_for(self) -> str | None:
        """What it cannot go on without."""
        return self.watchdog.waiting_for

    def detail(self) -> Mapping[str, Any]:
        """What `relay status` shows of it."""
        return self.watchdog.detail()

    async def run(self) -> None:
        """Watch until told to stop."""
        stop = self.watchdog.stop
        beat = Heartbeat(
            self.watchdog.dsn, self.process, OutageLog(self.process), detail=self.detail
        )
        beating = asyncio.create_task(beat.run(stop))
        try:
            await self.watchdog.run()
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await beat.farewell(stop_reason(stop))


@dataclass(slots=True)
class Watched:
    """A service with a watchdog beside it."""

    service: Service
    watchdog: Watchdog

    @property
    def state(self) -> str:
        """What the service is doing."""
        return self.service.state

    @property
    def ready(self) -> bool:
        """Whether the service does its work."""
        return self.service.ready

    @property
    def waiting_for(self) -> str | None:
        """What the service cannot go on without."""
        return self.service.waiting_for

    def detail(self) -> Mapping[str, Any]:
        """What `relay status` shows of the service."""
        return self.service.detail()

    async def run(self) -> None:
        """Run both; the service decides when it is over."""
        apart = Apart(self.watchdog)
        apart.start()
        try:
            await self.service.run()
        finally:
            await asyncio.to_thread(apart.end, _END_SECONDS)


class Apart(threading.Thread):
    """A watchdog on an event loop of its own: a long round never keeps the service's loop waiting.

    Judging thousands of orders takes half a second of Python; beside the relay's loop that would be
    half a second in which nothing is published.
    """

    def __init__(self, watchdog: Watchdog) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._watchdog = watchdog
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = threading.Event()

    def run(self) -> None:
        """Watch until told to end; the service goes on without it."""
        try:
            asyncio.run(self._watch())
        except Exception:  # noqa: BLE001 - the service goes on without it
            structlog.get_logger("relay.watchdog").exception("watchdog_failed")

    async def _watch(self) -> None:
        self._watchdog.stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if not self._ending.is_set():
            await self._watchdog.run()

    def end(self, seconds: float) -> None:
        """Tell it to give its lease back and end; wait so long at most."""
        self._ending.set()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._watchdog.stop.set)
        self.join(seconds)


def watched(build: Callable[[Surroundings], Service]) -> Callable[[Surroundings], Service]:
    """Put a watchdog beside a service, unless the settings say otherwise."""

    def both(around: Surroundings) -> Service:
        service = build(around)
        if not around.settings.watch.inside:
            return service
        return Watched(service, make_watchdog(around))

    return both
