"""Sample: `relay sample ...`: the order service, one order, load; never beside production."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import asdict
from typing import Any
from uuid import uuid4

import click
import uvloop

from relay.cli.errors import Found
from relay.cli.output import named_settings
from relay.cli.sample_processor import processor
from relay.outbox import Item, NewOrder
from relay.runtime.process import instance_name, program_version
from relay.runtime.settings import Settings
from relay.runtime.shutdown import stop_on_signals
from relay.sample.load import LoadPlan
from relay.sample.load_run import run_load
from relay.sample.place import TERMINAL, Placement, Placing, direct, follow, over_http
from relay.sample.serve import ServeOptions, run_serve
from relay.telemetry import logs
from relay.telemetry.tracing import Tracing, configure

_SERVICE = "order-service"
_SPANS_DEADLINE_SECONDS = 5.0
_ANSWER_SECONDS = 30.0


@click.group("sample", short_help="Sample order service, processor, orders, load.")
def command() -> None:
    """Sample orders to try the relay with: a service, a processor, load.

    Refuses a database that is not a sample installation.
    """


command.add_command(processor)


@command.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0: a free one.",
)
@click.option(
    "--connections",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Number of database connections at most.",
)
@click.pass_context
def serve(ctx: click.Context, host: str, port: int, connections: int) -> None:
    """Take orders over HTTP: POST /orders, GET /orders/{id}, GET /health, /ready, /metrics."""
    settings = named_settings(ctx)
    options = ServeOptions(host=host, port=port, connections=connections)

    def listening(url: str) -> None:
        _print(ctx, {"url": url}, f"listening on {url}")

    async def run(tracing: Tracing) -> None:
        with stop_on_signals() as stop:
            await run_serve(settings.database.dsn, options, tracing, stop, listening)

    with _telemetry(settings) as tracing:
        uvloop.run(run(tracing))


@command.command("place")
@click.option(
    "--url", help="Address of an order service; without it, orders go straight into the database."
)
@click.option("--customer", default="customer-1", show_default=True, help="Who orders.")
@click.option("--sku", default="tea-green-100", show_default=True, help="What is ordered.")
@click.option(
    "--quantity", default=1, show_default=True, type=click.IntRange(1), help="Number of pieces."
)
@click.option(
    "--price", default="9.95", show_default=True, help="Price of one piece, as a decimal number."
)
@click.option("--currency", default="EUR", show_default=True, help="Currency of the price.")
@click.option("--key", help="Idempotency key (default: a new one).")
@click.option("--wait", is_flag=True, help="Wait until the order's return is applied.")
@click.option(
    "--timeout",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds that --wait waits.",
)
@click.pass_context
def place(
    ctx: click.Context, /, url: str | None, wait: bool, timeout: float, **fields: Any
) -> None:
    """Place one order, print its id and trace id, and follow it with --wait.

    Exit code 3: it was not returned in time.
    """
    settings = named_settings(ctx)
    order = NewOrder(
        customer_id=fields["customer"],
        items=[Item(fields["sku"], fields["quantity"], fields["price"])],
        currency=fields["currency"],
        idempotency_key=fields["key"] or uuid4().hex,
    )
    with _telemetry(settings) as tracing:
        placed, status = asyncio.run(
            _place(_way(settings, tracing, url), order, timeout if wait else None)
        )
    data = asdict(placed) | {"status": status, "trace_url": settings.trace.link(placed.trace_id)}
    _print(ctx, data, _shown(data))
    if wait and status not in TERMINAL:
        raise Found(f"order {placed.order_id} is {status} after {timeout:g} s")


async def _place(
    way: AbstractAsyncContextManager[Placing], order: NewOrder, follow_seconds: float | None
) -> tuple[Placement, str]:
    async with way as placing:
        placed = await placing.place(order)
        _progress(f"placed {placed.order_id}" if placed.created else f"known {placed.order_id}")
        if follow_seconds is None:
            return placed, placed.status
        return placed, await follow(
            lambda: placing.status(placed.order_id), _progress, timeout_seconds=follow_seconds
        )


def _shown(data: dict[str, Any]) -> str:
    names = {"order_id": "order", "status": "status", "trace_id": "trace", "trace_url": "see"}
    return "\n".join(f"{text:<7}{data[name]}" for name, text in names.items() if data[name])


@command.command("load")
@click.option(
    "--url", help="Address of an order service; without it, orders go straight into the database."
)
@click.option(
    "--orders", default=1000, show_default=True, type=click.IntRange(1), help="Number of orders."
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help="Orders per second (default: no limit).",
)
@click.option(
    "--connections",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Number of orders placed at once, each on a connection of its own.",
)
@click.option(
    "--wait",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds to wait for the returns; 0: do not wait.",
)
@click.option(
    "--run", help="Name of the run: repeated with the same name, no order is placed twice."
)
@click.pass_context
def load(ctx: click.Context, /, url: str | None, wait: float, **fields: Any) -> None:
    """Place many orders, wait for their returns, and report each hop's times.

    Exit code 1: an order could not be placed; 3: one was not returned in time.
    """
    settings = named_settings(ctx)
    fields["run"] = fields["run"] or uuid4().hex[:12]
    plan = LoadPlan(**fields)
    with _telemetry(settings) as tracing:
        report = uvloop.run(
            run_load(
                settings.database.dsn,
                plan,
                lambda: _way(settings, tracing, url),
                wait_seconds=wait,
                tell=_progress,
            )
        )
    _print(ctx, report.data(), report.text())
    if report.failed:
        raise click.ClickException(f"{sum(report.failed.values())} orders could not be placed")
    if report.unreturned:
        raise Found(f"{len(report.unreturned)} orders were not returned within {wait:g} s")


def _way(
    settings: Settings, tracing: Tracing, url: str | None
) -> AbstractAsyncContextManager[Placing]:
    if url is None:
        return direct(settings.database.dsn, tracing.tracer())
    return over_http(url, _ANSWER_SECONDS)


def _progress(text: str) -> None:
    click.echo(text, err=True)


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
