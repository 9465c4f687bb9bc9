"""Hop 2: `relay run`: the relay, wired from the settings."""

from __future__ import annotations

import asyncio

import click

from relay.cli.output import named_settings
from relay.cli.service import ServiceContext, logged, serve
from relay.cli.with_watchdog import with_watchdog
from relay.publish.maintenance.duties import maintenance_options
from relay.publish.options import publish_options
from relay.publish.service import RelayService
from relay.runtime.audit import this_person
from relay.runtime.process import ProcessRecord
from relay.runtime.settings import Settings
from relay.runtime.settings_sources import SettingsError

METRICS_PORT = 9464


@click.command("run")
@click.option(
    "--take-over",
    is_flag=True,
    help="Publish from now on what somebody else published: exactly what has no record yet. "
    "His slot must be inactive, and `relay witness` stopped.",
)
@click.option(
    "--hand-over",
    metavar="PUBLICATION",
    help="Let somebody else publish from the next row on: this publication takes the outbox, the "
    "relay publishes what was committed before, and ends. As the owner of both; no relay runs.",
)
@click.pass_context
def command(ctx: click.Context, *, take_over: bool, hand_over: str | None) -> None:
    """Publish the outbox to Kafka until told to stop (hop 2).

    Several may run: one is active, the others stand by. SIGTERM drains and ends with 0. Where
    somebody else publishes ([publisher] kind), it refuses: it would send everything again.
    """
    if take_over and hand_over is not None:
        raise click.UsageError("--take-over and --hand-over exclude each other")
    with logged():
        settings = named_settings(ctx)
        if settings.publisher.kind == "external":
            raise SettingsError(
                'somebody else publishes this outbox: [publisher] kind = "external". relay witness '
                "keeps the ledger; to publish with the relay, set "
                'kind = "relay" and: relay run --take-over'
            )
        if hand_over is not None:
            _hand_over(settings, hand_over)
            return
        if take_over:
            _take_over(settings)
        serve("relay", settings, METRICS_PORT, with_watchdog(_service))


def _take_over(settings: Settings) -> None:
    from relay.repair.take_over import take_over  # noqa: PLC0415 - a relay's start is quick

    who = this_person()
    done = asyncio.run(take_over(settings.database.dsn, settings.kafka, settings.every_flow, who))
    if done is None:
        click.echo("the relay publishes this outbox already: nothing to take over", err=True)
    else:
        click.echo(f"taken over: {done.unproven:,} transactions without a record to send", err=True)


def _hand_over(settings: Settings, publication: str) -> None:
    from relay.repair.hand_over import hand_over, is_open  # noqa: PLC0415 - as above

    process = ProcessRecord("relay")
    dsn, owner = settings.database.dsn, str(process.process_id)
    if not asyncio.run(hand_over(dsn, publication, this_person(), owner)):
        click.echo("somebody else publishes this outbox already: nothing to hand over", err=True)
        return
    serve("relay", settings, METRICS_PORT, lambda context: _last_window(context, process))
    if asyncio.run(is_open(dsn)):
        raise HandOverUnfinishedError(
            "the publication has the outbox, and what was committed before is not published yet"
        )
    click.echo(
        f"handed over: what comes from now on is {publication}'s; all before it is published."
        ' Start its connector; then set [publisher] kind = "external", and relay witness',
        err=True,
    )


class HandOverUnfinishedError(Exception):
    """It was stopped before the last of the relay's rows was published."""

    hint = "run the same command again, before the connector starts"


def _last_window(context: ServiceContext, process: ProcessRecord) -> RelayService:
    return _relay(context, process, one_window=True)


def _service(context: ServiceContext) -> RelayService:
    return _relay(context, ProcessRecord("relay"))


def _relay(
    context: ServiceContext, process: ProcessRecord, *, one_window: bool = False
) -> RelayService:
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
        one_window=one_window,
        process=process,
    )
