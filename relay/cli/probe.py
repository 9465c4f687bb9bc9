"""Verify: `relay probe`: a canary through the hops, once or every so often, timed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import click
import structlog

from relay.cli.by_processes import by_processes
from relay.cli.errors import Found
from relay.cli.output import harmless, named_settings, settings_of, typed, wants_json
from relay.cli.service import log_as_service, logged
from relay.diagnose.probe.run_probe import Probe, create_probe_topic, probe_or_outage, run_probe
from relay.diagnose.verdicts import Hop
from relay.runtime.heartbeat import stop_reason
from relay.runtime.process import program_version
from relay.runtime.repeats import Repeats
from relay.runtime.settings import Settings
from relay.runtime.shutdown import stop_on_signals, stopped_within
from relay.telemetry.endpoint import EndpointError, Health, serving
from relay.telemetry.exporter import ExportCounts
from relay.telemetry.metrics import Metrics

METRICS_PORT = 9467

# Beyond the time that each hop may take: what connecting and cleaning up may take.
_SLACK_SECONDS = 60.0

_LOG = structlog.get_logger("relay")

Send = Callable[..., Awaitable[Probe]]


@click.command("probe", short_help="A canary through the hops, timed.")
@click.option("--create-topic", is_flag=True, help="Create the canaries' topic if it is missing.")
@click.option(
    "--every",
    type=click.FloatRange(min=1),
    help="Send a canary every so many seconds; without it, one.",
)
@click.option("--within", default=10.0, show_default=True, help="Seconds that each hop may take.")
@click.pass_context
def command(
    ctx: click.Context,
    create_topic: bool,
    every: float | None,
    within: float,
) -> None:
    """Send an event of no order through the relay and read it back.

    Safe by default: it has a topic of its own, and no processor sees it. With
    RELAY_PROBE_THROUGH_PROCESSOR=yes, which states that the processor answers events of type
    relay.canary, it goes through every hop and back. With --every its metrics are served, and an
    outage is a canary that stopped. Exit code 3: it stopped, and the hop is named.
    """
    if every is None:
        probing = _Probing(settings_of(ctx), within, wants_json(ctx))
        fine = asyncio.run(probing.once(create_topic=create_topic))
    else:
        with logged():
            probing = _Probing(_service_settings(ctx), within, wants_json(ctx))
            fine = asyncio.run(probing.repeat(every, create_topic=create_topic))
    if not fine:
        raise Found


def _service_settings(ctx: click.Context) -> Settings:
    """Read the settings, go by the processes that run with others, and log from now on."""
    settings = named_settings(ctx)
    log_as_service("probe", settings)
    settings, differing = by_processes(settings)
    for one in differing:
        _LOG.warning("settings_differ", said=one.text)
    return settings


@dataclass(frozen=True, slots=True)
class _Probing:
    settings: Settings
    within: float
    as_json: bool

    async def once(self, *, create_topic: bool) -> bool:
        """Send one; tell whether it came through."""
        if create_topic and await self._made_topic():
            click.echo(f"made topic {self.settings.flow.probe_topic}", err=True)
        probe = await self._send(run_probe)
        self._show(probe)
        return probe.ok

    async def repeat(self, every: float, *, create_topic: bool) -> bool:
        """Send one after the other until told to stop; tell whether the last was fine."""
        if create_topic and await self._made_topic():
            _LOG.info("topic_made", topic=self.settings.flow.probe_topic)
        metrics = Metrics("probe", program_version(), lambda: ExportCounts(0, {}, 0, 0))
        metrics.probe.interval_seconds.set(every)
        told = _Told()
        mark = _Mark(every + len(Hop) * self.within + _SLACK_SECONDS)
        async with AsyncExitStack() as stack:
            await self._serve(stack, metrics, mark)
            stop = stack.enter_context(stop_on_signals())
            while True:
                probe = await self._send(probe_or_outage)
                mark.turn()
                _count(metrics, probe)
                told.tell(probe)
                if self.as_json:
                    self._show(probe)
                if await stopped_within(stop, every):
                    break
        _LOG.info("stopped", kind="probe", reason=stop_reason(stop))
        return probe.ok

    async def _made_topic(self) -> bool:
        return await create_probe_topic(self.settings.kafka, self.settings.flow)

    async def _serve(self, stack: AsyncExitStack, metrics: Metrics, mark: _Mark) -> None:
        wanted = self.settings.metrics
        if not wanted.enabled:
            return
        start = partial(
            serving, wanted.host, registry=metrics.registry, live=mark.health, ready=mark.health
        )
        port = METRICS_PORT if wanted.port is None else wanted.port
        try:
            found = await stack.enter_async_context(start(port=port))
        except EndpointError:
            if wanted.port is not None:
                raise
            # Nobody asked for that port: a second one on this machine takes another.
            found = await stack.enter_async_context(start(port=0))
        _LOG.info("listening", host=wanted.host, port=found)

    async def _send(self, send: Send) -> Probe:
        settings = self.settings
        return await send(
            settings.database.dsn,
            settings.kafka,
            settings.flow,
            within_seconds=self.within,
            through_processor=settings.probe.through_processor,
        )

    def _show(self, probe: Probe) -> None:
        click.echo(json.dumps(_as_json(probe)) if self.as_json else typed(_line(harmless(probe))))


@dataclass(slots=True)
class _Mark:
    """Whether canaries are sent at all: each ends, one way or the other, within its time."""

    limit_seconds: float
    turned_at: float = field(default_factory=time.monotonic)

    def turn(self) -> None:
        """Note that one has ended."""
        self.turned_at = time.monotonic()

    def health(self) -> Health:
        """Say whether the last one ended lately."""
        since = time.monotonic() - self.turned_at
        if since <= self.limit_seconds:
            return Health(ok=True, checks={})
        return Health(ok=False, checks={"stalled": f"no canary has ended for {since:.0f} s"})


@dataclass(slots=True)
class _Told:
    """Says what became of the canaries: each change at once, and the same again once a minute."""

    last: str | None = None
    repeats: Repeats = field(default_factory=Repeats)

    def tell(self, probe: Probe) -> None:
        """Write a line, if one is due."""
        result = "ok" if probe.failed_hop is None else probe.failed_hop.value
        if result != self.last:
            self.repeats.over(result)
            self.last = result
        if not self.repeats.due(result):
            return
        fields = {"probe_id": str(probe.probe_id), "seconds": probe.seconds, "said": probe.said}
        if probe.ok:
            _LOG.info("canary_came_through", **fields)
        else:
            _LOG.warning("canary_stopped", hop=result, **fields)


def _count(metrics: Metrics, probe: Probe) -> None:
    result = "ok" if probe.failed_hop is None else probe.failed_hop.value
    metrics.probe.runs.labels(result).inc()
    for hop, took in probe.seconds.items():
        metrics.probe.seconds.labels(hop).set(took)
    if probe.ok:
        metrics.probe.last_ok_at.set(time.time())


def _as_json(probe: Probe) -> dict[str, Any]:
    return {
        "probe_id": str(probe.probe_id),
        "ok": probe.ok,
        "failed_hop": probe.failed_hop.value if probe.failed_hop else None,
        "seconds": dict(probe.seconds),
        "said": probe.said,
    }


def _line(probe: Probe) -> str:
    times = ", ".join(f"{hop} {1000 * took:.1f} ms" for hop, took in probe.seconds.items())
    if probe.failed_hop is None:
        return f"OK {times}: {probe.said}"
    return (
        f"STOPPED at {probe.failed_hop.number} {probe.failed_hop.value}: {probe.said}"
        "\n next  relay status"
    )
