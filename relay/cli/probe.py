"""Verify: `relay probe`: a canary through the hops, once or every so often, timed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import click

from relay.cli.errors import Found
from relay.cli.output import harmless, settings_of, wants_json
from relay.diagnose.probe.run_probe import Probe, create_probe_topic, probe_or_outage, run_probe
from relay.runtime.process import program_version
from relay.runtime.settings import Settings
from relay.runtime.shutdown import stop_on_signals, stopped_within
from relay.telemetry.endpoint import EndpointError, Health, serving
from relay.telemetry.exporter import ExportCounts
from relay.telemetry.metrics import Metrics

METRICS_PORT = 9467

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
    probing = _Probing(settings_of(ctx), within, wants_json(ctx))
    if not asyncio.run(probing.run(every, create_topic=create_topic)):
        raise Found


@dataclass(frozen=True, slots=True)
class _Probing:
    settings: Settings
    within: float
    as_json: bool

    async def run(self, every: float | None, *, create_topic: bool) -> bool:
        """Send one, or one after the other until told to stop; tell whether the last was fine."""
        settings = self.settings
        if create_topic and await create_probe_topic(settings.kafka, settings.flow):
            click.echo(f"made topic {settings.flow.probe_topic}", err=True)
        if every is None:
            probe = await self._send(run_probe)
            self._show(probe)
            return probe.ok
        return await self._repeat(every)

    async def _repeat(self, every: float) -> bool:
        metrics = Metrics("probe", program_version(), lambda: ExportCounts(0, {}, 0, 0))
        metrics.probe.interval_seconds.set(every)
        async with AsyncExitStack() as stack:
            await self._serve(stack, metrics)
            stop = stack.enter_context(stop_on_signals())
            while True:
                probe = await self._send(probe_or_outage)
                _count(metrics, probe)
                self._show(probe)
                if await stopped_within(stop, every):
                    return probe.ok

    async def _serve(self, stack: AsyncExitStack, metrics: Metrics) -> None:
        wanted = self.settings.metrics
        if not wanted.enabled:
            return
        ready = partial(Health, ok=True, checks={})
        start = partial(serving, wanted.host, registry=metrics.registry, live=ready, ready=ready)
        port = METRICS_PORT if wanted.port is None else wanted.port
        try:
            found = await stack.enter_async_context(start(port=port))
        except EndpointError:
            if wanted.port is not None:
                raise
            # Nobody asked for that port: a second one on this machine takes another.
            found = await stack.enter_async_context(start(port=0))
        click.echo(f"metrics on http://{wanted.host}:{found}/metrics", err=True)

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
        click.echo(json.dumps(_as_json(probe)) if self.as_json else _line(harmless(probe)))


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
