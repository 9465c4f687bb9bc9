"""Verify: `relay probe`: a canary through the hops, once or every so often, timed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import click

from relay.cli.errors import Found
from relay.cli.output import harmless, settings_of, wants_json
from relay.diagnose.probe import Probe, create_probe_topic, run_probe
from relay.runtime.settings import Settings
from relay.runtime.shutdown import stop_on_signals


@click.command("probe", short_help="A canary through the hops, timed.")
@click.option("--create-topic", is_flag=True, help="Make the canaries' topic if it is missing.")
@click.option("--every", type=click.FloatRange(min=1), help="Seconds between canaries; else one.")
@click.option("--within", default=10.0, show_default=True, help="Seconds for the relay to publish.")
@click.pass_context
def command(
    ctx: click.Context,
    create_topic: bool,
    every: float | None,
    within: float,
) -> None:
    """Send an event of no order through the relay and read it back.

    Safe by default: it has a topic of its own, and no processor sees it. Exit code 3: it stopped,
    and the hop is named.
    """
    settings, as_json = settings_of(ctx), wants_json(ctx)
    if not asyncio.run(_probes(settings, create_topic, every, within, as_json=as_json)):
        raise Found


async def _probes(
    settings: Settings, create_topic: bool, every: float | None, within: float, *, as_json: bool
) -> bool:
    if create_topic and await create_probe_topic(settings.kafka, settings.flow):
        click.echo(f"made topic {settings.flow.probe_topic}", err=True)
    with stop_on_signals() as stop:
        while True:
            probe = await run_probe(
                settings.database.dsn, settings.kafka, settings.flow, within_seconds=within
            )
            click.echo(json.dumps(_as_json(probe)) if as_json else _line(harmless(probe)))
            if every is None or stop.is_set():
                return probe.ok
            try:
                await asyncio.wait_for(stop.wait(), every)
            except TimeoutError:
                continue
            return probe.ok


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
