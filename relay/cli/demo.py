"""Setup: `relay demo`: the whole loop, from servers that did not exist to orders that came back."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from relay.cli.demo_screen import Screen
from relay.cli.demo_text import as_json, lines, traces
from relay.cli.errors import FAILURE, INTERRUPTED
from relay.cli.output import print_json, wants_json
from relay.runtime.shutdown import stop_on_signals
from relay.sample.demo import Standing, run_demo
from relay.sample.demo_jaeger import jaeger_beside
from relay.sample.demo_result import DemoOptions, DemoResult, DemoStoppedError
from relay.telemetry.logs import configure_command

_OTLP_PORT = 4318


@click.command("demo")
@click.option(
    "--orders",
    default=500,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="Number of orders to place.",
)
@click.option(
    "--rate",
    default=50.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Orders placed per second.",
)
@click.option(
    "--lose",
    default=5,
    show_default=True,
    type=click.IntRange(0, 25),
    help="Number of orders to lose on purpose, spread over the five hops.",
)
@click.option(
    "--timeout",
    default=30.0,
    show_default=True,
    type=click.FloatRange(1),
    help="Seconds to wait for returns after the last order.",
)
@click.option(
    "--jaeger-url",
    metavar="URL",
    help="Address of a Jaeger: spans are sent to it, and links lead to it.",
)
@click.option(
    "--web", is_flag=True, help="Keep everything running, with the operator's page, until Ctrl-C."
)
@click.option(
    "--jaeger",
    is_flag=True,
    help="Run a Jaeger beside the loop, print three traces to open, and stay until Ctrl-C.",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    jaeger_url: str | None,
    jaeger: bool,
    timeout: float,
    web: bool,
    **given: Any,
) -> None:
    """Place orders over HTTP and see their returns come back, hop by hop.

    On a PostgreSQL and a Kafka of its own, gone afterwards; DATABASE_URL and
    KAFKA_BOOTSTRAP_SERVERS, when set, are used instead. Some orders are lost on purpose, at every
    hop another way, and found by the evidence. Exit code 0: every order it expected back came
    back, and every lost one was found where it was lost.
    """
    if jaeger and jaeger_url is not None:
        raise click.UsageError("--jaeger runs one, --jaeger-url names another: give one of them")
    options = DemoOptions(timeout_seconds=timeout, **given)
    if not jaeger:
        environment = _environment(os.environ, jaeger_url)
        if web:
            _with_page(options, environment)
        else:
            _tell(ctx, options, environment)
        return
    with (
        tempfile.TemporaryDirectory(prefix="relay-demo-jaeger-") as folder,
        jaeger_beside(Path(folder), os.environ) as beside,
    ):
        click.echo(f"Jaeger is at {beside.url}", err=True)
        given_too = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": beside.otlp}
        environment = _environment(given_too, beside.url)
        if web:
            _with_page(options, environment)
            return
        result = _tell(ctx, options, environment)
        click.echo("\n".join(traces(result, beside.url)))
        if not beside.pages:
            click.echo(
                "this Jaeger was built without its pages: its API answers at "
                f"{beside.url}/api/traces/TRACE_ID; a release's `jaeger` on the PATH has them",
                err=True,
            )
        click.echo("Jaeger stays until Ctrl-C", err=True)
        asyncio.run(_until_stopped())


def _tell(ctx: click.Context, options: DemoOptions, environment: Mapping[str, str]) -> DemoResult:
    """Tell the story and say what it came to."""
    try:
        result = asyncio.run(_run(options, environment))
    except DemoStoppedError as error:
        click.echo(str(error), err=True)
        ctx.exit(INTERRUPTED)
    trace_url = environment.get("RELAY_TRACE_URL")
    if wants_json(ctx):
        print_json(as_json(result, trace_url))
    else:
        click.echo("\n".join(lines(result, trace_url)))
    _conclude(ctx, result)
    return result


async def _until_stopped() -> None:
    with stop_on_signals() as stop:
        await stop.wait()


def _with_page(options: DemoOptions, environment: Mapping[str, str]) -> None:
    """Run it, and then its page until Ctrl-C; stopped before the page is shown is no success.

    Raises:
        DemoStoppedError: it was stopped before.
    """
    from relay.cli.demo_page import DemoPage  # noqa: PLC0415 - no page, no templates

    # Else an error of the page is drawn with all that its functions held, passwords, too.
    configure_command()

    async def run() -> None:
        screen = Screen(options.orders)
        with stop_on_signals() as stop:
            page = DemoPage(stop, environment.get("RELAY_TRACE_URL"))

            async def afterwards(standing: Standing) -> None:
                screen.close()
                await page.serve(standing)

            try:
                await run_demo(options, environment, screen, stop, afterwards)
            except DemoStoppedError:
                if not page.shown:
                    raise
            finally:
                screen.close()

    asyncio.run(run())


async def _run(options: DemoOptions, environment: Mapping[str, str]) -> DemoResult:
    screen = Screen(options.orders)
    with stop_on_signals() as stop:
        try:
            return await run_demo(options, environment, screen, stop)
        finally:
            screen.close()


def _environment(given: Mapping[str, str], jaeger_url: str | None) -> dict[str, str]:
    """Send spans to the Jaeger that was named, else where `OTEL_*` says, else nowhere."""
    environment = dict(given)
    if jaeger_url is not None:
        environment["RELAY_TRACE_URL"] = jaeger_url
        host = urlsplit(jaeger_url).hostname or "localhost"
        environment.setdefault("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{host}:{_OTLP_PORT}")
    if not any(name.startswith("OTEL_EXPORTER_OTLP") for name in environment):
        environment.setdefault("OTEL_TRACES_EXPORTER", "none")
    return environment


def _conclude(ctx: click.Context, result: DemoResult) -> None:
    if not result.problems:
        found = f"; each of the {len(result.lost)} lost ones was found" if result.lost else ""
        click.echo(f"\nevery order that was expected back came back{found}", err=True)
        return
    click.echo(f"\n{result.logs}\n\nFAILED: {'; '.join(result.problems)}", err=True)
    ctx.exit(FAILURE)
