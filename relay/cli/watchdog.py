"""`relay watchdog`: the overdue watchdog, alone; beside another service: `watched`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import click

from relay.cli.output import named_settings
from relay.cli.service import ServiceContext, logged, serve
from relay.diagnose.watch.round import WatchOptions
from relay.diagnose.watch.watchdog import Watchdog
from relay.runtime.flow_record import as_recorded
from relay.runtime.heartbeat import Heartbeat
from relay.runtime.outage import OutageLog
from relay.runtime.process import ProcessRecord
from relay.runtime.settings import Settings

METRICS_PORT = 9466


@click.command("watchdog")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Find overdue orders, say where they are, and record positions, until told to stop.

    `relay run` and `relay confirm` do this already (watch.inside): alone it is for hosts where
    neither runs. Of all watchdogs one is active. SIGTERM ends with 0.
    """
    with logged():
        settings = named_settings(ctx)
        serve(
            "watchdog",
            settings,
            METRICS_PORT,
            lambda context: WatchdogService(make_watchdog(context)),
        )


def make_watchdog(context: ServiceContext) -> Watchdog:
    """Wire the watchdog from the settings."""
    settings = context.settings
    return Watchdog(
        settings.database.dsn,
        settings.kafka,
        settings.every_flow,
        watch_options(settings),
        context.tracing,
        context.stop,
        context.metrics,
    )


def watch_options(settings: Settings) -> WatchOptions:
    """Return the watchdog's options as the settings say."""
    watch = settings.watch
    return WatchOptions(
        round_seconds=watch.round_seconds,
        position_seconds=watch.position_seconds,
        measure_seconds=watch.round_seconds,
        wait_span_seconds=settings.trace.wait_seconds,
    )


@dataclass(slots=True)
class WatchdogService:
    """A process that is nothing but a watchdog, with a process record of its own."""

    watchdog: Watchdog
    process: ProcessRecord = field(default_factory=lambda: ProcessRecord("watchdog"))

    def __post_init__(self) -> None:
        self.process.flow = as_recorded(*self.watchdog.flows)

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

    @property
    def stalled_seconds(self) -> float | None:
        """For how long it has made no progress, if that is too long."""
        return self.watchdog.mark.stalled_seconds()

    def detail(self) -> Mapping[str, Any]:
        """What `relay status` shows of it."""
        return self.watchdog.detail()

    async def run(self) -> None:
        """Watch until told to stop."""
        stop = self.watchdog.stop
        beat = Heartbeat(
            self.watchdog.dsn, self.process, OutageLog(self.process), detail=self.detail
        )
        await beat.beside(self.watchdog.run, stop)
