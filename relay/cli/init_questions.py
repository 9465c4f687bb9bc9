"""Setup: what `relay init` asks, and what it takes where nobody is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from relay.runtime.printable import printable
from relay.setup.installing import look, outbox_types, words
from relay.setup.proposal import OrdersProposal, choose_table, propose_orders
from relay.setup.settings_text import Decisions
from relay.setup.survey import TableSeen
from relay.setup.vocabulary import Vocabulary, listed_words, propose


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options say.

    Attributes:
        asks: somebody is there to be asked.
        bootstrap_servers: from the environment.
    """

    given: Mapping[str, Any]
    asks: bool
    bootstrap_servers: str | None


def decide(dsn: str | None, asked: Asked) -> Decisions:
    """Look, propose, and ask.

    Raises:
        UnclearTableError, UnclearStatusError: no proposal can be made; the message names the
        option. DatabaseError: no connection.
    """
    given = asked.given
    tables = asyncio.run(look(dsn))
    orders = _orders(tables, asked)
    vocabulary = _vocabulary(dsn, orders, asked)
    source = click.get_current_context().get_parameter_source("time_zone")
    _show(orders, vocabulary, zone_is_said=source is not click.core.ParameterSource.DEFAULT)
    event_types = _event_types(dsn, tables, asked)
    return Decisions(
        orders=orders,
        words=vocabulary,
        flow_name=given["flow_name"],
        aggregate_type=given["aggregate_type"],
        event_types=event_types,
        deadline_seconds=given["deadline"],
        events_topic=_ask(asked, "topic of the events", given["events_topic"]),
        returns_topic=_ask(asked, "topic of the returns", given["returns_topic"]),
        processor_groups=_ask_list(
            asked, "consumer group of the order processor", given["processor_groups"]
        ),
        confirm_group=given["confirm_group"],
        mode=given["mode"],
        function=given["function"],
        time_zone=given["time_zone"],
        bootstrap_servers=asked.bootstrap_servers,
        events_since=given["events_since"],
    )


def _orders(tables: Sequence[TableSeen], asked: Asked) -> OrdersProposal:
    given = asked.given
    named = given["table"]
    if asked.asks and named is None:
        seen = [printable(one.name) for one in tables if not one.is_view]
        click.echo("tables: " + ", ".join(seen), err=True)
        try:
            proposed = choose_table(tables, None).name
        except ValueError:
            proposed = None
        named = click.prompt("the orders' table", default=proposed, err=True)
    found = propose_orders(
        choose_table(tables, named),
        key=given["key"],
        status=given["status_column"],
        submitted_at=given["time_column"],
        lookup=given["lookup"],
    )
    if not asked.asks:
        return found
    return propose_orders(
        found.table,
        key=given["key"] or _ask(asked, "an order's id is in", found.key.name),
        status=given["status_column"] or _ask(asked, "its status is in", found.status.name),
        submitted_at=given["time_column"]
        or _ask(asked, "when it was placed is in", found.submitted_at.name),
        lookup=given["lookup"],
    )


def _vocabulary(dsn: str | None, orders: OrdersProposal, asked: Asked) -> Vocabulary:
    given, status = asked.given, orders.status
    listed = [*status.labels] or listed_words(status.name, orders.table.checks)
    used = asyncio.run(words(dsn, orders.table, status.name))
    known = list(dict.fromkeys((*listed, *used)))
    if used:
        click.echo(f"status words in use: {', '.join(map(printable, used))}", err=True)
    found = propose(
        known,
        closed=bool(listed),
        default=status.default,
        initial=given["initial"],
        steps=given["steps"],
        final=given["final"],
        later=given["later"],
    )
    if asked.asks:
        found = propose(
            known,
            closed=bool(listed),
            default=status.default,
            initial=_ask(asked, "the status of a new order", found.initial),
            steps=_ask_list(asked, "statuses on the way", found.steps),
            final=_ask_list(asked, "statuses that end the wait", found.final),
            later=given["later"],
        )
    if not known and status.default is None and not (given["initial"] and given["final"]):
        click.echo(
            "no order is there yet, and the column names no words: those of the next line are"
            " guesses. Say your own with --initial and --final",
            err=True,
        )
    aliases = {**found.aliases, **given["aliases"]}
    return Vocabulary(found.initial, found.steps, found.final, found.later, aliases)


def _event_types(dsn: str | None, tables: Sequence[TableSeen], asked: Asked) -> Sequence[str]:
    given = asked.given
    said: tuple[str, ...] = given["event_types"]
    if not given["mirror"]:
        return _ask_list(asked, "event types, the first expects a return", said)
    source = choose_table(tables, given["mirror"])
    column = given["mirror_columns"].get("type", "type")
    seen = asyncio.run(outbox_types(dsn, source, column))
    if seen:
        click.echo(f"event types in {source.name}: {', '.join(map(printable, seen))}", err=True)
    explicit = click.get_current_context().get_parameter_source("event_types")
    if seen and explicit is click.core.ParameterSource.DEFAULT:
        return _ask_list(asked, "event types, the first expects a return", seen)
    return [*said, *(one for one in seen if one not in said)]


def _show(orders: OrdersProposal, vocabulary: Vocabulary, *, zone_is_said: bool) -> None:
    table, steps = orders.table, vocabulary.steps
    lines = (
        f"orders: {table.name}, id {orders.key.name} ({orders.key.type_name}),"
        f" status {orders.status.name}, placed {orders.submitted_at.name}"
        + (f", asked by {', '.join(orders.lookup)}" if orders.lookup else ""),
        f"status: {' -> '.join((vocabulary.initial, *steps, ' or '.join(vocabulary.final)))}"
        + (f"; later {', '.join(vocabulary.later)}" if vocabulary.later else ""),
    )
    for line in lines:
        click.echo(printable(line), err=True)
    if not orders.time_has_zone and not zone_is_said:
        click.echo(
            f"{orders.submitted_at.name} has no time zone: say whose time it is with --time-zone"
            " (UTC else)",
            err=True,
        )


def _ask(asked: Asked, what: str, default: str) -> str:
    if not asked.asks:
        return default
    answer: str = click.prompt(what, default=default, err=True)
    return answer


def _ask_list(asked: Asked, what: str, default: Sequence[str]) -> Sequence[str]:
    if not asked.asks:
        return default
    answer: str = click.prompt(f"{what} (comma-separated)", default=", ".join(default), err=True)
    return tuple(one.strip() for one in answer.split(",") if one.strip())
