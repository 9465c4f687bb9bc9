"""Setup: `relay trigger`: prints triggers that write the outbox, where code is not to change."""

from __future__ import annotations

import asyncio
from typing import Final

import click

from relay.cli.output import own_settings
from relay.setup.mirror_trigger import CutOver
from relay.setup.order_trigger import OrderTrigger
from relay.setup.triggers import print_mirror_back, print_mirror_trigger, print_order_trigger

_WITHIN: Final = click.option(
    "--within-transaction",
    is_flag=True,
    help="Without BEGIN and COMMIT, for tools that open a transaction themselves.",
)


def pairs(_ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Read `NAME=VALUE` options, each name once.

    Raises:
        click.BadParameter: no `=`, an empty side, or a name twice.
    """
    found: dict[str, str] = {}
    for value in values:
        name, equals, other = value.rpartition("=")
        if not (name and equals and other):
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", param=param)
        if name in found:
            raise click.BadParameter(f"{name!r} stands there twice", param=param)
        found[name] = other
    return found


@click.group("trigger", short_help="Print a trigger that writes the outbox.")
def command() -> None:
    """Print SQL for a trigger that writes the outbox; nothing is applied.

    `orders` is for a shop that has no outbox, `mirror` for one with a table of Debezium's shape.
    """


@command.command("orders")
@click.option(
    "--payload",
    "function",
    metavar="SCHEMA.NAME",
    help=("Your function (text) that returns the event's json for an order's id."),
)
@click.option(
    "--payload-column",
    "columns",
    multiple=True,
    metavar="COLUMN",
    help=("Without --payload: make such a function, of these columns of the orders table."),
)
@click.option(
    "--placed",
    metavar="EVENT_TYPE",
    help=("Event type of a new order; by default the flow's first that has a deadline."),
)
@click.option("--no-placed", is_flag=True, help="New orders write no event.")
@click.option(
    "--on-status",
    multiple=True,
    metavar="STATUS=EVENT_TYPE",
    callback=pairs,
    help=("An order that comes to this status writes this event, too; may be given again."),
)
@_WITHIN
@click.pass_context
def orders(
    ctx: click.Context,
    *,
    function: str | None,
    columns: tuple[str, ...],
    placed: str | None,
    no_placed: bool,
    on_status: dict[str, str],
    within_transaction: bool,
) -> None:
    """Print the trigger of the orders table that the settings name.

    It writes the event at the commit of the order's own transaction, with what your function says
    of the order then, its lines included.
    """
    if function and columns:
        raise click.UsageError("--payload and --payload-column exclude each other")
    if placed and no_placed:
        raise click.UsageError("--placed and --no-placed exclude each other")
    settings = own_settings(ctx)
    first = next(iter(settings.flow.deadlines or settings.flow.events))
    wanted = OrderTrigger(
        placed=None if no_placed else placed or first,
        on_status=on_status,
        payload_function=function,
        payload_columns=columns,
    )
    printed = asyncio.run(print_order_trigger(settings.database.dsn, settings.flow, wanted))
    click.echo(_script(printed, within_transaction), nl=False)


@command.command("mirror")
@click.argument("table")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME=COLUMN",
    callback=pairs,
    help=(
        "Where a column has another name than Debezium's (id, aggregatetype, aggregateid, type, "
        "payload); also headers, traceparent, tracestate, content_type."
    ),
)
@click.option(
    "--content-type",
    metavar="TYPE",
    help="The payload is bytea and not JSON: it is copied as it is, with this content type.",
)
@click.option(
    "--publication",
    metavar="NAME",
    help="The table leaves this publication at the same row: Debezium has all before, and no more.",
)
@click.option(
    "--backlog",
    metavar="CONDITION",
    help="Copy rows that are there, too: SQL over the table, as 'published_at IS NULL'.",
)
@click.option("--order-by", metavar="SQL", help="The order of --backlog, as id.")
@click.option(
    "--back",
    "back_to",
    metavar="NAME",
    help="Take the trigger away, and give the table to this publication at the same row.",
)
@_WITHIN
@click.pass_context
def mirror(
    ctx: click.Context,
    *,
    table: str,
    columns: dict[str, str],
    content_type: str | None,
    publication: str | None,
    backlog: str | None,
    order_by: str | None,
    back_to: str | None,
    within_transaction: bool,
) -> None:
    """Print the trigger that copies the rows of an existing outbox TABLE, in their own transaction.

    It works where the rows are deleted at once, too.
    """
    if order_by and backlog is None:
        raise click.UsageError("--order-by belongs to --backlog")
    settings = own_settings(ctx)
    if back_to is not None:
        if publication or backlog or columns or content_type:
            raise click.UsageError("--back stands alone: it takes the trigger away")
        made = asyncio.run(print_mirror_back(settings.database.dsn, table, back_to))
        click.echo(_script(made, within_transaction), nl=False)
        return
    cut_over = CutOver(publication, backlog, order_by)
    printed = asyncio.run(
        print_mirror_trigger(settings.database.dsn, table, columns, cut_over, content_type)
    )
    click.echo(_script(printed, within_transaction), nl=False)


def _script(statements: str, within_transaction: bool) -> str:
    return statements if within_transaction else f"BEGIN;\n{statements}\nCOMMIT;\n"
