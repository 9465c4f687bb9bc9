"""Find: `relay incidents`: when, where and why returns were late or lost.

Invariant: the story of each is what was recorded; single losses that are ordinary make none. Exit
code 3 when one is open.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import click

from relay.cli.errors import Found, NotFoundError, NotLookedError
from relay.cli.output import echo, harmless, print_json, settings_of, wants_json
from relay.cli.parameters import INCIDENT, SINCE
from relay.cli.watchdog import watch_options
from relay.diagnose.causes import meaning_of
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.incidents.listing import IncidentSeen, list_incidents, single_orders
from relay.diagnose.incidents.next_step import next_command
from relay.diagnose.session import UnreachableError, session
from relay.diagnose.verdicts import HOPS, Hop, page
from relay.diagnose.watch.looked import Looked
from relay.diagnose.watch.watchdog import looked_by, watch_once
from relay.runtime.language import said
from relay.runtime.printable import printable
from relay.runtime.settings import Settings

_SHOWN = 5
_SAMPLE_ORDERS = 3


@click.command("incidents")
@click.argument("incident", type=INCIDENT, required=False)
@click.option("--all", "closed", is_flag=True, help="Show closed incidents, too.")
@click.option(
    "--since",
    type=SINCE,
    help="Incidents with orders placed since this time, or within this duration: 24h, 7d.",
)
@click.pass_context
def command(ctx: click.Context, incident: int | None, closed: bool, since: datetime | None) -> None:
    """Show when, where and why returns were late or lost, the open incidents first.

    With I-N: everything that is known of that incident.
    """
    settings = settings_of(ctx)
    everything = closed or incident is not None or since is not None
    seen, single, looked, unjudged = asyncio.run(_read(settings, incident, everything, since))
    if incident is not None and not seen:
        raise NotFoundError(f"there is no incident I-{incident}")
    if wants_json(ctx):
        incidents = [as_data(one) for one in seen]
        watch = looked.as_data()
        print_json({"incidents": incidents, "single_orders": single, "watch": watch})
    else:
        echo(shown(harmless(seen), single, looked, whole=incident is not None))
    if any(one.closed_at is None for one in seen):
        raise Found("incidents are open")
    if incident is None and unjudged is not None:
        raise NotLookedError(unjudged)
    if incident is None and looked.why_not is not None:
        raise NotLookedError(str(printable(looked.sentence() or "")))


async def _read(
    settings: Settings, incident: int | None, closed: bool, since: datetime | None
) -> tuple[list[IncidentSeen], int, Looked, str | None]:
    dsn, kafka, flow = settings.database.dsn, settings.kafka, settings.flow
    # Where no watchdog runs, what is overdue now is recorded first, if this role may.
    once = await watch_once(dsn, kafka, flow, watch_options(settings))
    async with session(dsn, kafka, flow) as opened:
        con = opened.connection
        if isinstance(con, Missing):
            raise UnreachableError(con.detail)
        seen = await list_incidents(con, flow, closed=closed, since=since, incident_id=incident)
        looked = await looked_by(con, once)
        return seen, await single_orders(con, flow), looked, await opened.unjudged()


def as_data(one: IncidentSeen) -> dict[str, Any]:
    """Return the incident for --json."""
    hop, verdict, cause = one.kind
    return {
        "incident": one.name,
        "hop": None if hop == "-" else hop,
        "verdict": verdict,
        "cause": cause,
        "from": one.from_at.isoformat(),
        "to": one.to_at.isoformat(),
        "orders": one.orders,
        "breakdown": one.breakdown,
        "story": one.story.get("text"),
        "example_orders": list(one.examples),
        "opened_at": one.opened_at.isoformat(),
        "closed_at": None if one.closed_at is None else one.closed_at.isoformat(),
        "closed_by": one.closed_by,
        "closed_why": one.closed_why,
        "fix": meaning_of(cause).fix,
        "next": next_command(one),
    }


def shown(
    seen: list[IncidentSeen], single: int, looked: Looked | None = None, *, whole: bool
) -> list[str]:
    """Return the lines for people: at most a screen."""
    alone = f"{single:,} overdue orders belong to none: `relay unreturned`" if single else ""
    blind = printable(looked.sentence() or "") if looked else ""
    if not seen:
        calm = click.style("no incident is open", fg="green", bold=True)
        if blind:
            calm = click.style("no incident is recorded as open", fg="yellow", bold=True)
        return [calm, *(f" {line}" for line in (blind, alone) if line)]
    lines: list[str] = []
    for one in seen[:_SHOWN]:
        lines += _one(one, whole=whole)
    if len(seen) > _SHOWN:
        lines.append(f" ... and {len(seen) - _SHOWN} more (--json, or relay incidents I-N)")
    if alone and not whole:
        lines.append(f" {alone}")
    if blind and not whole:
        lines.append(f" {blind}")
    return lines


def _one(one: IncidentSeen, *, whole: bool) -> list[str]:
    hop, verdict, cause = one.kind
    place = f"{Hop(hop).number} {hop}" if hop in HOPS else hop
    when = f"{one.from_at.astimezone():%m-%d %H:%M} - {one.to_at.astimezone():%H:%M %Z}"
    state = "open" if one.closed_at is None else f"closed by {one.closed_by}"
    colour = "red" if one.closed_at is None else None
    head = f"{one.name}  {place}: {verdict} / {cause}   {when}   {_counts(one)}   {state}"
    lines = [click.style(head, fg=colour, bold=True)]
    lines.append(f"      {said(one.story.get('text') or meaning_of(cause).meaning)}")
    if whole:
        lines += [f"      why   {said(meaning_of(cause).meaning)}"]
        lines += [f"      order {order}" for order in one.examples[:_SAMPLE_ORDERS]]
        if one.closed_at is None and one.orders > _SAMPLE_ORDERS:
            lines.append(f"      more  relay unreturned --incident {one.name} --ids")
        if one.closed_why:
            lines.append(f"      closed {one.closed_why}")
    fix = meaning_of(cause).fix
    if fix and (whole or one.closed_at is None):
        lines.append(f"      fix   {said(fix)}")
    if one.closed_at is None:
        lines.append(f"      next  {next_command(one)}")
    if whole:
        lines.append(f"      docs  {page(verdict)}")
    return lines


def _counts(one: IncidentSeen) -> str:
    parts = [f"{count:,} {name}" for name, count in sorted(one.breakdown.items())]
    return f"{one.orders:,} orders ({', '.join(parts)})" if parts else f"{one.orders:,} orders"
