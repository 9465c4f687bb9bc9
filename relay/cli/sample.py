"""Sample: `relay sample ...`: the order service, one order, load; never beside production."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import uvloop

from relay.runtime.process import instance_name, program_version
from relay.runtime.settings import Settings, load_settings
from relay.runtime.shutdown import stop_on_signals
from relay.sample.serve import ServeOptions, run_serve
from relay.telemetry import logs
from relay.telemetry.tracing import Tracing, configure

_SERVICE = "order-service"
_SPANS_DEADLINE_SECONDS = 5.0


@click.group("sample", short_help="Sample order service, processor, orders, load.")
def command() -> None:
    """The sample domain: orders that are nobody's, to try the relay with.

    Refuses a database that is not a sample installation.
    """


@command.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0: any free one.",
)
@click.option(
    "--connections",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Database connections at most.",
)
@click.pass_context
def serve(ctx: click.Context, host: str, port: int, connections: int) -> None:
    """Take orders over HTTP: POST /orders, GET /orders/{id}, GET /health, /ready, /metrics."""
    settings = load_settings(ctx.find_root().obj["config"])
    options = ServeOptions(host=host, port=port, connections=connections)

    def listening(url: str) -> None:
        _print(ctx, {"url": url}, f"listening on {url}")

    async def run(tracing: Tracing) -> None:
        with stop_on_signals() as stop:
            await run_serve(settings.database.dsn, options, tracing, stop, listening)

    with _telemetry(settings) as tracing:
        uvloop.run(run(tracing))


@contextmanager
def _telemetry(settings: Settings) -> Iterator[Tracing]:
    """Logs and tracing of a process that places orders; its spans are delivered at the end."""
    logs.configure(settings.log.level, settings.log.format, environment=os.environ)
    tracing = configure(
        _SERVICE, os.environ, version=program_version(), instance_id=instance_name()
    )
    try:
        yield tracing
    finally:
        tracing.close(_SPANS_DEADLINE_SECONDS)


def _print(ctx: click.Context, data: dict[str, Any], text: str) -> None:
    click.echo(json.dumps(data) if ctx.find_root().obj["json"] else text)
