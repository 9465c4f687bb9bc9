"""Hop 2: `relay witness`: the ledger, where somebody else publishes, wired from the settings."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import click

from relay.cli.output import named_settings, print_json, wants_json
from relay.cli.service import ServiceContext, logged, serve
from relay.cli.with_watchdog import with_watchdog
from relay.publish.maintenance.duties import maintenance_options
from relay.publish.options import publish_options
from relay.publish.reading.proven import ProvenPosition
from relay.publish.service import RelayService
from relay.repair.adoption import adopt
from relay.runtime.audit import this_person
from relay.runtime.process import ProcessRecord
from relay.runtime.settings import Settings
from relay.runtime.settings_sources import SettingsError
from relay.witness.observer import PublisherNames
from relay.witness.options import WitnessOptions
from relay.witness.service import WitnessService

METRICS_PORT = 9466


@click.command("witness")
@click.option(
    "--adopt",
    "adopts",
    is_flag=True,
    help="Once, before the first start: count rows older than the topics' records as published.",
)
@click.option(
    "--before",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%SZ"]),
    default=None,
    help="With --adopt: rows created before that time (UTC), whatever the topics hold.",
)
@click.option("--by", default=None, help="With --adopt: who decides; by default user and host.")
@click.pass_context
def command(ctx: click.Context, *, adopts: bool, before: datetime | None, by: str | None) -> None:
    """Write the ledger from what somebody else publishes, until told to stop (hop 2).

    Several may run: they share the topics' partitions, and one of them keeps the checkpoint. It
    needs [publisher] kind = "external". SIGTERM drains and ends with 0.
    """
    if not adopts and (before is not None or by is not None):
        raise click.UsageError("--before and --by go with --adopt")
    if adopts:
        _adopt(ctx, _settings(ctx), before, by or this_person())
        return
    with logged():
        serve("witness", _settings(ctx), METRICS_PORT, with_watchdog(_service))


def _settings(ctx: click.Context) -> Settings:
    settings = named_settings(ctx)
    if settings.publisher.kind != "external":
        raise SettingsError(
            'relay witness follows somebody else: set [publisher] kind = "external" '
            "(RELAY_PUBLISHER_KIND) where Debezium, Sequin or a poller of your own publishes"
        )
    return settings


def _adopt(ctx: click.Context, settings: Settings, before: datetime | None, who: str) -> None:
    since = None if before is None else before.replace(tzinfo=UTC)
    done = asyncio.run(
        adopt(settings.database.dsn, settings.kafka, settings.every_flow, who, before=since)
    )
    if wants_json(ctx):
        print_json({"before": done.before, "rows": done.rows})
    else:
        click.echo(f"{done.rows:,} rows from before {done.before:%Y-%m-%d %H:%M:%S %Z} count as "
                   "published; newer ones need a record\nnext  relay witness")  # fmt: skip


def _service(context: ServiceContext) -> WitnessService:
    settings = context.settings
    leader = RelayService(
        settings.database.dsn,
        settings.kafka,
        settings.every_flow,
        publish_options(settings),
        context.tracing,
        context.stop,
        metrics=context.metrics,
        maintenance=maintenance_options(settings),
        live=False,
        proven=ProvenPosition(),
        process=ProcessRecord("witness-leader"),
    )
    publisher = settings.publisher
    url = publisher.connect_url
    return WitnessService(
        settings.database.dsn,
        settings.kafka,
        settings.every_flow,
        WitnessOptions(group=publisher.witness_group),
        PublisherNames(
            publisher.slot,
            publisher.connector,
            None if url is None else url.get_secret_value(),
        ),
        context.stop,
        leader,
        context.metrics,
    )
