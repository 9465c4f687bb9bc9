"""Repair: `relay quarantine`: what cannot be sent or applied, and what becomes of it.

Invariant: nothing leaves without a reason and a row in the audit log, and nothing is deleted; what
others wrote is shown so that no terminal obeys it.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import click

from relay.cli.errors import NotFoundError
from relay.cli.output import print_json, settings_of, wants_json
from relay.cli.quarantine_decisions import discard_command, release_command
from relay.cli.quarantine_options import in_states, selection_of, selects, states_of
from relay.cli.quarantine_text import (
    content_lines,
    gone_lines,
    held_as_data,
    list_lines,
    show_lines,
)
from relay.repair.exporting import as_line, export
from relay.repair.gone import Gone, read_gone
from relay.repair.held import Content, Group, Held, count_held, read_contents, read_held
from relay.repair.selection import Selection, select
from relay.runtime.audit import note_look, this_person
from relay.runtime.operator_connection import NotPermittedError, operator_connection
from relay.runtime.settings import Settings


@click.group("quarantine")
def command() -> None:
    """List, show, release, discard or export what cannot be sent or applied.

    Events that Kafka cannot take wait here and hold back the later events of their order; returns
    that cannot be applied wait as the bytes that came.
    """


command.add_command(release_command)
command.add_command(discard_command)


@command.command("list")
@selects
@in_states
@click.option(
    "--limit", type=click.IntRange(0), default=50, help="Number of rows shown; all are counted."
)
@click.pass_context
def list_command(ctx: click.Context, /, **given: Any) -> None:
    """List what waits (with --state also what is resolved): counted by reason, then row by row."""
    settings = settings_of(ctx)
    selection = selection_of(settings.flow, given, states_of(given))
    groups, rows, gone = asyncio.run(_list(settings, selection, given["limit"]))
    if wants_json(ctx):
        print_json(
            {
                "total": sum(group.count for group in groups),
                "by_reason": [
                    {"kind": one.kind, "reason": one.reason, "state": one.state,
                     "count": one.count, "oldest_at": one.oldest_at} for one in groups
                ],
                "quarantine": [held_as_data(one) for one in rows],
                "no_longer_replayable": [asdict(one) for one in gone],
            }
        )  # fmt: skip
    else:
        click.echo("\n".join([*list_lines(groups, rows), *gone_lines(gone)]))


async def _list(
    settings: Settings, selection: Selection, limit: int
) -> tuple[list[Group], list[Held], list[Gone]]:
    async with operator_connection(settings.database.dsn, "quarantine") as connection:
        ids = await select(connection, selection)
        groups = await count_held(connection, ids)
        return groups, await read_held(connection, ids[:limit]), await read_gone(connection)


@command.command("show")
@click.argument("ids", nargs=-1, required=True, type=click.IntRange(1), metavar="ID...")
@click.option(
    "--bytes",
    "most_bytes",
    type=click.IntRange(1),
    default=4096,
    help="Number of bytes shown of each value.",
)
@click.pass_context
def show_command(ctx: click.Context, ids: tuple[int, ...], most_bytes: int) -> None:
    """Show everything that is known of rows, with their bytes, made safe for a terminal."""
    rows, contents = asyncio.run(_show(settings_of(ctx), ids, most_bytes))
    missing = sorted(set(ids).difference(row.quarantine_id for row in rows))
    if missing:
        raise NotFoundError(f"there is no {', '.join(map(str, missing))} in quarantine")
    if wants_json(ctx):
        print_json({"quarantine": [_shown(row, contents) for row in rows]})
        return
    for row in rows:
        click.echo("\n".join(show_lines(row)))
        content = None if contents is None else contents.get(row.quarantine_id)
        click.echo("\n".join(content_lines(row, content, permitted=contents is not None)))


def _shown(row: Held, contents: dict[int, Content] | None) -> dict[str, Any]:
    content = None if contents is None else contents.get(row.quarantine_id)
    return {**as_line(row, content), "cut": content is not None and content.cut}


async def _show(
    settings: Settings, ids: tuple[int, ...], most_bytes: int
) -> tuple[list[Held], dict[int, Content] | None]:
    """Read rows and bytes; None: the bytes are not for this login."""
    async with operator_connection(settings.database.dsn, "quarantine") as connection:
        rows = await read_held(connection, ids)
    try:
        async with operator_connection(settings.database.dsn, "quarantine") as connection:
            contents = await read_contents(connection, ids, most_bytes)
            if rows:
                await note_look(connection, [row.quarantine_id for row in rows])
            return rows, contents
    except NotPermittedError:
        return rows, None


@command.command("export")
@selects
@in_states
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write; by default stdout.",
)
@click.option("--reason", default=None, help="Why; recorded in the audit log.")
@click.option("--by", default=None, help="Who exports; by default the current user and host.")
@click.pass_context
def export_command(ctx: click.Context, /, **given: Any) -> None:
    """Write rows as JSON lines, with key, value and headers in base64."""
    settings = settings_of(ctx, piped=True)
    selection = selection_of(settings.flow, given, states_of(given))
    who = given["by"] or this_person()
    output: Path | None = given["output"]
    if output is None:
        count = asyncio.run(
            _export(settings, selection, who, given["reason"] or "", sys.stdout.buffer)
        )
    else:
        with output.open("xb") as file:
            count = asyncio.run(_export(settings, selection, who, given["reason"] or "", file))
    click.echo(f"exported {count:,}", err=True)


async def _export(
    settings: Settings, selection: Selection, who: str, why: str, file: BinaryIO
) -> int:
    count = 0
    async with operator_connection(settings.database.dsn, "quarantine") as connection:
        ids = await select(connection, selection)
        async for line in export(connection, ids, selection, who=who, why=why):
            file.write(line.encode() + b"\n")
            count += 1
    file.flush()
    return count
