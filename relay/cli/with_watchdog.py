"""Hops 2 and 5: a service with the overdue watchdog beside it.

Invariant: the watchdog never ends the service, never keeps it from ending and never comes before
it: its modules are imported once the service is on its way. What it cannot do it says and waits
out.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from relay.cli.service import Service, ServiceContext
from relay.runtime.duty_record import WATCH_ROUND
from relay.runtime.tasks import log_unobserved

if TYPE_CHECKING:
    from relay.diagnose.watch.watchdog import Watchdog

Build = Callable[[ServiceContext], Service]

# Importing the diagnosis takes as long as the service's own start, and one core does both.
_HEAD_START_SECONDS = 1.0
_END_SECONDS = 3.0
_AGAIN_SECONDS = 10.0


@dataclass(slots=True)
class WithWatchdog:
    """A service with a watchdog beside it."""

    service: Service
    context: ServiceContext

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

    @property
    def stalled_seconds(self) -> float | None:
        """For how long the service has made no progress, if that is too long."""
        stalled: float | None = getattr(self.service, "stalled_seconds", None)
        return stalled

    def detail(self) -> Mapping[str, Any]:
        """What `relay status` shows of the service."""
        return self.service.detail()

    async def run(self) -> None:
        """Run both; the service decides when it is over."""
        apart = WatchdogThread(self.context)
        apart.start()
        try:
            await self.service.run()
        finally:
            await asyncio.to_thread(apart.end, _END_SECONDS)


class WatchdogThread(threading.Thread):
    """A watchdog on an event loop of its own: a long round never keeps the service's loop waiting.

    Judging thousands of orders takes half a second of Python; beside the relay's loop that would be
    half a second in which nothing is published.
    """

    def __init__(self, context: ServiceContext) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._context = context
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_watching: asyncio.Event | None = None
        self._ending = threading.Event()

    def run(self) -> None:
        """Watch until told to end; the service goes on without it."""
        pause_seconds = _HEAD_START_SECONDS
        while not self._ending.wait(pause_seconds):
            try:
                from relay.cli.watchdog import make_watchdog  # noqa: PLC0415 - see the head start

                asyncio.run(self._watch(make_watchdog(self._context)))
            except Exception:  # noqa: BLE001 - the service goes on; so does the watchdog, later
                self._context.metrics.duties.failures.labels(WATCH_ROUND).inc()
                structlog.get_logger("relay.watchdog").exception("watchdog_failed")
            pause_seconds = _AGAIN_SECONDS

    async def _watch(self, watchdog: Watchdog) -> None:
        self._stop_watching = watchdog.stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        log_unobserved(self._loop)
        if not self._ending.is_set():
            await watchdog.run()

    def end(self, seconds: float) -> None:
        """Tell it to give its lease back and end; wait so long at most."""
        self._ending.set()
        if self._loop is not None and self._stop_watching is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stop_watching.set)
        self.join(seconds)


def with_watchdog(build: Build) -> Build:
    """Put a watchdog beside a service, unless the settings say otherwise."""

    def both(context: ServiceContext) -> Service:
        service = build(context)
        return WithWatchdog(service, context) if context.settings.watch.inside else service

    return both
