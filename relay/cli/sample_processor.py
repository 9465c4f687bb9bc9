"""Sample: `relay sample processor`: the sample order processor (hops 3-4), with its faults.

Invariant: it is never joined to a real group: the installation must be a sample, or somebody states
that this Kafka has no installation. What faults did to whom is printed at the end.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal, DecimalException
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import click
import structlog
import uvloop

from relay.cli.output import named_settings
from relay.cli.service import configure_logs, logged
from relay.runtime.database import DatabaseError, connect
from relay.runtime.process import instance_name, program_version
from relay.runtime.settings import Settings
from relay.runtime.shutdown import stop_on_signals
from relay.sample.installation import require_sample
from relay.sample.processor.faults import MEANING, Fault, FaultRule
from relay.sample.processor.metrics import ProcessorCollector
from relay.sample.processor.options import Corruption, CrashAt, FaultOptions, ProcessorOptions
from relay.sample.processor.report import ProcessorReport
from relay.sample.processor.service import run_processor
from relay.telemetry.endpoint import Health, serving
from relay.telemetry.metrics import Metrics
from relay.telemetry.tracing import Tracing, configure

_SERVICE: Final = "order-processor"
_SPANS_DEADLINE_SECONDS: Final = 5.0

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def _amount(_ctx: click.Context, _param: click.Parameter, value: str) -> Decimal:
    """Read a decimal number, not a float."""
    try:
        amount = Decimal(value)
    except DecimalException:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise click.BadParameter(f"{value!r} is not an amount")
    return amount


def _fault_options(command: CommandT) -> CommandT:
    """Add four options for each fault: by name, by count, every n-th, by rate."""
    for fault in reversed(Fault):
        for option in (
            click.option(f"--{fault}-rate", type=click.FloatRange(0, 1), default=0.0, hidden=True),
            click.option(f"--{fault}-every", type=click.IntRange(0), default=0, hidden=True),
            click.option(f"--{fault}-count", type=click.IntRange(0), default=0, hidden=True),
            click.option(
                f"--{fault}-order",
                multiple=True,
                metavar="ID",
                help=f"For this order: {MEANING[fault]}.",
            ),
        ):
            command = option(command)
    return command


@click.command(
    "processor",
    epilog="Each fault also goes by --FAULT-count N (the first N events), --FAULT-every N (each "
    "N-th) and --FAULT-rate R (a share from 0 to 1), for example --lose-count 3.",
)
@click.option("--group", help="Consumer group (default: the flow's first processor group).")
@click.option(
    "--reject-above",
    metavar="AMOUNT",
    callback=_amount,
    default="10000",
    show_default=True,
    help="Reject orders whose total is larger.",
)
@click.option("--processing-first", is_flag=True, help="Send `processing` before each answer.")
@click.option(
    "--without-database",
    is_flag=True,
    help="Do not look for a sample installation: this Kafka is not used in production.",
)
@_fault_options
@click.option(
    "--seed", type=int, help="Seed of the faults that are drawn by rate (default: random)."
)
@click.option(
    "--crash-at",
    type=click.Choice(get_args(CrashAt)),
    default="sent",
    show_default=True,
    help="Crash before the returns are sent, before the offset is committed, or after.",
)
@click.option(
    "--corruption",
    type=click.Choice(get_args(Corruption)),
    default="any",
    show_default=True,
    help="In which way a corrupt return is broken.",
)
@click.option(
    "--delay-seconds",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    help="Seconds by which a delayed return is late.",
)
@click.option("--faults-on-replays", is_flag=True, help="Apply the faults to replayed events, too.")
@click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of JSON lines that records each fault and its order; read first after a restart.",
)
@click.pass_context
def processor(ctx: click.Context, /, without_database: bool, **given: Any) -> None:
    """Answer orders: confirmed, or rejected above an amount; with faults on purpose.

    At least once: an offset is committed after its returns are acknowledged. Without a fault
    every order that expects a return gets one. /metrics, /livez and /readyz are served where
    RELAY_METRICS_PORT names a port.
    """
    with logged():
        settings = named_settings(ctx)
        options = _options(settings, given)
        with _telemetry(settings) as tracing:
            report = uvloop.run(_run(settings, options, tracing, check=not without_database))
    _print(ctx, report)


def _options(settings: Settings, given: Mapping[str, Any]) -> ProcessorOptions:
    rules = {fault: _rule(fault, given) for fault in Fault}
    seed = secrets.randbits(32) if given["seed"] is None else given["seed"]
    return ProcessorOptions(
        group=given["group"] or settings.flow.processor_groups[0],
        reject_above=given["reject_above"],
        processing_first=given["processing_first"],
        faults=FaultOptions(
            rules={fault: rule for fault, rule in rules.items() if rule != FaultRule()},
            seed=seed,
            crash_at=given["crash_at"],
            corruption=given["corruption"],
            delay_seconds=given["delay_seconds"],
            on_replays=given["faults_on_replays"],
            journal=given["journal"],
        ),
    )


def _rule(fault: Fault, given: Mapping[str, Any]) -> FaultRule:
    return FaultRule(
        orders=frozenset(given[f"{fault}_order"]),
        count=given[f"{fault}_count"],
        every=given[f"{fault}_every"],
        rate=given[f"{fault}_rate"],
    )


@contextmanager
def _telemetry(settings: Settings) -> Iterator[Tracing]:
    configure_logs(settings.log.level, settings.log.format)
    tracing = configure(
        _SERVICE, os.environ, version=program_version(), instance_id=instance_name()
    )
    try:
        yield tracing
    finally:
        tracing.close(_SPANS_DEADLINE_SECONDS)


async def _run(
    settings: Settings, options: ProcessorOptions, tracing: Tracing, *, check: bool
) -> ProcessorReport:
    if check:
        await _refuse_production(settings.database.dsn)
    report = ProcessorReport()
    with stop_on_signals() as stop:
        async with _endpoint(settings, tracing, report):
            return await run_processor(
                settings.kafka, settings.flow, options, tracing, stop, report=report
            )


@asynccontextmanager
async def _endpoint(
    settings: Settings, tracing: Tracing, report: ProcessorReport
) -> AsyncIterator[None]:
    """Serve /metrics, /livez and /readyz where a port is named: it stands in for the user's own."""
    port = settings.metrics.port
    if port is None or not settings.metrics.enabled:
        yield
        return
    registry = Metrics("sample-processor", program_version(), tracing.counts).registry
    registry.register(ProcessorCollector(report))

    def live() -> Health:
        return Health(ok=True)

    def ready() -> Health:
        return Health(report.waiting_for is None, {"waiting_for": report.waiting_for or "nothing"})

    async with serving(settings.metrics.host, port, registry, live, ready) as found:
        structlog.get_logger("relay").info("listening", host=settings.metrics.host, port=found)
        yield


class UncheckedInstallationError(Exception):
    """Whether this is a sample installation cannot be known."""

    hint = "name its DATABASE_URL, or state with --without-database that there is none"


async def _refuse_production(dsn: str | None) -> None:
    try:
        connection = await connect(dsn, "relay sample processor")
    except DatabaseError as error:
        raise UncheckedInstallationError(
            f"the sample processor would answer the orders of whatever uses this Kafka, and "
            f"whether that is a sample cannot be known: {error}"
        ) from error
    try:
        await require_sample(connection)
    finally:
        await connection.close()


def _print(ctx: click.Context, report: ProcessorReport) -> None:
    if ctx.find_root().obj["json"]:
        click.echo(json.dumps(report.as_dict()))
        return
    faults = ", ".join(f"{number} {fault}" for fault, number in report.faults.items())
    click.echo(
        f"{report.processed} events processed, {report.returns} returns sent, "
        f"{report.ignored} events passed over; faults: {faults or 'none'}"
    )
