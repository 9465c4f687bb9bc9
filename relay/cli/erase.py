"""Repair: `relay erase`: a customer's or an order's data, blanked where it is stored, audited.

Invariant: without --execute nothing is changed, and what would be is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from relay.cli.output import print_json, settings_of, wants_json
from relay.diagnose.gather.lookup import canonical
from relay.orders.catalog import as_far_as_known
from relay.repair.erasing import Erased, InKafka, erase, look
from relay.replay.candidates import orders_of_customers
from relay.runtime.audit import this_person
from relay.runtime.operator_connection import operator_connection
from relay.runtime.printable import printable
from relay.runtime.settings import Settings


@click.command("erase")
@click.option("--order", "orders", multiple=True, metavar="ORDER", help="This order's data.")
@click.option(
    "--customer", "customers", multiple=True, metavar="CUSTOMER", help="Of all their orders."
)
@click.option("--execute", is_flag=True, help="Do it; without it, say what would be done.")
@click.option("--reason", default=None, help="Why; needed to do it; goes to the audit log.")
@click.option("--by", default=None, help="Who decides; by default the current user and host.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Blank what is stored of a person: payloads, headers, quarantined bytes, returns' reasons.

    In the outbox, among the rows that were kept, in quarantine and inbox; the rows stay, without
    their content. Records in Kafka cannot be erased: each topic is named with the time when its
    retention has removed them; on a compacted events topic a tombstone is sent. An event that was
    not yet published goes out as a tombstone. The shop's own tables are the shop's.
    """
    if not (given["orders"] or given["customers"]):
        raise click.UsageError("say whose: --order or --customer")
    reason = (given["reason"] or "").strip()
    if given["execute"] and not reason:
        raise click.UsageError("--execute needs --reason WHY")
    who = given["by"] or this_person()
    orders, done, there = asyncio.run(_erase(settings_of(ctx), given, who, reason))
    if wants_json(ctx):
        print_json(
            {
                "orders": list(orders),
                "executed": done is not None,
                "erased": {} if done is None else dict(done.counts),
                "tombstones": [] if done is None else list(done.tombstones),
                "in_kafka": [asdict(one) for one in there],
            }
        )
        return
    for line in _lines(orders, done, there):
        click.echo(line)


async def _erase(
    settings: Settings, given: dict[str, Any], who: str, why: str
) -> tuple[Sequence[str], Erased | None, tuple[InKafka, ...]]:
    async with operator_connection(settings.database.dsn, "erase") as connection:
        flow = await as_far_as_known(connection, settings.flow)
        orders = list(given["orders"])
        if given["customers"]:
            orders += await orders_of_customers(connection, flow, given["customers"])
        orders = list(dict.fromkeys(canonical(flow, orders)))
        there = await look(connection, settings.kafka, flow, orders)
        if not given["execute"]:
            return orders, None, there
        return orders, await erase(connection, flow, orders, there, who=who, why=why), there


def _lines(orders: Sequence[str], done: Erased | None, there: Sequence[InKafka]) -> Iterator[str]:
    if done is None:
        yield f"{len(orders):,} orders would be blanked; nothing was changed"
    else:
        counts = done.counts
        yield (
            f"{len(orders):,} orders: {counts['outbox']:,} events of the outbox, {counts['kept']:,}"
            f" kept ones, {counts['quarantine']:,} returns in quarantine and the reasons of"
            f" {counts['inbox']:,} returns are blank"
        )
        if counts["waiting"]:
            yield f"{counts['waiting']:,} returns wait for a locked order: run this again"
        if done.tombstones:
            yield f"a tombstone is sent for each of {len(done.tombstones):,} orders"
    if there:
        yield "in Kafka, where nobody can take them out:"
    for one in there:
        yield f" {printable(one.topic)}: {one.records:,} records, {_until(one)}"


def _until(one: InKafka) -> str:
    said = []
    if one.expires_at is not None:
        said.append(f"gone by {one.expires_at:%Y-%m-%d %H:%M} UTC, when their segments are closed")
    if one.compacted:
        said.append("compacted: until a tombstone of each key has passed")
    return "; ".join(said) or str(one.why)
