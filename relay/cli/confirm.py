"""Hop 5: `relay confirm`: the confirmation consumer, wired from the settings."""

from __future__ import annotations

import click

from relay.cli.output import named_settings
from relay.cli.service import ServiceContext, logged, serve
from relay.cli.with_watchdog import with_watchdog
from relay.consumers.confirm.options import ConfirmOptions
from relay.consumers.confirm.service import ConfirmService
from relay.kafka.consumer.options import SessionOptions
from relay.runtime.settings import Settings

METRICS_PORT = 9465


@click.command("confirm")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Apply the returns to the orders until told to stop (hop 5).

    Several may run: they share the topic's partitions. SIGTERM drains and ends with 0.
    """
    with logged():
        settings = named_settings(ctx)
        serve("confirm", settings, METRICS_PORT, with_watchdog(_service))


def _service(context: ServiceContext) -> ConfirmService:
    settings = context.settings
    return ConfirmService(
        settings.database.dsn,
        settings.kafka,
        settings.flow,
        confirm_options(settings),
        context.tracing,
        context.stop,
        context.metrics,
    )


def confirm_options(settings: Settings) -> ConfirmOptions:
    """Return hop 5's options as the settings say."""
    session = dict(settings.confirm)
    rows, most_bytes = session.pop("quarantine_rows"), session.pop("quarantine_bytes")
    return ConfirmOptions(
        session=SessionOptions(**session),
        quarantine_rows=rows,
        quarantine_bytes=most_bytes,
    )
