"""Repair: `relay close`: overdue orders or an incident closed by hand, with a reason.

Invariant: nothing is closed without a reason, and nothing without a row in the audit log.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import click

from relay.cli.output import print_json, settings_of, wants_json
from relay.diagnose.evidence.surroundings import Missing
from relay.diagnose.gather.orders import GatherOptions
from relay.diagnose.session import Session, UnreachableError, session
from relay.diagnose.unreturned import QUICK
from relay.diagnose.verdicts import found_something
from relay.repair.closing import Closed, NothingToCloseError, close_incident, close_orders
from relay.runtime.audit import this_person
from relay.runtime.settings import Settings

_INCIDENT = re.compile(r"[Ii]-(\d{1,18})")


@click.command("close")
@click.argument("targets", nargs=-1, required=True, metavar="(ORDER | I-N)...")
@click.option("--reason", required=True, help="Why; it is kept.")
@click.option("--by", default=None, help="Who; by default this user and host.")
@click.pass_context
def command(ctx: click.Context, targets: tuple[str, ...], reason: str, by: str | None) -> None:
    """Close overdue orders, or an incident with all its orders, by hand.

    They count as closed from then on, whatever is found later; a return that still comes is applied
    all the same.
    """
    if not reason.strip():
        raise click.UsageError("--reason must say why")
    who = by or this_person()
    done = asyncio.run(_close(settings_of(ctx), targets, who, reason.strip()))
    if wants_json(ctx):
        incidents = [f"I-{number}" for number in done.incidents]
        print_json({"orders": list(done.orders), "incidents": incidents, "by": who})
        return
    named = "".join(f" and incident I-{number}" for number in done.incidents)
    click.echo(f"closed {len(done.orders):,} orders{named}")


async def _close(settings: Settings, targets: Sequence[str], who: str, why: str) -> Closed:
    options = GatherOptions(logs=QUICK)
    numbers = [int(found[1]) for one in targets if (found := _INCIDENT.fullmatch(one))]
    ids = [one for one in targets if not _INCIDENT.fullmatch(one)]
    orders: list[str] = []
    async with session(settings.database.dsn, settings.kafka, settings.flow, options) as opened:
        con = opened.connection
        if isinstance(con, Missing):
            raise UnreachableError(con.detail)
        for number in numbers:
            orders += (await close_incident(con, number, who=who, why=why)).orders
        if ids:
            orders += (await _close_orders(opened, ids, who, why)).orders
    return Closed(tuple(orders), tuple(numbers))


async def _close_orders(opened: Session, ids: Sequence[str], who: str, why: str) -> Closed:
    assert not isinstance(opened.connection, Missing)
    found = await opened.diagnose(ids)
    fine = [one for one in found if not found_something(one.verdict)]
    if fine:
        said = ", ".join(f"{one.order_id} ({one.verdict})" for one in fine[:5])
        raise NothingToCloseError(f"not overdue: {said}")
    unplaced = [one.order_id for one in found if one.placed_at is None]
    if unplaced:
        raise NothingToCloseError(f"no such order: {', '.join(unplaced[:5])}")
    return await close_orders(opened.connection, found, who=who, why=why)
