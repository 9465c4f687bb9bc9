"""`relay web`: the operator's page, wired from the settings."""

from __future__ import annotations

import os

import click

from relay.cli.output import named_settings
from relay.cli.service import ServiceContext, logged, serve
from relay.web.people import hashed
from relay.web.service import WebService

METRICS_PORT = 9469


@click.command("web")
@click.option(
    "--hash", "wants_hash", is_flag=True, help="Ask for a password and print its argon2 hash."
)
@click.pass_context
def command(ctx: click.Context, wants_hash: bool) -> None:
    """Serve the operator's page until told to stop.

    It reads with DATABASE_URL (relay_observer is enough) and acts with RELAY_WEB_OPERATOR_URL. On
    another address than this machine's own it starts only with RELAY_WEB_AUTH. SIGTERM ends with 0.
    """
    if wants_hash:
        click.echo(hashed(click.prompt("password", hide_input=True, confirmation_prompt=True)))
        return
    config = ctx.find_root().obj["config"]
    with logged():
        settings = named_settings(ctx)

        def build(context: ServiceContext) -> WebService:
            return WebService(settings, context.stop, os.environ, context.metrics, config)

        serve("web", settings, METRICS_PORT, build)
