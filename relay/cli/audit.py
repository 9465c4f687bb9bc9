"""Find: `relay audit`: what people, and upkeep, did to the system, and why."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import datetime

import click

from relay.cli.output import own_settings, print_json, wants_json
from relay.cli.parameters import SINCE
from relay.repair.audited import Audited, read_audit
from relay.runtime.operator_connection import operator_connection
from relay.runtime.printable import printable
from relay.runtime.settings import Settings


@click.command("audit")
@click.option(
    "--since", type=SINCE, help="Actions since this time, or within this duration: 24h, 7d."
)
@click.option(
    "--action",
    default=None,
    help="Only actions of this kind: close, quarantine_release, rebaseline, ...",
)
@click.option("--subject", default=None, help="Only actions on this order, incident or replay.")
@click.option(
    "--limit", type=click.IntRange(1), default=50, help="Number of actions shown, the newest first."
)
@click.pass_context
def command(
    ctx: click.Context, since: datetime | None, action: str | None, subject: str | None, limit: int
) -> None:
    """Show who closed, released, discarded, replayed or rebaselined what, when, and why."""
    rows = asyncio.run(_read(own_settings(ctx), since, action, subject, limit))
    if wants_json(ctx):
        print_json({"audit": [asdict(row) for row in rows]})
    else:
        click.echo("\n".join(line for row in rows for line in _lines(row)) or "nothing was done")


async def _read(
    settings: Settings, since: datetime | None, action: str | None, subject: str | None, limit: int
) -> list[Audited]:
    async with operator_connection(settings.database.dsn, "audit") as connection:
        return await read_audit(connection, since, action, subject, limit)


def _lines(row: Audited) -> list[str]:
    at = row.at.astimezone().isoformat(sep=" ", timespec="seconds")
    subject = f" {row.subject}" if row.subject else ""
    count = row.detail.get("count") if isinstance(row.detail, dict) else None
    what = f"{row.action}{subject}" + (f" ({count:,})" if isinstance(count, int) else "")
    return [
        f"{at}  {printable(what)}: {printable(row.result)}",
        f"    by {printable(row.who)} (login {printable(row.login)}): {printable(row.why or '-')}",
    ]
