"""Setup: `relay init`: looks at the shop's database, and sets everything up beside it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from relay.cli.check import check_and_print
from relay.cli.init_questions import Asked, decide
from relay.cli.output import print_json, wants_json
from relay.cli.parameters import SinceType
from relay.cli.trigger import pairs
from relay.runtime.settings import Settings, load_settings
from relay.runtime.settings_sources import DEFAULT_FILE, file_table
from relay.setup.installing import (
    Logins,
    MirrorTrigger,
    Plan,
    apply_to_database,
    make_flow_topics,
    make_plan,
    refuse_unreachable,
)
from relay.setup.order_trigger import OrderTrigger
from relay.setup.settings_text import Decisions, flow_text, settings_text
from relay.telemetry.logs import configure_command

if TYPE_CHECKING:
    from collections.abc import Callable

_TABLE: Final = [
    click.option("--table", help="The orders' table; else the likeliest is proposed."),
    click.option("--key", metavar="COLUMN", help="An order's id in events; else its primary key."),
    click.option("--status-column", metavar="COLUMN", help="Where an order's status is."),
    click.option("--time-column", metavar="COLUMN", help="When an order was placed."),
    click.option(
        "--time-zone",
        default="UTC",
        show_default=True,
        help=("Whose time a column without a zone holds, as Europe/Berlin."),
    ),
    click.option(
        "--lookup",
        multiple=True,
        metavar="COLUMN",
        help=("By which people ask for an order, as its number; may be given again."),
    ),
]
_WORDS: Final = [
    click.option("--initial", metavar="STATUS", help="The status of a new order."),
    click.option(
        "--step",
        "steps",
        multiple=True,
        metavar="STATUS",
        help=("A status on the way, in their order; may be given again."),
    ),
    click.option(
        "--final",
        multiple=True,
        metavar="STATUS",
        help=("A status that ends the wait, as confirmed; may be given again."),
    ),
    click.option(
        "--later",
        multiple=True,
        metavar="STATUS",
        help=("A status that the shop gives afterwards, as shipped; may be given again."),
    ),
    click.option(
        "--alias",
        "aliases",
        multiple=True,
        metavar="WORD=STATUS",
        callback=pairs,
        help=("The processor's own word for a status; may be given again."),
    ),
]
_FLOW: Final = [
    click.option(
        "--flow",
        "flow_name",
        default="orders",
        show_default=True,
        help="The flow's name in settings and metrics; another one than the file's is added.",
    ),
    click.option(
        "--aggregate-type",
        default="order",
        show_default=True,
        help=("The `aggregate_type` of its outbox rows."),
    ),
    click.option(
        "--event-type",
        "event_types",
        multiple=True,
        default=("order.placed",),
        show_default=True,
        help=("The first expects a return; may be given again for others that expect none."),
    ),
    click.option(
        "--events-since",
        type=SinceType(),
        metavar="TIME",
        help=(
            "The moment of the cut-over: orders placed earlier have no event, as"
            " 2026-11-01T08:00Z, 0s (now), 2h (ago); else since the first event."
        ),
    ),
    click.option(
        "--deadline", default=900.0, show_default=True, help=("Seconds until a return is overdue.")
    ),
    click.option(
        "--events-topic", default="orders.events", show_default=True, help="Where events go."
    ),
    click.option(
        "--returns-topic",
        default="orders.returns",
        show_default=True,
        help="Where returns come from.",
    ),
    click.option(
        "--processor-group",
        "processor_groups",
        multiple=True,
        default=("order-processor",),
        show_default=True,
        help=("Consumer group of the order processor; may be given again."),
    ),
    click.option(
        "--confirm-group",
        default="order-confirmation",
        show_default=True,
        help=("Consumer group of `relay confirm`."),
    ),
    click.option(
        "--returns",
        "mode",
        type=click.Choice(["columns", "function", "observe"]),
        default="columns",
        show_default=True,
        help=(
            "How returns are applied: the status column is written, your SQL function called, or "
            "they are only noted."
        ),
    ),
    click.option("--function", metavar="SCHEMA.NAME", help="For --returns function."),
]
_LOGINS: Final = [
    click.option("--order-service", metavar="LOGIN", help="The shop's login: may append events."),
    click.option(
        "--services", metavar="LOGIN", help="The login of `relay run` and `relay confirm`."
    ),
    click.option("--operator", metavar="LOGIN", help="Who diagnoses and repairs."),
]
_TRIGGER: Final = [
    click.option(
        "--trigger",
        is_flag=True,
        help=("A trigger of the orders' table writes the events; the shop's code stays as it is."),
    ),
    click.option(
        "--payload",
        metavar="SCHEMA.NAME",
        help=("For --trigger: your function (text) that returns the event's json."),
    ),
    click.option(
        "--payload-column",
        "payload_columns",
        multiple=True,
        metavar="COLUMN",
        help=("For --trigger without --payload: what the event says; may be given again."),
    ),
    click.option(
        "--mirror",
        metavar="TABLE",
        help=("An existing outbox table of Debezium's shape is copied by a trigger."),
    ),
    click.option(
        "--column",
        "mirror_columns",
        multiple=True,
        metavar="NAME=COLUMN",
        callback=pairs,
        help="For --mirror, as in `relay trigger mirror`.",
    ),
    click.option(
        "--content-type",
        "mirror_content_type",
        metavar="TYPE",
        help="For --mirror, as in `relay trigger mirror`.",
    ),
]
_DOING: Final = [
    click.option(
        "--apply",
        "do_it",
        is_flag=True,
        help=("Do it: schema, grants, trigger, index and topics; else they are printed."),
    ),
    click.option(
        "--topics/--no-topics",
        default=True,
        show_default=True,
        help=("With --apply: make the topics that are missing."),
    ),
    click.option(
        "--partitions",
        default=6,
        show_default=True,
        type=click.IntRange(1, 1000),
        help=("Of each topic that is made."),
    ),
    click.option("--force", is_flag=True, help="Write over a settings file that says otherwise."),
    click.option("--yes", "-y", is_flag=True, help="Ask nothing: take what is proposed."),
]


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed([*_TABLE, *_WORDS, *_FLOW, *_LOGINS, *_TRIGGER, *_DOING]):
        function = option(function)
    return function


@click.command("init", short_help="Set everything up beside the shop's own tables.")
@_options
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Look at the database that DATABASE_URL names, and set everything up beside its tables.

    It proposes the orders' table, its columns and status words, writes relay.toml (or --config),
    and prints the rest, or does it with --apply: schema, grants, trigger, topics. At a terminal it
    asks where an option does not say; it ends with `relay check`. Run it again as often as you
    like.
    """
    configure_command()
    _refuse_contradictions(given)
    path = Path(ctx.find_root().obj["config"] or DEFAULT_FILE)
    ground = load_settings(os.devnull)
    asks = sys.stdin.isatty() and not given["yes"] and not wants_json(ctx)
    asked = Asked(given, asks=asks, bootstrap_servers=os.environ.get("KAFKA_BOOTSTRAP_SERVERS"))
    text = _text(path, decide(ground.database.dsn, asked))
    settings = _read_back(path, text, given["flow_name"])
    plan = asyncio.run(
        make_plan(settings.database.dsn, settings.flow, _logins(given), _trigger(given, settings))
    )
    _refuse_other(path, text, force=given["force"] or _is_added(path, given["flow_name"]))
    if not given["do_it"]:
        _write(path, text)
        _print(ctx, path, plan)
        return
    if given["topics"]:
        asyncio.run(refuse_unreachable(settings.kafka))
    _apply(settings, plan)
    _write(path, text)
    if given["topics"]:
        _make_topics(settings, given["partitions"])
    check_and_print(ctx, settings)


