"""Repair: `relay replay`: missed events again: a plan first, always; then `--execute`.

Invariant: nothing is sent without a plan that is stored, a reason that is kept, and, from many
events on, a yes. Exit code 3: not everything that was sent again came back.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from relay.cli.errors import Found, NotLookedError
from relay.cli.output import echo, print_json, settings_of, wants_json
from relay.cli.replay_options import NothingNamedError, selection_of, selects
from relay.cli.replay_returns import returns_command
from relay.cli.replay_text import job_line, outcome_lines, plan_lines, plan_next, progress_shown
from relay.replay.conductor import RunOptions
from relay.replay.follow import Counted, Follower
from relay.replay.jobs import Job, find_job, list_jobs, move, refused
from relay.replay.planning import Wanted, make_plan
from relay.replay.running import Outcome, outcome_data, run_job
from relay.runtime.audit import this_person
from relay.runtime.flow import Flow
from relay.runtime.operator_connection import operator_connection
from relay.runtime.settings import Settings

ASK_FROM = 1000
_LATEST = 20
_PARTS_AT_MOST = 10_000
# Whether a return is late is known a moment after its deadline.
_AFTER_DEADLINE_SECONDS = 1.0


def _runs(function: Any) -> Any:
    """Add the options of what sends something."""
    for option in reversed(
        (
            click.option("--reason", help="Why; recorded in the audit log. Needed to send."),
            click.option(
                "--by", default=None, help="Who decides; by default the current user and host."
            ),
            click.option(
                "--yes",
                is_flag=True,
                help=f"Do not ask for confirmation ({ASK_FROM:,} events or more).",
            ),
            click.option(
                "--rate",
                type=click.FloatRange(0),
                default=200.0,
                show_default=True,
                help="Events per second at most; 0: no limit.",
            ),
            click.option(
                "--first",
                type=click.IntRange(0, 1000),
                default=5,
                show_default=True,
                help="Send this many first, and the others once these have returned.",
            ),
            click.option(
                "--wait",
                "wait_seconds",
                type=click.FloatRange(0),
                default=None,
                help="Seconds to wait for returns (default: the longest deadline of the events).",
            ),
            click.option("--no-wait", is_flag=True, help="Do not wait for returns."),
        )
    ):
        function = option(function)
    return function


@click.group("replay", invoke_without_command=True)
@selects
@click.option(
    "--topic",
    help="Send to this topic in place of the events' own, for one consumer that catches up.",
)
@click.option("--again", is_flag=True, help="Replay what was replayed before, too.")
@click.option(
    "--write-missing", is_flag=True, help="Write the missing events of orders that have none."
)
@click.option("--execute", is_flag=True, help="Send the events; without it, only plan.")
@_runs
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Send missed events again: plan, then --execute.

    Without conditions: every overdue order. By default only events of lost orders are sent;
    orders that have returned, are on their way, or will move by themselves are left alone, and
    listed. An event is sent with the same event id, through the relay, and its order is followed
    until it returns.
    """
    if ctx.invoked_subcommand is not None:
        return
    settings = settings_of(ctx)
    if given["execute"]:
        _need_reason(given)
    who = given["by"] or this_person()
    try:
        wanted = Wanted(
            selection_of(settings.flow, given),
            who,
            given["topic"],
            given["again"],
            given["write_missing"],
        )
    except NothingNamedError as nothing:
        _tell_nothing(ctx, str(nothing))
        return
    job = asyncio.run(make_plan(settings, wanted))
    if not given["execute"] or job.nothing:
        _show_plan(ctx, job)
        if job.nothing and job.not_judged:
            raise NotLookedError(f"{job.not_judged:,} orders cannot be judged now")
    else:
        _run(ctx, settings, job, given, who)


def _tell_nothing(ctx: click.Context, said: str) -> None:
    if wants_json(ctx):
        print_json({"replay_id": None, "state": None, "events": 0, "next": []})
    else:
        click.echo(said)


def _need_reason(given: dict[str, Any]) -> None:
    if not (given["reason"] or "").strip():
        raise click.UsageError("--execute needs --reason: it is kept with the replay")


def _show_plan(ctx: click.Context, job: Job) -> None:
    if wants_json(ctx):
        print_json(_plan_data(job))
        return
    echo([*plan_lines(job), *(f" next  {following}" for following in plan_next(job))])


def _plan_data(job: Job) -> dict[str, Any]:
    return {
        "replay_id": str(job.replay_id),
        "state": job.state,
        **job.plan,
        "orders_not_judged": job.not_judged,
        "topic": job.target_topic,
        "next": plan_next(job),
    }


def _run(ctx: click.Context, settings: Settings, job: Job, given: dict[str, Any], who: str) -> None:
    _ask(ctx, job, yes=given["yes"])
    options = RunOptions(given["rate"], given["first"], _wait_seconds(settings.flow, job, given))
    with progress_shown(job, quiet=wants_json(ctx)) as tell:
        outcome = asyncio.run(
            run_job(settings, job, options, who=who, why=given["reason"], tell=tell)
        )
    _show_outcome(ctx, outcome)


