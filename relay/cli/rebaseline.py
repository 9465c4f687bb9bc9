"""Repair: `relay rebaseline`: a new checkpoint after a restore or a copy, audited.

Invariant: without --execute nothing is changed; with it nothing is skipped: what has no proof of
its publication is sent, if need be again.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from relay.cli.errors import Found
from relay.cli.output import echo, own_settings, print_json, wants_json
from relay.repair.later_records import LaterRecords
from relay.repair.rebaseline import Plan, Rebaseline, Rebaselined, plan
from relay.repair.retained import RetainedRows
from relay.runtime.audit import this_person
from relay.runtime.flows import every_topic
from relay.runtime.operator_connection import operator_connection
from relay.runtime.printable import printable
from relay.runtime.settings import Settings

_SHOWN = 10


@click.command("rebaseline")
@click.option(
    "--execute", is_flag=True, help="Set the checkpoint; every `relay run` must be stopped."
)
@click.option(
    "--reason", default=None, help="Why; recorded in the audit log. Needed with --execute."
)
@click.option("--by", default=None, help="Who decides; by default the current user and host.")
@click.option(
    "--read-seconds",
    type=click.FloatRange(0),
    default=120.0,
    help="Seconds, at most, to read the topics behind the end of the delivery ledger.",
)
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Set a new checkpoint, after a dump was restored or the database copied.

    The relay refuses a checkpoint that was written elsewhere: transaction numbers mean nothing
    there. Without --execute: what is wrong, how many rows would be sent, which of them again, and
    which records on Kafka have no row any more (ghosts). Exit code 3: it is needed.
    """
    settings = own_settings(ctx)
    if given["execute"]:
        reason = (given["reason"] or "").strip()
        if not reason:
            raise click.UsageError("--execute needs --reason: it is kept")
        done = asyncio.run(_execute(settings, given["by"] or this_person(), reason))
        if wants_json(ctx):
            print_json(asdict(done))
        else:
            echo(_done_lines(done))
        return
    found = asyncio.run(_plan(settings, given["read_seconds"]))
    if wants_json(ctx):
        print_json(_as_data(found))
    else:
        echo(_plan_lines(found))
    if found.needed:
        raise Found


async def _plan(settings: Settings, read_seconds: float) -> Plan:
    async with operator_connection(settings.database.dsn, "rebaseline") as connection:
        return await plan(
            connection,
            settings.kafka,
            every_topic(settings.every_flow),
            at_most_seconds=read_seconds,
        )


async def _execute(settings: Settings, who: str, why: str) -> Rebaselined:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("rows renumbered", total=None)
        async with operator_connection(settings.database.dsn, "rebaseline") as connection:
            work = Rebaseline(
                connection,
                every_topic(settings.every_flow),
                who,
                why,
                told=lambda rows: bar.update(task, completed=rows),
            )
            return await work.run()


def _as_data(found: Plan) -> dict[str, Any]:
    return {
        "needed": found.needed,
        "wrong": list(found.baseline.wrong),
        "active_relay": found.baseline.active,
        "rows": asdict(found.rows),
        "later_records": asdict(found.later),
        "checkpoint": found.baseline.columns,
        "server": asdict(found.baseline.server),
    }


def _plan_lines(found: Plan) -> list[str]:
    lines = [f"WRONG: {one}" for one in found.baseline.wrong]
    if not found.needed:
        lines = ["the checkpoint is this database's own"]
    lines += [*_row_lines(found.rows), *_record_lines(found.later)]
    if found.baseline.active is not None:
        lines.append("a relay is active: stop every `relay run` before --execute")
    if not found.needed and found.rows.unpublished:
        lines.append(
            "rows that the relay has not come to leave by themselves; those that it was put past"
            " (`relay diagnose`: checkpoint_skipped) leave with a new checkpoint only"
        )
    if found.needed or found.rows.unpublished:
        lines.append("nothing was changed.  next  relay rebaseline --execute --reason WHY")
    return lines


def _row_lines(rows: RetainedRows) -> list[str]:
    since = "" if rows.oldest_at is None else f", from {rows.oldest_at} to {rows.newest_at}"
    lines = [
        f"  {rows.rows:>11,}  rows retained",
        f"  {rows.published:>11,}  with proof of their publication: they stay behind",
        f"  {rows.settled:>11,}  parked or discarded: they stay in quarantine",
        f"  {rows.unpublished:>11,}  without: they would be sent{since}",
    ]
    if rows.foreign:
        lines.append(f"  {rows.foreign:>11,}  with another cluster's transaction: renumbered")
    if rows.issued_twice:
        lines.append(
            f"  {rows.issued_twice:>11,}  share their id with another row (a copy without its"
            " sequences): an order's later event may have the lower id"
        )
    return lines


def _record_lines(later: LaterRecords) -> list[str]:
    if later.unreachable is not None:
        return [f"  Kafka cannot be read ({later.unreachable}): ghosts and duplicates are unknown"]
    lines = [
        f"  {later.records:>11,}  records on Kafka behind the ledger's end",
        f"  {later.duplicates:>11,}  of them are of rows that would be sent again: duplicates",
        f"  {later.ghosts:>11,}  of them have no row: ghosts (`relay reconcile` lists them)",
    ]
    lines += [
        f"      ghost  order {printable(order or '-')}  event {event_id}  {where}"
        for order, event_id, where in later.some[:_SHOWN]
    ]
    if later.unread:
        lines.append(f"  not read to the end: {', '.join(later.unread)}")
    return lines


def _done_lines(done: Rebaselined) -> list[str]:
    lines = [
        f"new checkpoint, epoch {done.epoch}: the relay will send {done.to_send:,} rows",
        f"  {done.set_behind:,} published rows were renumbered",
    ]
    if done.sequences:
        lines.append(f"  {done.sequences} sequences were set behind the ids given out")
    return [*lines, "next  relay run, then relay reconcile"]
