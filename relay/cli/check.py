"""Verify: `relay check`: configuration, permissions, schema, topics, and what changed since."""

from __future__ import annotations

import asyncio

import click

from relay.cli.errors import Found
from relay.cli.output import echo, harmless, print_json, settings_of, wants_json
from relay.diagnose.check.result import State, as_rows
from relay.diagnose.check.run_check import CheckReport, check_settings
from relay.runtime.settings import Settings

_MARKS = {State.OK: "ok", State.UNKNOWN: "??", State.WARNING: "!!", State.FAILED: "NO"}
_WORST_FIRST = (State.FAILED, State.UNKNOWN, State.WARNING, State.OK)


@click.command("check", short_help="Configuration, permissions, schema, topics, ACLs.")
@click.option("--all", "show_all", is_flag=True, help="Show the checks that passed, too.")
@click.pass_context
def command(ctx: click.Context, show_all: bool) -> None:
    """Check everything that a wrong configuration can break; say what to do, and what has changed.

    It writes nothing but its own outcome. Exit code 3: a check failed, or could not be made.
    """
    check_and_print(ctx, settings_of(ctx), show_all=show_all)


def check_and_print(ctx: click.Context, settings: Settings, *, show_all: bool = False) -> None:
    """Run every check and print what was found.

    Raises:
        Found: a check failed, or could not be made.
    """
    report = asyncio.run(check_settings(settings))
    if wants_json(ctx):
        print_json(_as_json(report))
    else:
        echo(_lines(harmless(report), show_all=show_all))
    if not report.healthy:
        raise Found


def _as_json(report: CheckReport) -> dict[str, object]:
    return {
        "healthy": report.healthy,
        "checks": as_rows(report.results),
        "changed": [{"name": c.name, "before": c.before, "now": c.now} for c in report.changed],
        "last_healthy_at": report.healthy_at.isoformat() if report.healthy_at else None,
        "not_stored": report.not_stored,
    }


def _lines(report: CheckReport, *, show_all: bool) -> list[str]:
    lines = [_headline(report)]
    for state in _WORST_FIRST:
        for result in report.results:
            if result.state is state and (show_all or state is not State.OK):
                lines.append(f" {_MARKS[state]} {result.name}: {result.found}")
                lines.extend([f"      {result.fix}"] if result.fix else [])
    if report.changed and report.healthy_at:
        lines.append(f"changed since the last healthy check, {report.healthy_at:%Y-%m-%d %H:%M}:")
        lines.extend(f"  {c.name}: {c.before} -> {c.now}" for c in report.changed)
    if report.not_stored:
        lines.append(f"not stored: {report.not_stored}")
    return lines


def _headline(report: CheckReport) -> str:
    counts = {state: sum(r.state is state for r in report.results) for state in State}
    said = [
        f"{counts[state]} {word}"
        for state, word in (
            (State.FAILED, "failed"),
            (State.UNKNOWN, "unknown"),
            (State.WARNING, "to look at"),
            (State.OK, "fine"),
        )
        if counts[state]
    ]
    return f"{'HEALTHY' if report.healthy else 'NOT HEALTHY'}: {', '.join(said)}"