def _refuse_contradictions(given: dict[str, Any]) -> None:
    if given["trigger"] and given["mirror"]:
        raise click.UsageError("--trigger and --mirror exclude each other")
    if given["trigger"] and bool(given["payload"]) == bool(given["payload_columns"]):
        raise click.UsageError(
            "--trigger needs what the event says: --payload SCHEMA.FUNCTION, or --payload-column"
            " for each column of the orders' table"
        )
    if (given["mode"] == "function") != bool(given["function"]):
        raise click.UsageError("--function is given exactly with --returns function")


def _logins(given: dict[str, Any]) -> Logins:
    return Logins(given["order_service"], given["services"], given["operator"])


def _trigger(given: dict[str, Any], settings: Settings) -> OrderTrigger | MirrorTrigger | None:
    if given["mirror"]:
        return MirrorTrigger(given["mirror"], given["mirror_columns"], given["mirror_content_type"])
    if not given["trigger"]:
        return None
    placed = next(iter(settings.flow.deadlines))
    return OrderTrigger(placed, {}, given["payload"], given["payload_columns"])


def _flows(path: Path) -> list[str]:
    """Return the flows of the settings file; none where it has none, or there is none."""
    if not path.exists():
        return []
    flows = file_table(path, {}).get("flow", {})
    return list(flows) if isinstance(flows, dict) else []


