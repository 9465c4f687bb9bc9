"""Repair: `relay close`: overdue orders or an incident closed by hand, with a reason.

Invariant: nothing is closed without a reason, and nothing without a row in the audit log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from relay.cli.errors import NotFoundError
from relay.cli.output import print_json, settings_of, wants_json
from relay.cli.parameters import INCIDENT
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.gather.orders import GatherOptions
from relay.diagnose.session import Session, UnreachableError, session
from relay.diagnose.unreturned import QUICK
from relay.diagnose.verdicts import found_something
from relay.repair.closing import (
    Closed,
    NothingToCloseError,
    close_incident,
    close_orders,
    is_open_incident,
    is_order,
)
from relay.runtime.audit import this_person
from relay.runtime.command_line import incident_number
from relay.runtime.flow import Flow
from relay.runtime.settings import Settings


@click.command("close")
@click.argument("targets", nargs=-1, metavar="(ORDER | I-N)...")
@click.option(
    "--order",
    "orders",
    multiple=True,
    metavar="ORDER",
    help="Close this order, whatever its id looks like.",
)
@click.option(
    "--incident",
    "incidents",
    multiple=True,
    type=INCIDENT,
    help="Close this incident with all its orders.",
)
@click.option("--reason", required=True, help="Why; recorded in the audit log.")
@click.option("--by", default=None, help="Who decides; by default the current user and host.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Close overdue orders, or an incident with all its orders, by hand.

    They count as closed from then on, whatever is found later; a return that still comes is applied
    all the same. I-17 is the incident, unless there is an order of that id: say which, then, with
    --incident or --order. Behind `--` an id may begin with a dash.
    """
    named = _Named(given["targets"], given["orders"], given["incidents"])
    if not (named.targets or named.orders or named.incidents):
        raise click.UsageError("say which: an order, I-N, --order or --incident")
    reason = given["reason"].strip()
    if not reason:
        raise click.UsageError("--reason must say why")
    who = given["by"] or this_person()
    done = asyncio.run(_close(settings_of(ctx), named, who, reason))
    if wants_json(ctx):
        closed = [f"I-{number}" for number in done.incidents]
        print_json({"orders": list(done.orders), "incidents": closed, "by": who})
        return
    besides = "".join(f" and incident I-{number}" for number in done.incidents)
    click.echo(f"closed {len(done.orders):,} orders{besides}")


@dataclass(frozen=True, slots=True)
class _Named:
    """What was named: by one word that may be either, or as what it is."""

    targets: tuple[str, ...]
    orders: tuple[str, ...]
    incidents: tuple[int, ...]


async def _close(settings: Settings, named: _Named, who: str, why: str) -> Closed:
    options = GatherOptions(logs=QUICK)
    orders: list[str] = []
    async with session(settings.database.dsn, settings.kafka, settings.flow, options) as opened:
        con = opened.connection
        if isinstance(con, Missing):
            raise UnreachableError(con.detail)
        ids, numbers = await _told_apart(con, settings.flow, named)
        for number in numbers:
            orders += (await close_incident(con, number, who=who, why=why)).orders
        if ids:
            orders += (await _close_orders(opened, ids, who, why)).orders
    return Closed(tuple(orders), tuple(numbers))


async def _told_apart(connection: Any, flow: Flow, named: _Named) -> tuple[list[str], list[int]]:
    """Return orders and incidents; a word that is both is refused before anything is closed."""
    ids, numbers = list(named.orders), list(named.incidents)
    for target in named.targets:
        number = incident_number(target)
        if number is None:
            ids.append(target)
        elif not await is_order(connection, flow, target):
            numbers.append(number)
        elif not await is_open_incident(connection, number):
            ids.append(target)
        else:
            raise click.UsageError(
                f"{target} is an order and an incident: say"
                f" `relay close --order {target} --reason WHY`"
                f" or `relay close --incident {target} --reason WHY`"
            )
    return ids, numbers


async def _close_orders(opened: Session, ids: Sequence[str], who: str, why: str) -> Closed:
    assert not isinstance(opened.connection, Missing)
    found = await opened.diagnose(ids)
    fine = [one for one in found if not found_something(one.verdict)]
    if fine:
        said = ", ".join(f"{one.order_id} ({one.verdict})" for one in fine[:5])
        raise NothingToCloseError(f"not overdue: {said}")
    unplaced = [one.order_id for one in found if one.placed_at is None]
    if unplaced:
        raise NotFoundError(f"no such order: {', '.join(unplaced[:5])}")
    return await close_orders(opened.connection, opened.flow, found, who=who, why=why)
