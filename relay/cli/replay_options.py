"""Repair: the options of `relay replay` that say which events are meant."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from relay.cli.parameters import INCIDENT, SINCE
from relay.diagnose.verdicts import HOPS, Verdict
from relay.replay.candidates import canonical
from relay.replay.plan import NEVER
from relay.replay.selection import Selection, read_orders
from relay.runtime.flow import Flow

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

SENDABLE = [str(one) for one in Verdict if one not in NEVER or one is Verdict.PARKED]


class RangeType(click.ParamType[tuple[int | None, int | None]]):
    """Outbox ids: `1000-2000`, `1000-`, `-2000`, or one of them."""

    name = "ID-ID"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | None, int | None]:
        """Read it."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d{1,18})?(-)?(\d{1,18})?", value)
        if found is None or not (found[1] or found[3]):
            self.fail(f"{value!r} is no range of outbox ids like 1000-2000", param, ctx)
        low = int(found[1]) if found[1] else None
        high = int(found[3]) if found[3] else None
        if not found[2]:
            high = low
        if low is not None and high is not None and low > high:
            self.fail(f"{value!r}: the first id is larger than the last", param, ctx)
        return low, high


_SELECTION: Final = (
    click.option("--order", "orders", multiple=True, metavar="ORDER", help="Events of this order."),
    click.option(
        "--event",
        "events",
        multiple=True,
        metavar="ID",
        help="This event, by its event id.",
    ),
    click.option(
        "--customer", "customers", multiple=True, help="Events of this customer's orders."
    ),
    click.option("--type", "event_types", multiple=True, help="Events of this type."),
    click.option(
        "--since",
        type=SINCE,
        help="Events written since this time, or within this duration: 24h, 7d.",
    ),
    click.option(
        "--until",
        type=SINCE,
        help="Events written before this time, or longer ago than this duration.",
    ),
    click.option(
        "--outbox",
        type=RangeType(),
        help="Events with these outbox ids, both inclusive: 100-200.",
    ),
    click.option(
        "--hop",
        "hops",
        multiple=True,
        type=click.Choice([hop.value for hop in HOPS]),
        help="Orders that were lost at this hop.",
    ),
    click.option(
        "--verdict",
        "verdicts",
        multiple=True,
        type=click.Choice(SENDABLE),
        help="Orders with this verdict, even one that is not replayed by default.",
    ),
    click.option(
        "--incident",
        "incidents",
        multiple=True,
        type=INCIDENT,
        help="Orders of this incident.",
    ),
    click.option(
        "--from",
        "source",
        type=click.File("r", encoding="utf-8"),
        metavar="FILE",
        help="Orders of a file: JSON of `relay unreturned`, or an id per line; - is stdin.",
    ),
    click.option(
        "--all",
        "everything",
        is_flag=True,
        help="All of the chosen events, whether their orders have returned or not.",
    ),
)


def selects(function: CommandT) -> CommandT:
    """Add the options that say which events are meant; they combine."""
    for option in reversed(_SELECTION):
        function = option(function)
    return function


def selection_of(flow: Flow, given: dict[str, Any]) -> Selection:
    """Return what the options mean.

    Raises:
        SelectionError: the file cannot be read as orders, or names none.
        click.UsageError: the options contradict each other.
    """
    orders = list(given["orders"])
    source = given["source"]
    if source is not None:
        named = [order for order, _event in read_orders(source.read())]
        if not named:
            raise NothingNamedError(f"{source.name} names no order: nothing is to be replayed")
        orders += named
    since, until = given["since"], given["until"]
    if since is not None and until is not None and since >= until:
        raise click.UsageError("--since must be before --until")
    if given["everything"] and (given["hops"] or given["verdicts"]):
        raise click.UsageError("--all judges no order: --hop and --verdict do not go with it")
    low, high = given["outbox"] or (None, None)
    return Selection(
        orders=tuple(canonical(flow, orders)),
        events=tuple(one.lower() for one in given["events"]),
        customers=given["customers"],
        event_types=given["event_types"],
        incidents=given["incidents"],
        hops=given["hops"],
        verdicts=given["verdicts"],
        since=since,
        until=until,
        from_id=low,
        to_id=high,
        everything=given["everything"],
    )


class NothingNamedError(Exception):
    """A file or pipe without an order: not an error of anybody's, and nothing to do."""
