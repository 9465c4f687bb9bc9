"""Hop 2: `relay run`: the relay, wired from the settings."""

from __future__ import annotations

import click

from relay.cli.output import settings_named
from relay.cli.service import ServiceContext, logged, serve
from relay.cli.with_watchdog import with_watchdog
from relay.publish.maintenance.duties import maintenance_options
from relay.publish.options import publish_options
from relay.publish.service import RelayService
from relay.runtime.settings import load_settings

METRICS_PORT = 9464


@click.command("run")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Publish the outbox to Kafka until told to stop (hop 2).

    Several may run: one is active, the others stand by. SIGTERM drains and ends with 0.
    """
    with logged():
        settings = load_settings(**settings_named(ctx))
        serve("relay", settings, METRICS_PORT, with_watchdog(_service))


def _service(context: ServiceContext) -> RelayService:
    settings = context.settings
    return RelayService(
        settings.database.dsn,
        settings.kafka,
        settings.every_flow,
        publish_options(settings),
        context.tracing,
        context.stop,
        metrics=context.metrics,
        maintenance=maintenance_options(settings),
    )
