"""Repair: `relay replay returns`: returns that the confirmation consumer went past, once more.

Invariant: without --execute nothing is written; the consumer decides, with all its guards, and what
came of it is read back. Exit code 3: some could not be applied, or wait still.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Any

import click

from relay.cli.errors import Found
from relay.cli.output import echo, print_json, settings_of, wants_json
from relay.cli.parameters import SINCE
from relay.cli.replay_options import RangeType
from relay.orders.catalog import as_far_as_known
from relay.replay.candidates import canonical, first_written
from relay.replay.returns import ReturnsRead, Stretch, feed_returns, outcomes, still_pending
from relay.runtime.audit import Action, note_action, this_person
from relay.runtime.flow import Flow
from relay.runtime.operator_connection import operator_connection
from relay.runtime.settings import Settings

_POLL_SECONDS = 0.2


@click.command("returns")
@click.option("--order", "orders", multiple=True, metavar="ORDER", help="Returns of this order.")
@click.option(
    "--partition",
    type=click.IntRange(0),
    help="Returns in this partition of the returns topic; by default all.",
)
@click.option(
    "--offsets", type=RangeType(), help="Returns at these offsets of --partition, both inclusive."
)
@click.option(
    "--since",
    type=SINCE,
    help="Returns recorded since this time, or within this duration: 24h, 7d.",
)
@click.option(
    "--until",
    type=SINCE,
    help="Returns recorded before this time, or longer ago than this duration.",
)
@click.option(
    "--execute", is_flag=True, help="Give the returns to the consumer; without it, only count them."
)
@click.option("--reason", help="Why; recorded in the audit log. Needed with --execute.")
@click.option("--by", default=None, help="Who decides; by default the current user and host.")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Seconds to wait until the consumer has decided on them.",
)
@click.pass_context
def returns_command(ctx: click.Context, /, **given: Any) -> None:
    """Give returns to the confirmation consumer once more: counted first, then --execute.

    For returns that it went past: its offset was moved, or it was away for longer than its group's
    offsets are kept. One that was handled before is left alone, and no status moves back.
    """
    if given["offsets"] is not None and given["partition"] is None:
        raise click.UsageError("--offsets needs --partition: offsets are a partition's own")
    limits = (given["partition"], given["since"], given["until"])
    if not given["orders"] and all(one is None for one in limits):
        raise click.UsageError("say which: --order, --partition with --offsets, or --since")
    if given["execute"] and not (given["reason"] or "").strip():
        raise click.UsageError("--execute needs --reason: it is kept in the audit log")
    fed, came, waiting = asyncio.run(_feed(settings_of(ctx), given))
    _show(ctx, given, fed, came, waiting)


async def _feed(
    settings: Settings, given: dict[str, Any]
) -> tuple[ReturnsRead, dict[str, int], int]:
    async with operator_connection(settings.database.dsn, "replay") as connection:
        flow = await as_far_as_known(connection, settings.flow)
        stretch = await _stretch(connection, flow, given)
        fed = await feed_returns(
            connection, settings.kafka, flow, stretch, execute=given["execute"]
        )
        if not given["execute"]:
            return fed, {}, 0
        waiting = await _decided(connection, flow, fed, given["wait_seconds"])
        came = await outcomes(connection, flow, fed)
        await note_action(
            connection,
            Action(
                given["by"] or this_person(),
                "replay_returns",
                given["orders"][0] if len(given["orders"]) == 1 else None,
                given["reason"],
                f"{fed.fed - waiting} of {fed.fed} decided",
                {"stretch": stretch.as_data(), **fed.as_data(), "outcomes": came},
            ),
        )
        return fed, came, waiting


async def _stretch(connection: Any, flow: Flow, given: dict[str, Any]) -> Stretch:
    orders = canonical(flow, given["orders"])
    since: datetime | None = given["since"]
    if orders and since is None and given["partition"] is None:
        # No return is older than the event it answers.
        since = await first_written(connection, orders)
    low, high = given["offsets"] or (None, None)
    return Stretch(given["partition"], low, high, since, given["until"], frozenset(orders) or None)


async def _decided(connection: Any, flow: Flow, fed: ReturnsRead, wait_seconds: float) -> int:
    """Wait until the consumer has decided; return how many still wait."""
    until = time.monotonic() + wait_seconds
    waiting = await still_pending(connection, flow, fed)
    while waiting and time.monotonic() < until:
        await asyncio.sleep(_POLL_SECONDS)
        waiting = await still_pending(connection, flow, fed)
    return waiting


def _show(
    ctx: click.Context,
    given: dict[str, Any],
    fed: ReturnsRead,
    came: dict[str, int],
    waiting: int,
) -> None:
    refused = sum(count for name, count in came.items() if name.startswith("quarantined"))
    if wants_json(ctx):
        data = fed.as_data() | {"executed": given["execute"], "outcomes": came}
        print_json(data | {"still_waiting": waiting})
    else:
        echo(_lines(given, fed, came, waiting))
    if waiting or refused:
        raise Found(f"{waiting} returns wait for the consumer, {refused} were refused")


def _lines(
    given: dict[str, Any], fed: ReturnsRead, came: dict[str, int], waiting: int
) -> list[str]:
    verb = "were given" if given["execute"] else "would be given"
    lines = [
        f"{fed.fed:,} returns of {len(fed.orders):,} orders {verb} to the confirmation consumer",
        f" {fed.read:>9,}  records read",
        f" {fed.handled:>9,}  handled before, left alone",
    ]
    if fed.unreadable:
        lines.append(f" {fed.unreadable:>9,}  are no returns: `relay quarantine list` shows them")
    lines += [f"gone: partition {number} begins at {offset}" for number, offset in fed.gone.items()]
    lines += [f" {count:>9,}  {outcome}" for outcome, count in came.items()]
    if waiting:
        lines.append(f" {waiting:>9,}  wait: does `relay confirm` run?")
    return lines
