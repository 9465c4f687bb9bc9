"""Find: `relay status`: each hop at a glance, who runs it, and what to run next."""

from __future__ import annotations

import asyncio
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from relay.cli.errors import NotLookedError
from relay.cli.output import console, harmless, print_json, settings_of, typed, wants_json
from relay.diagnose.status.evidence import ProcessRow
from relay.diagnose.status.hops import HopStatus, Status, is_alive
from relay.diagnose.status.reading import read_status
from relay.diagnose.status.traces import Traces
from relay.runtime.durations import duration
from relay.runtime.language import said
from relay.telemetry.continuity import BREAKS, Continuity


@click.command("status")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Show each hop: what waits, since when, how fast it goes, and who does it.

    Without the database, or without the broker, it shows what the other one knows; without the
    database it ends with exit code 1.
    """
    settings = settings_of(ctx)
    status = asyncio.run(read_status(settings.database.dsn, settings.kafka, settings.flow))
    if wants_json(ctx):
        print_json(as_data(status))
    else:
        show(harmless(status))
    if status.database_away:
        raise NotLookedError("the database cannot be asked: nothing here says that all is well")


def as_data(status: Status) -> dict[str, Any]:
    """Return the status for `--json`."""
    return {
        "healthy": status.healthy,
        "hops": {hop.name: _hop_data(hop) for hop in status.hops},
        "processes": [_process_data(process) for process in status.processes],
        "overdue": None if status.overdue is None else dict(status.overdue),
        "incidents_open": status.incidents,
        "quarantine": None if status.held is None else dict(status.held),
        "trace_continuity": _traces_data(status.traces),
        "watch": None if status.looked is None else status.looked.as_data(),
        "missing": list(status.missing),
        "next": [status.next_command] if status.next_command else [],
    }


def _traces_data(traces: Traces | None) -> dict[str, Any] | None:
    if traces is None:
        return None
    return {
        "orders": traces.orders,
        "whole": traces.whole,
        "share": traces.share,
        "breaks": {kind.value: traces.breaks.get(kind, 0) for kind in BREAKS},
        "records_not_read": traces.unread,
    }


def _hop_data(hop: HopStatus) -> dict[str, Any]:
    return {
        "waiting": hop.waiting,
        "waiting_exact": hop.exact,
        "oldest_age_seconds": hop.oldest_age_seconds,
        "rate_per_second": hop.rate_per_second,
        "run_by": hop.run_by,
        "note": hop.note or None,
        "healthy": hop.healthy,
    }


def _process_data(process: ProcessRow) -> dict[str, Any]:
    return {
        "kind": process.kind,
        "instance": process.instance,
        "version": process.version,
        "alive": is_alive(process),
        "active": process.active,
        "started_at": process.started_at.isoformat(),
        "heartbeat_age_seconds": round(process.heartbeat_age_seconds, 1),
        "stopped_at": process.stopped_at.isoformat() if process.stopped_at else None,
        "stop_reason": process.stop_reason,
        "detail": dict(process.detail),
    }


def show(status: Status) -> None:
    """Print the status for people."""
    screen = console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, side in (("hop", "left"), ("waiting", "right"), ("oldest", "right")):
        table.add_column(said(name), justify=side, no_wrap=True)  # type: ignore[arg-type]
    table.add_column(said("rate"), justify="right", no_wrap=True)
    table.add_column(said("run by"))
    for hop in status.hops:
        table.add_row(*_cells(hop))
    screen.print(table)
    for line, style in _lines(status):
        screen.print(Text(typed(said(line)), style=style))


def _cells(hop: HopStatus) -> tuple[Text, ...]:
    bad = "" if hop.healthy else "bold red"
    waiting = "?" if hop.waiting is None else f"{hop.waiting:,}"
    return (
        Text(hop.name, style=bad or "bold"),
        Text(("" if hop.exact else "~") + waiting, style="yellow" if hop.waiting else ""),
        Text(said(duration(hop.oldest_age_seconds))),
        Text("" if hop.rate_per_second is None else f"{hop.rate_per_second:,.1f}/s"),
        Text(typed(said(" - ".join(part for part in (hop.run_by, hop.note) if part))), style=bad),
    )


def _lines(status: Status) -> list[tuple[str, str]]:
    lines = []
    if status.overdue:
        by_hop = ", ".join(f"{count:,} at {hop}" for hop, count in status.overdue.items())
        lines.append((f"overdue: {sum(status.overdue.values()):,} orders ({by_hop})", "bold red"))
    if status.incidents:
        lines.append((f"open incidents: {status.incidents}", "bold red"))
    blind = status.looked.sentence() if status.looked else None
    if blind:
        lines.append((f"overdue: {blind}", "bold red" if status.blind else "yellow"))
    lines += _traces_lines(status.traces)
    lines += [(f"not known: {text}", "yellow") for text in status.missing]
    if status.next_command:
        lines.append((f"next: {status.next_command}", "bold"))
    elif status.healthy and not blind:
        lines.append(("all is well", "green"))
    return lines


_BREAK_WORDS = {
    Continuity.RECORD_BREAKS: "records carry another trace than their outbox row",
    Continuity.RETURN_OTHER: "returns carry another trace than their event",
    Continuity.RETURN_WITHOUT: "returns carry none",
}


def _traces_lines(traces: Traces | None) -> list[tuple[str, str]]:
    if traces is None or traces.share is None:
        return []
    head = f"traces: {traces.share:.0%} of the newest {traces.orders:,} answered orders are whole"
    if traces.unread:
        head += f" ({traces.unread:,} by database alone)"
    told = [f"{count:,} {_BREAK_WORDS[kind]}" for kind, count in traces.breaks.items()]
    return [(": ".join([head, "; ".join(told)]) if told else head, "yellow" if told else "")]
