"""Find: `relay trace ORDER`: one order's way, hop by hop, and the gap in it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import click

from relay.cli.errors import Found
from relay.cli.output import echo, harmless, print_json, settings_of, wants_json
from relay.cli.timeline_text import timeline_lines
from relay.diagnose.report.timeline import Timeline, timeline
from relay.diagnose.session import session
from relay.diagnose.verdicts import Verdict, found_something
from relay.runtime.command_line import command as command_to_copy
from relay.runtime.settings import Settings


@click.command("trace")
@click.argument("order")
@click.pass_context
def command(ctx: click.Context, order: str) -> None:
    """Show an order's way hop by hop: when, how long, with which proof; and where it ends.

    Exit code 3: there is no such order, or its return is overdue. RELAY_TRACE_URL, the trace
    viewer's address, makes a link of the trace id.
    """
    settings = settings_of(ctx)
    told = asyncio.run(_read(settings, order))
    if wants_json(ctx):
        print_json(told.as_json(settings.trace.url))
    else:
        echo(timeline_lines(harmless(told), datetime.now(UTC), settings.trace.url))
    if told.diagnosis.verdict is Verdict.NO_SUCH_ORDER:
        raise Found("there is no such order")
    if found_something(told.diagnosis.verdict):
        again = command_to_copy("relay diagnose {order}", order=told.diagnosis.order_id)
        raise Found(f"the order has not come back: {again}")


async def _read(settings: Settings, order: str) -> Timeline:
    async with session(settings.database.dsn, settings.kafka, settings.flow) as opened:
        found = await opened.diagnose([order], by_any_id=True)
    if len(found) > 1:
        orders = ", ".join(one.order_id for one in found)
        raise click.UsageError(f"{order} is {found[0].found_as or 'the id'} of several: {orders}")
    return timeline(found[0])