def _ask(ctx: click.Context, job: Job, *, yes: bool) -> None:
    if yes or job.item_count < ASK_FROM:
        return
    if not wants_json(ctx):
        echo(plan_lines(job), err=True)
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"{job.item_count:,} events: add --yes, or look at the plan first and then"
            f" `relay replay resume {job.replay_id} --yes --reason ...`"
        )
    click.confirm(f"Send {job.item_count:,} events again?", abort=True, err=True)


def _wait_seconds(flow: Flow, job: Job, given: dict[str, Any]) -> float:
    if given["no_wait"]:
        return 0.0
    if given["wait_seconds"] is not None:
        seconds: float = given["wait_seconds"]
        return seconds
    if job.target_topic is not None and job.target_topic not in flow.topics:
        return 0.0  # nobody answers from there
    return max(flow.deadlines.values(), default=0.0) + _AFTER_DEADLINE_SECONDS


def _show_outcome(ctx: click.Context, outcome: Outcome) -> None:
    if wants_json(ctx):
        print_json(outcome_data(outcome))
    else:
        echo(outcome_lines(outcome))
    if not outcome.well:
        raise Found(f"replay {outcome.job.replay_id}: {outcome.result()}")


command.add_command(returns_command)


@command.command("list")
@click.option("--limit", type=click.IntRange(1), default=_LATEST, help="Number of replays shown.")
@click.pass_context
def list_command(ctx: click.Context, limit: int) -> None:
    """List replays, the latest first."""
    jobs = asyncio.run(_list(settings_of(ctx), limit))
    if wants_json(ctx):
        print_json({"replays": [_job_data(job) for job in jobs]})
    elif jobs:
        click.echo("\n".join(map(job_line, jobs)))
    else:
        click.echo("nothing was ever replayed")


async def _list(settings: Settings, limit: int) -> list[Job]:
    async with operator_connection(settings.database.dsn, "replay") as connection:
        return await list_jobs(connection, limit)


@command.command("status")
@click.argument("replay", metavar="ID")
@click.pass_context
def status_command(ctx: click.Context, replay: str) -> None:
    """Show how far a replay is, and how many of its orders have returned by now."""
    settings = settings_of(ctx)
    outcome = asyncio.run(_status(settings, replay))
    if wants_json(ctx):
        print_json(_plan_data(outcome.job) | outcome_data(outcome))
        return
    if outcome.job.state == "planned":
        _show_plan(ctx, outcome.job)
    else:
        echo(outcome_lines(outcome))


async def _status(settings: Settings, named: str) -> Outcome:
    async with operator_connection(settings.database.dsn, "replay") as connection:
        job = await find_job(connection, named)
        follower = Follower(connection, settings.flow, job.replay_id, job.besides)
        counted = Counted()
        if job.target_topic is None and job.sent_count + len(job.besides):
            counted = await follower.look(job.sent_count, _PARTS_AT_MOST)
        return Outcome(job, counted, await refused(connection, job.replay_id))


def _job_data(job: Job) -> dict[str, Any]:
    return {
        "replay_id": str(job.replay_id),
        "state": job.state,
        "events": job.item_count,
        "sent": job.sent_count,
        "planned_at": job.planned_at,
        "planned_by": job.planned_by,
        "run_by": job.run_by,
        "reason": job.reason,
        "topic": job.target_topic,
        "progress": dict(job.progress),
    }


@command.command("resume")
@click.argument("replay", metavar="ID")
@_runs
@click.pass_context
def resume_command(ctx: click.Context, /, replay: str, **given: Any) -> None:
    """Run a plan, or go on with a replay that was paused or whose process was killed."""
    settings = settings_of(ctx)
    job = asyncio.run(_find(settings, replay))
    if job.reason is None:
        _need_reason(given)
    _run(ctx, settings, job, given, given["by"] or this_person())


async def _find(settings: Settings, named: str) -> Job:
    async with operator_connection(settings.database.dsn, "replay") as connection:
        return await find_job(connection, named)


@command.command("pause")
@click.argument("replay", metavar="ID")
@click.option("--by", default=None, help="Who decides; by default the current user and host.")
@click.pass_context
def pause_command(ctx: click.Context, replay: str, by: str | None) -> None:
    """Stop a replay that is running; `resume` goes on with it."""
    _move(ctx, replay, "paused", by, "paused by hand")


@command.command("cancel")
@click.argument("replay", metavar="ID")
@click.option("--reason", required=True, help="Why; recorded in the audit log.")
@click.option("--by", default=None, help="Who decides; by default the current user and host.")
@click.pass_context
def cancel_command(ctx: click.Context, replay: str, reason: str, by: str | None) -> None:
    """End a replay for good; what was sent was sent."""
    _move(ctx, replay, "cancelled", by, reason)


def _move(ctx: click.Context, replay: str, state: str, by: str | None, why: str) -> None:
    job = asyncio.run(_moved(settings_of(ctx), replay, state, by or this_person(), why))
    if wants_json(ctx):
        print_json(_job_data(job))
    else:
        click.echo(job_line(job))


async def _moved(settings: Settings, named: str, state: str, who: str, why: str) -> Job:
    async with operator_connection(settings.database.dsn, "replay") as connection:
        job = await find_job(connection, named)
        trouble = why if state == "paused" else None
        await move(connection, job, state, who=who, why=None, trouble=trouble, result=why)
        return await find_job(connection, str(job.replay_id))
