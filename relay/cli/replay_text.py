"""Repair: what `relay replay` shows to people: plans, progress, and what came of it.

Invariant: "sent" is never written where "returned" is meant.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import click

from relay.diagnose.verdicts import HOPS
from relay.replay.conductor import Progress
from relay.replay.jobs import Job
from relay.replay.running import Outcome, following
from relay.runtime.printable import printable

_KINDS = 12
_EXAMPLES = 5


def plan_lines(job: Job) -> Iterator[str]:
    """Show a plan."""
    plan = job.plan
    where = printable(", ".join(plan.get("topics", {})) or "no topic")
    events = f"{job.item_count:,} events"
    head = f"replay {job.replay_id}: {events} would go to {where}; nothing is sent yet"
    yield click.style(head, bold=True)
    for kind in plan.get("by_kind", [])[:_KINDS]:
        yield f" {kind['count']:>9,}  {_kind(kind)}"
    if plan.get("missing"):
        yield f" {len(plan['missing']):>9,}  1 place    events are written from their orders first"
    if plan.get("returns"):
        yield f" {len(plan['returns']):>9,}  5 confirm  returns are given to the consumer once more"
    if plan.get("skipped"):
        yield "left alone"
    for skipped in plan.get("skipped", []):
        command = f"   {printable(skipped['next'])}" if skipped["next"] else ""
        yield f" {skipped['count']:>9,}  {skipped['reason']}{command}"
    if plan.get("seen_twice"):
        yield f"the processor has seen {plan['seen_twice']:,} of these events before"
    if plan.get("seen_behind_newer"):
        yield f"{plan['seen_behind_newer']:,} of them go out after a newer one of their order"
    for gone in plan.get("dropped", []):
        yield (
            f"gone: {gone['rows']:,} events of {gone['partition_name']}"
            f" ({gone['from_at']} to {gone['to_at']}): their partition was dropped"
        )
    if plan.get("cut_at"):
        yield f"only the oldest {plan['cut_at']:,} overdue orders were looked at; there are more"
    yield from _repair_lines(plan.get("mended", {}))


def _kind(kind: Mapping[str, Any]) -> str:
    number = next((hop.number for hop in HOPS if hop.value == kind["hop"]), "-")
    return f"{number} {kind['hop'] or '-':<8} {kind['verdict']} / {kind['cause']}"


def _repair_lines(mended: Mapping[str, Any]) -> Iterator[str]:
    for hop, seen in mended.items():
        shown = seen.get("shown") is not False
        works = "works" if shown else click.style("runs, not shown to work", fg="yellow")
        state = works if seen["healthy"] else click.style("does NOT work", fg="red")
        said = "; ".join(filter(None, (seen["run_by"], seen["note"])))
        yield f"hop {hop:<8} {state}{': ' if said else ''}{said}"
    if any(seen["healthy"] and seen.get("shown") is False for seen in mended.values()):
        yield (
            "no order that was placed after these has come back: whether the cause is gone is not"
            " shown; send a few first"
        )


def plan_next(job: Job) -> list[str]:
    """Return what to run after a plan."""
    if not job.nothing:
        return [f'relay replay resume {job.replay_id} --reason "WHY"']
    return []


def outcome_lines(outcome: Outcome) -> Iterator[str]:
    """Show what came of a run."""
    job, counted = outcome.job, outcome.counted
    colour = "green" if outcome.well else "yellow"
    head = f"replay {job.replay_id} {job.state}: {job.sent_count:,} of {job.item_count:,} sent"
    if outcome.waited:
        head += f", {counted.returned:,} of {counted.expected:,} returned"
    else:
        head += "; returns were not waited for"
    yield click.style(head, fg=colour, bold=True)
    if job.trouble:
        yield f" {printable(job.trouble)}"
    for reason, count in outcome.refused.items():
        yield f" {count:>9,}  could not be sent: {reason}"
    for order_id, why in islice(outcome.unwritten.items(), _EXAMPLES):
        yield f"            {printable(order_id)}: {printable(why)}"
        if order_id in outcome.statements:
            yield " to write it as the order's row stands, all the same:"
            yield f" sql   {printable(outcome.statements[order_id])}"
    if outcome.relay_needed:
        yield "            the events that were written leave when a relay runs, and none does"
    for verdict, count in outcome.by_verdict().items():
        yield f" {count:>9,}  did not return: {verdict}"
    for one in outcome.missing[:_EXAMPLES]:
        yield f"            {printable(one.order_id)}: {one.verdict} / {one.cause}"
    for command in following(outcome):
        yield f" next  {command}"


def job_line(job: Job) -> str:
    """Show a replay in one line."""
    returned = job.progress.get("returned")
    came = "" if returned is None else f", {returned:,} of {job.progress['expected']:,} returned"
    why = f"  {printable(job.reason)}" if job.reason else ""
    return (
        f"{job.replay_id}  {job.planned_at:%Y-%m-%d %H:%M}  {job.state:<9} "
        f"{job.sent_count:,} of {job.item_count:,} sent{came}{why}"
    )


@contextmanager
def progress_shown(job: Job, *, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Show progress on stderr: a bar on a terminal, a line now and then elsewhere."""
    if quiet:
        yield lambda _progress: None
    elif sys.stderr.isatty():
        yield from _bar(job)
    else:
        yield _Lines().tell


def _bar(job: Job) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console  # noqa: PLC0415 - takes its time
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        sent = bars.add_task("sent", total=job.item_count)
        returned = bars.add_task("returned", total=job.item_count)

        def tell(progress: Progress) -> None:
            bars.update(sent, completed=progress.job.sent_count)
            bars.update(
                returned,
                completed=progress.counted.returned,
                total=progress.counted.expected or job.item_count,
            )

        yield tell


class _Lines:
    """Progress where nobody sees a bar: a line whenever a tenth was done."""

    def __init__(self) -> None:
        self._told = -1

    def tell(self, progress: Progress) -> None:
        job, counted = progress.job, progress.counted
        total = 2 * max(1, job.item_count)
        tenth = 10 * (job.sent_count + counted.returned) // total
        if tenth > self._told:
            self._told = tenth
            click.echo(
                f"{progress.phase}: {job.sent_count:,} of {job.item_count:,} sent,"
                f" {counted.returned:,} returned",
                err=True,
            )
