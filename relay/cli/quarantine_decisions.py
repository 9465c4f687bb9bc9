"""Repair: `relay quarantine release` and `discard`: what a person decides.

Invariant: large decisions are asked about, every one has a reason, and what is told of a release is
what came of it: a request is never shown as sent.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import click

from relay.cli.errors import Found, NotFoundError
from relay.cli.output import echo, print_json, settings_of, wants_json
from relay.cli.quarantine_options import ASK_FROM, STATES, decides, selection_of, selects
from relay.cli.quarantine_text import released_lines
from relay.repair.held import count_held
from relay.repair.resolving import (
    Decision,
    Outcome,
    Resolved,
    foreign_groups,
    not_whole,
    outcome_of,
    resolve,
    waiting_behind,
)
from relay.repair.selection import select
from relay.runtime.active_services import active_services
from relay.runtime.audit import this_person
from relay.runtime.flow import Flow
from relay.runtime.operator_connection import operator_connection
from relay.runtime.settings import Settings

_POLL_SECONDS = 0.2


@click.command("release")
@selects
@decides
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(0),
    default=15.0,
    help="Seconds to wait for the result.",
)
@click.pass_context
def release_command(ctx: click.Context, /, **given: Any) -> None:
    """Let the services try again, after the cause was fixed.

    The relay sends a parked order's events in their order, before its newer ones; the confirmation
    consumer decides a return anew, as if it came now. A return that was discarded is taken back
    when its ID is given. Exit code 3: some are held again.
    """
    asyncio.run(_release(ctx, settings_of(ctx), given))


async def _release(ctx: click.Context, settings: Settings, given: dict[str, Any]) -> None:
    decision = _decision(Decision.release, given)
    async with operator_connection(settings.database.dsn, "quarantine") as connection:
        done = await _resolve(ctx, connection, given, decision, settings.flow)
        outcome, notes = await _wait(connection, done, settings.flow, given["wait_seconds"])
        notes += await not_whole(connection, done.others)
    if wants_json(ctx):
        print_json(
            {
                "released": len(done.ids),
                "left_alone": dict(done.left),
                "outcome": dict(outcome.counts),
                "notes": notes,
                "by": decision.who,
            }
        )
    else:
        echo(released_lines(done, outcome, notes))
    if outcome.counts.get("held_again"):
        raise Found(f"{outcome.counts['held_again']:,} are held again: `relay quarantine list`")


async def _wait(
    connection: Any, done: Resolved, flow: Flow, wait_seconds: float
) -> tuple[Outcome, list[str]]:
    """Wait for what comes of it, while somebody is there to pick it up; say what is missing."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + wait_seconds
    while True:
        outcome = await outcome_of(connection, done.ids)
        at_work = await active_services(connection)
        if not at_work.intersection(outcome.waiting) or loop.time() >= give_up_at:
            break
        await asyncio.sleep(_POLL_SECONDS)
    notes = []
    if "event" in set(outcome.waiting) - at_work:
        notes.append("no relay is active: events leave when one is (`relay run`)")
    if "return" in set(outcome.waiting) - at_work:
        notes.append("no confirmation consumer runs: returns are decided by `relay confirm`")
    groups = await foreign_groups(connection, done.ids, flow.confirm_group)
    if groups:
        notes.append(f"refused by group {', '.join(groups)}: only a consumer of that group decides")
    return outcome, notes


@click.command("discard")
@selects
@decides
@click.pass_context
def discard_command(ctx: click.Context, /, **given: Any) -> None:
    """Decide that rows are never sent or applied. They stay, and can be listed and exported."""
    asyncio.run(_discard(ctx, settings_of(ctx), given))


async def _discard(ctx: click.Context, settings: Settings, given: dict[str, Any]) -> None:
    decision = _decision(Decision.discard, given)
    async with operator_connection(settings.database.dsn, "quarantine") as connection:
        done = await _resolve(ctx, connection, given, decision, settings.flow)
        events, orders = await waiting_behind(connection, done.ids)
    if wants_json(ctx):
        print_json(
            {
                "discarded": len(done.ids),
                "left_alone": dict(done.left),
                "waiting_behind": events,
                "by": decision.who,
            }
        )
        return
    click.echo(f"discarded {len(done.ids):,}")
    click.echo(
        "".join(f"  left alone: {n:,} {state}\n" for state, n in done.left.items()), nl=False
    )
    if events:
        click.echo(
            f"  {events:,} later events of {orders:,} of these orders still wait behind them"
        )
        echo(["  next  relay quarantine release --held-for order_parked --order ORDER"])


def _decision(make: Callable[[str, str], Decision], given: dict[str, Any]) -> Decision:
    if not given["reason"].strip():
        raise click.UsageError("--reason must say why")
    return make(given["by"] or this_person(), given["reason"].strip())


async def _resolve(
    ctx: click.Context, connection: Any, given: dict[str, Any], decision: Decision, flow: Flow
) -> Resolved:
    # Named by its id a row is meant whatever state it is in; else what is held.
    selection = selection_of(flow, given, STATES if given["ids"] else ("held",))
    if selection.everything != given["everything"]:
        raise click.UsageError("say which: IDs, --order, --held-for, --kind, --since, or --all")
    ids = await select(connection, selection)
    _refuse_unknown(given["ids"], ids)
    if not ids:
        raise click.UsageError("nothing held fits: `relay quarantine list` shows what there is")
    await _confirm(ctx, connection, ids, decision, sure=given["yes"])
    done = Resolved()
    label = decision.name.removeprefix("quarantine_")
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=len(ids), label=label, file=sys.stderr, hidden=hidden) as bar:
        async for done in resolve(connection, ids, decision, selection):
            bar.update(len(done.ids) + done.left.total() - bar.pos)
    return done


def _refuse_unknown(asked: tuple[int, ...], found: list[int]) -> None:
    unknown = sorted(set(asked).difference(found))
    if unknown:
        numbers = ", ".join(map(str, unknown[:10]))
        raise NotFoundError(f"not in quarantine, or not what else is asked for: {numbers}")


async def _confirm(
    ctx: click.Context, connection: Any, ids: list[int], decision: Decision, *, sure: bool
) -> None:
    if sure or len(ids) < ASK_FROM:
        return
    for group in await count_held(connection, ids):
        click.echo(f"  {group.count:>9,}  {group.kind} {group.reason} ({group.state})", err=True)
    verb = decision.name.removeprefix("quarantine_")
    if wants_json(ctx) or not sys.stdin.isatty():
        raise click.UsageError(f"{verb} of {len(ids):,} rows: say --yes")
    click.confirm(f"{verb} {len(ids):,} rows?", abort=True, err=True)
