"""Find: `relay trace ORDER`: one order's way, hop by hop, and the gap in it."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import click

from relay.cli.errors import Found
from relay.cli.timeline_text import shown, styled
from relay.diagnose.timeline import EventTimeline, Timeline
from relay.diagnose.timeline_hops import Hop
from relay.diagnose.timeline_reading import read_timelines
from relay.runtime.settings import load_settings
from relay.runtime.settings_model import TraceSettings


@click.command("trace")
@click.argument("order")
@click.pass_context
def command(ctx: click.Context, order: str) -> None:
    """Show an order's way hop by hop, with its proofs, and the gap in it.

    Exit code 3: there is no such order, or its return is overdue.
    """
    settings = load_settings(ctx.find_root().obj["config"])
    (timeline,) = asyncio.run(
        read_timelines(settings.database.dsn, settings.kafka, settings.flow, [order])
    )
    if ctx.find_root().obj["json"]:
        click.echo(json.dumps(as_data(timeline, settings.trace), default=str))
    else:
        lines = shown(timeline, settings.trace)
        click.echo("\n".join(styled(line, color=sys.stdout.isatty()) for line in lines))
    if not timeline.exists:
        raise Found(f"there is no order {order}: neither its row nor an event of it")
    if timeline.overdue:
        raise Found(f"order {order} is overdue: `relay diagnose {order}` says why")


def as_data(timeline: Timeline, viewer: TraceSettings) -> dict[str, Any]:
    """Return the timeline for `--json`."""
    return {
        "order_id": timeline.order_id,
        "exists": timeline.exists,
        "status": timeline.status,
        "returned": timeline.returned,
        "overdue": timeline.overdue,
        "events": [_event_data(event, viewer) for event in timeline.events],
    }


def _event_data(event: EventTimeline, viewer: TraceSettings) -> dict[str, Any]:
    trace_id = event.context.trace_id if event.context else None
    return {
        "event_id": event.event_id,
        "event_type": event.event_type,
        "returned": event.returned,
        "deadline_at": event.deadline_at,
        "gap": event.gap.name if event.gap else None,
        "trace_id": trace_id,
        "trace_url": viewer.link(trace_id),
        "sampled": event.context.sampled if event.context else None,
        "hops": [_hop_data(hop) for hop in event.hops],
    }


def _hop_data(hop: Hop) -> dict[str, Any]:
    return {
        "hop": hop.name,
        "state": hop.state,
        "at": hop.at,
        "took_seconds": hop.took_seconds,
        "evidence": list(hop.found),
    }
