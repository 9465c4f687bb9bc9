"""Find: `relay unreturned`: the overdue orders, by hop, cause and age.

Invariant: at most a screen for people; everything under --json; order ids alone under --ids, for
pipes. Exit code 3 when there are any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from relay.cli.errors import Found, NotLookedError
from relay.cli.output import echo, print_json, settings_of, wants_json
from relay.cli.parameters import INCIDENT, SINCE
from relay.diagnose.gather.orders import GatherOptions
from relay.diagnose.session import session
from relay.diagnose.unreturned import (
    NOT_LOOKED_AT,
    QUICK,
    Unreturned,
    UnreturnedList,
    list_unreturned,
)
from relay.diagnose.verdicts import HOPS, Fate
from relay.runtime.command_line import command as command_to_copy
from relay.runtime.durations import duration
from relay.runtime.language import said
from relay.runtime.printable import printable
from relay.runtime.settings import Settings

_LINES = 15
# So many orders that belong to no incident each get a command of their own.
_ALONE = 3


@click.command("unreturned")
@click.option(
    "--since", type=SINCE, help="Orders placed since this time, or within this duration: 24h, 7d."
)
@click.option(
    "--ids", is_flag=True, help="Print order ids only, one per line, for `relay diagnose -`."
)
@click.option(
    "--hop", type=click.Choice([hop.value for hop in HOPS]), help="Orders overdue at this hop."
)
@click.option("--incident", type=INCIDENT, help="Orders of this incident: I-17.")
@click.option("--limit", type=click.IntRange(1), default=100_000, help="Number of orders at most.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """List the orders whose return is overdue, by hop and cause.

    Diagnoses are shown as the watchdog recorded them. Exit code 3: orders are overdue.
    """
    settings = settings_of(ctx, piped=given["ids"])
    found, unjudged = asyncio.run(_read(settings, given["since"], given["limit"]))
    if given["hop"] is not None:
        found.orders = [one for one in found.orders if one.hop == given["hop"]]
    if given["incident"] is not None:
        found.orders = [one for one in found.orders if one.incident_id == given["incident"]]
    if wants_json(ctx):
        orders = [one.as_json(settings.trace.url) for one in found.orders]
        words = None if found.unknown_statuses is None else dict(found.unknown_statuses)
        print_json({"orders": orders, "by_hop": found.by_hop(), "unknown_statuses": words})
    elif given["ids"]:
        click.echo("".join(f"{printable(one.order_id)}\n" for one in found.orders), nl=False)
    elif found.orders or unjudged is None:
        echo(map(said, shown(found, datetime.now(UTC))))
    if found.orders:
        raise Found(f"{len(found.orders)} orders are overdue")
    if found.unknown_statuses:
        raise Found("orders have a status that the flow does not know")
    if unjudged is not None:
        raise NotLookedError(unjudged)


async def _read(
    settings: Settings, since: datetime | None, at_most: int
) -> tuple[UnreturnedList, str | None]:
    options = GatherOptions(since, QUICK)
    async with session(settings.database.dsn, settings.kafka, settings.flow, options) as opened:
        return await list_unreturned(opened, since, at_most), await opened.unjudged()


Kind = tuple[int, str, str, str]


def shown(found: UnreturnedList, now_at: datetime) -> list[str]:
    """Return the lines for people."""
    words = _words(found.unknown_statuses)
    if not found.orders:
        colour = "yellow" if words else "green"
        return [click.style("no order is overdue", fg=colour, bold=True), *words]
    oldest = duration((now_at - min(one.placed_at for one in found.orders)).total_seconds())
    more = "more than " if found.cut else ""
    head = f"{more}{len(found.orders):,} orders are overdue, the oldest for {oldest}"
    lost = any(one.fate is Fate.LOST for one in found.orders)
    lines = [click.style(head, fg="red" if lost else "yellow", bold=True)]
    kinds: dict[Kind, list[datetime]] = {}
    for one in found.orders:
        kinds.setdefault(_kind(one), []).append(one.placed_at)
    for kind, placed in sorted(kinds.items(), key=lambda one: (one[0][0], -len(one[1])))[:_LINES]:
        lines.append(_kind_line(kind, placed, now_at))
    if len(kinds) > _LINES:
        lines.append(f" ... and {len(kinds) - _LINES} more kinds (--json)")
    incidents = sorted({one.incident_id for one in found.orders if one.incident_id is not None})
    lines += words
    lines += [f" next  {one}" for one in _next(found.orders, incidents)]
    return lines


def _words(counts: Mapping[str, int] | None) -> list[str]:
    """Tell of orders that nobody can call returned or not."""
    if counts is None:
        return [" statuses that the flow does not know were not looked for: see `relay check`"]
    return [
        f" {count:>7,}  have the status {printable(word)!r}, which the flow does not know"
        for word, count in counts.items()
    ]


def _kind(one: Unreturned) -> Kind:
    number = next((hop.number for hop in HOPS if hop.value == one.hop), 0)
    return number, one.hop or "-", one.verdict or NOT_LOOKED_AT, one.cause or "-"


def _kind_line(kind: Kind, placed: Sequence[datetime], now_at: datetime) -> str:
    number, hop, verdict, cause = kind
    age = duration((now_at - min(placed)).total_seconds())
    place = f"{number} {printable(hop)}" if number else "-"
    said = f"{printable(verdict)} / {printable(cause)}"
    return f" {len(placed):>7,}  {place:<10} {said}  oldest {age}"


def _next(orders: Sequence[Unreturned], incidents: Sequence[int]) -> list[str]:
    """Return what to run: for incidents together, and for the orders that belong to none.

    A few of these each get a command of their own: the replay where that is all there is to do.
    """
    alone = [one for one in orders if one.incident_id is None]
    lines = ["relay incidents"] if incidents else []
    if len(alone) > _ALONE:
        return [*lines, "relay diagnose"]
    return [*lines, *dict.fromkeys(map(_of_one, alone))]


def _of_one(order: Unreturned) -> str:
    commands = [one for one in order.next if one != "relay incidents"]
    if commands and commands[0].startswith("relay replay "):
        return printable(commands[0])
    return command_to_copy("relay diagnose {order}", order=printable(order.order_id))