def _is_added(path: Path, flow: str) -> bool:
    flows = _flows(path)
    return bool(flows) and flow not in flows


def _text(path: Path, made: Decisions) -> str:
    """Return the file: with this flow alone, or behind what it has of others.

    Raises:
        click.UsageError: the flow stands there among others, which would be lost.
    """
    flows = _flows(path)
    if _is_added(path, made.flow_name):
        there = path.read_text("utf-8").rstrip("\n")
        return f"{there}\n\n{flow_text(made)}"
    if len(flows) > 1:
        others = ", ".join(one for one in flows if one != made.flow_name)
        raise click.UsageError(
            f"{path} has the flow {made.flow_name} beside {others}: correct [flow.{made.flow_name}]"
            " there, or take it out and run this again: it is added"
        )
    return settings_text(made)


def _read_back(path: Path, text: str, flow: str) -> Settings:
    """Read the file as every service will, before it takes its place.

    Raises:
        SettingsError: what was decided contradicts itself; nothing is left.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, "utf-8")
    try:
        return load_settings(beside, flow=flow)
    finally:
        beside.unlink()


def _refuse_other(path: Path, text: str, *, force: bool) -> None:
    there = path.read_text("utf-8") if path.exists() else None
    if there not in {None, text} and not force:
        raise click.UsageError(f"{path} is there and says otherwise: --force writes over it")


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, "utf-8")
    beside.replace(path)
    click.echo(f"wrote {path}", err=True)


def _print(ctx: click.Context, path: Path, plan: Plan) -> None:
    if wants_json(ctx):
        print_json({"settings": str(path), "sql": plan.as_script()})
        return
    click.echo("-- After `relay migrate`, whose SQL `relay migrate --sql` prints:")
    click.echo(plan.as_script(), nl=False)
    click.echo("nothing else was done: `relay init --apply` does it, then checks", err=True)


def _apply(settings: Settings, plan: Plan) -> None:
    applied = asyncio.run(apply_to_database(settings.database.dsn, plan))
    click.echo(f"schema: {len(applied)} files applied; {len(plan.statements)} statements", err=True)


def _make_topics(settings: Settings, partitions: int) -> None:
    made = asyncio.run(
        make_flow_topics(
            settings.kafka,
            settings.flow,
            partitions=partitions,
            outbox_days=settings.maintenance.outbox_days,
            inbox_days=settings.maintenance.inbox_days,
        )
    )
    click.echo(f"topics made: {', '.join(made) or 'none, they are there'}", err=True)
