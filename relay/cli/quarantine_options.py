"""Repair: the options of `relay quarantine` that say which rows are meant, who decides, and why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from relay.cli.parameters import SINCE
from relay.diagnose.gather.lookup import canonical
from relay.repair.selection import OPEN, Selection, State
from relay.runtime.flow import Flow

ASK_FROM = 100
STATES: tuple[State, ...] = ("held", "release_requested", "released", "discarded")

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def selects(function: CommandT) -> CommandT:
    """Add the options that say which rows are meant; they combine."""
    for option in reversed(
        (
            click.argument("ids", nargs=-1, type=click.IntRange(1), metavar="[ID]..."),
            click.option("--order", "orders", multiple=True, help="Rows of this order."),
            click.option(
                "--held-for",
                "reasons",
                multiple=True,
                help="Rows held for this reason: too_large, conflict, ...",
            ),
            click.option(
                "--kind", type=click.Choice(["event", "return"]), help="Rows of this kind."
            ),
            click.option(
                "--since",
                type=SINCE,
                help="Rows first seen since this time, or within this duration: 24h, 7d.",
            ),
            click.option(
                "--until",
                type=SINCE,
                help="Rows first seen before this time, or longer ago than this duration.",
            ),
        )
    ):
        function = option(function)
    return function


def in_states(function: CommandT) -> CommandT:
    """Add the option that says in which states rows are meant; see `states_of`."""
    return click.option(
        "--state",
        "states",
        multiple=True,
        type=click.Choice([*STATES, "all"]),
        help="Rows in this state (default: those that wait).",
    )(function)


def states_of(given: dict[str, Any]) -> tuple[State, ...]:
    """Return the states that are meant; by default those that wait."""
    states: tuple[State, ...] = given["states"] or OPEN
    return STATES if "all" in states else states


def decides(function: CommandT) -> CommandT:
    """Add the options of what changes something."""
    for option in reversed(
        (
            click.option("--all", "everything", is_flag=True, help="All rows that wait."),
            click.option("--reason", required=True, help="Why; recorded in the audit log."),
            click.option(
                "--by", default=None, help="Who decides; by default the current user and host."
            ),
            click.option(
                "--yes",
                is_flag=True,
                help=f"Do not ask for confirmation ({ASK_FROM} rows or more).",
            ),
        )
    ):
        function = option(function)
    return function


def selection_of(flow: Flow, given: dict[str, Any], states: tuple[State, ...]) -> Selection:
    """Return what the options mean; raises click.UsageError where they contradict each other."""
    orders = given["orders"]
    # As people write them, and as the order service wrote them.
    spelt = dict.fromkeys((*orders, *canonical(flow, orders)))
    since, until = _times(given["since"], given["until"])
    return Selection(
        ids=given["ids"] or None,
        orders=tuple(spelt) or None,
        aggregate_type=flow.aggregate_type if orders else None,
        reasons=given["reasons"] or None,
        kind=given["kind"],
        since=since,
        until=until,
        states=states,
        other_flows=(flow.others.aggregate_types, flow.others.groups),
    )


def _times(
    since: datetime | None, until: datetime | None
) -> tuple[datetime | None, datetime | None]:
    if since is not None and until is not None and since >= until:
        raise click.UsageError("--since must be before --until")
    return since, until
