"""Verify: `relay reconcile`: database against Kafka against status, row by row."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from datetime import datetime

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from relay.cli.errors import Found
from relay.cli.output import echo, harmless, print_json, settings_of, wants_json
from relay.diagnose.reconcile.findings import MEANINGS, NEXT, Difference
from relay.diagnose.reconcile.open_cases import OpenCases
from relay.diagnose.reconcile.reconciliation import Range, Reconciliation, reconcile

_SHOWN = 10
_OPEN_SHOWN = 3


@click.command("reconcile", short_help="Database against Kafka against status, row by row.")
@click.option("--since", type=click.DateTime(), help="Rows and returns since this local time.")
@click.option("--until", type=click.DateTime(), help="Rows and returns before this local time.")
@click.option("--ids", metavar="FIRST-LAST", help="Rows with these outbox ids, in place of a time.")
@click.pass_context
def command(
    ctx: click.Context,
    since: datetime | None,
    until: datetime | None,
    ids: str | None,
) -> None:
    """Prove that every row has its record and every return its effect, or list those that do not.

    Without a range: everything that is retained. Exit code 3: something was found, or not all
    could be read.
    """
    settings = settings_of(ctx)
    within = _range(since, until, ids)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        tasks: dict[str, object] = {}

        def show(what: str, done: int, total: int) -> None:
            task = tasks.setdefault(what, bar.add_task(what) if what not in tasks else None)
            bar.update(task, completed=done, total=total)  # type: ignore[arg-type]

        done = asyncio.run(
            reconcile(settings.database.dsn, settings.kafka, settings.flow, within, progress=show)
        )
    if wants_json(ctx):
        print_json(_as_json(done))
    else:
        echo(_lines(harmless(done)))
    if not done.proven:
        raise Found


def _range(since: datetime | None, until: datetime | None, ids: str | None) -> Range:
    if ids is None:
        return Range(since.astimezone() if since else None, until.astimezone() if until else None)
    first, dash, last = ids.partition("-")
    if since or until:
        raise click.UsageError("--ids does not go with --since and --until")
    try:
        return Range(first_id=int(first), last_id=int(last if dash else first))
    except ValueError:
        raise click.UsageError(f"--ids {ids!r}: FIRST-LAST, two outbox ids") from None


def _as_json(done: Reconciliation) -> dict[str, object]:
    return {
        "proven": done.proven,
        "counts": done.tally.counts,
        "found": dict(done.tally.found),
        "findings": [asdict(finding) for finding in done.tally.findings],
        "unread": [f"{topic}[{partition}]" for topic, partition in sorted(done.unread)],
        "not_looked_at": done.unlooked,
        "open": {what: cases.count for what, cases in done.open_cases.items()},
        "open_orders": {what: list(cases.orders) for what, cases in done.open_cases.items()},
    }


def _lines(done: Reconciliation) -> list[str]:
    found = sum(done.tally.found.values())
    if done.proven:
        lines = [_proof(done)]
    elif found:
        lines = [f"FOUND: {found} that do not fit"]
    elif done.complete:
        lines = ["OPEN: what was read fits; of the rest see below"]
    else:
        lines = ["NOT PROVEN: not all could be read"]
    lines += [f"  {number:>9,}  {what}" for what, number in done.tally.counts.items()]
    for difference, number in done.tally.found.items():
        lines += _group(done, difference, number)
    lines += [_open(what, cases) for what, cases in done.open_cases.items()]
    if done.open_cases:
        lines.append("  next: relay unreturned; relay quarantine list")
    lines += [f"not looked at: {what}" for what in done.unlooked]
    if done.unread:
        names = ", ".join(f"{topic}[{partition}]" for topic, partition in sorted(done.unread))
        lines.append(f"not read to the end: {names}; run it again")
    return lines


def _open(what: str, cases: OpenCases) -> str:
    shown = ", ".join(cases.orders[:_OPEN_SHOWN])
    more = ", ..." if cases.count > _OPEN_SHOWN else ""
    return f"  {cases.count:>9,}  {what} (open){f': {shown}{more}' if shown else ''}"


def _proof(done: Reconciliation) -> str:
    """Say exactly what was proven: of what was read, and no more."""
    counts = done.tally.counts
    rows = counts.get("rows whose record is there", 0)
    returns = counts.get("returns decided on", 0)
    ended = counts.get("terminal statuses with their return", 0)
    statuses = f"{ended:,} terminal statuses have their return"
    return (
        f"PROVEN: {rows:,} rows have their record, {returns:,} returns were decided on, "
        f"{statuses if ended else 'no status was compared'}; nothing is open"
    )


def _group(done: Reconciliation, difference: Difference, number: int) -> list[str]:
    lines = [f"{difference.value}: {number:,} {MEANINGS[difference]}"]
    some = [f for f in done.tally.findings if f.difference is difference][:_SHOWN]
    lines += [f"  {finding.subject or '-'}  {finding.where}  {finding.detail}" for finding in some]
    if number > len(some):
        lines.append(f"  ... and {number - len(some):,} more (--json)")
    return [*lines, f"  next: {NEXT[difference]}"]
