"""Setup: `relay migrate`: applies the schema, prints it, or compares it with the database's."""

from __future__ import annotations

import asyncio

import click

from relay.cli.errors import Found
from relay.cli.output import own_settings, print_json, wants_json
from relay.runtime.database import connect
from relay.runtime.migrations import (
    APPLICATION_NAME,
    Kind,
    Migration,
    load,
    migrate,
    pending,
    read_applied,
    script,
)
from relay.runtime.schema_drift import schema_differences
from relay.runtime.schema_snapshot import make_snapshot


@click.command("migrate")
@click.option(
    "--sql",
    "print_sql",
    is_flag=True,
    help="Print the SQL script that would be applied, and apply nothing.",
)
@click.option(
    "--verify",
    is_flag=True,
    help="Compare the database's schema with this version's; exit code 3: they differ.",
)
@click.option(
    "--relay-only",
    is_flag=True,
    help="For production: create the schema `relay` only, without the sample's tables.",
)
@click.option("--snapshot", "print_snapshot", is_flag=True, hidden=True)
@click.pass_context
def command(
    ctx: click.Context, print_sql: bool, verify: bool, relay_only: bool, print_snapshot: bool
) -> None:
    """Bring the database to this version's schema; safe to repeat, and from two places at once.

    With --sql nothing is applied: the script is printed for those who apply schemas by their own
    means (all of it when no database can be reached). With --verify columns, defaults, indexes,
    constraints, functions and grants are compared, and each difference is named.
    """
    if sum((print_sql, verify, print_snapshot)) > 1:
        raise click.UsageError("--sql and --verify exclude each other")
    dsn = own_settings(ctx).database.dsn
    if print_sql:
        click.echo(asyncio.run(_script(dsn, relay_only=relay_only)), nl=False)
    elif print_snapshot:
        click.echo(asyncio.run(_snapshot(dsn)), nl=False)
    elif verify:
        _verify(ctx, dsn)
    else:
        _migrate(ctx, dsn, sample=not relay_only)


def _migrate(ctx: click.Context, dsn: str | None, *, sample: bool) -> None:
    report = asyncio.run(migrate(dsn, sample))
    if wants_json(ctx):
        print_json(
            {
                "kind": report.kind,
                "schema_version": report.schema_version,
                "applied": list(report.applied),
            }
        )
        return
    for name in report.applied:
        click.echo(f"applied {name}")
    state = "" if report.applied else "nothing to do: "
    click.echo(f"{state}{report.kind} installation, schema version {report.schema_version}")


async def _script(dsn: str | None, *, relay_only: bool) -> str:
    kind: Kind = "production" if relay_only else "sample"
    migrations: tuple[Migration, ...] = load(sample=not relay_only)
    try:
        connection = await connect(dsn, APPLICATION_NAME)
    except Exception as error:  # noqa: BLE001 - said, and the whole script is printed
        click.echo(f"no database ({error}): this is the whole script", err=True)
        return script(migrations, kind)
    try:
        return script(pending(migrations, await read_applied(connection)), kind)
    finally:
        await connection.close()


async def _snapshot(dsn: str | None) -> str:
    connection = await connect(dsn, APPLICATION_NAME)
    try:
        return (await make_snapshot(connection)).as_json()
    finally:
        await connection.close()


def _verify(ctx: click.Context, dsn: str | None) -> None:
    found = asyncio.run(_differences(dsn))
    if wants_json(ctx):
        print_json({"differences": found})
    else:
        for line in found:
            click.echo(line)
    if found:
        raise Found(f"{len(found)} differences from the schema of this version")
    if not wants_json(ctx):
        click.echo("the schema is as it should be")


async def _differences(dsn: str | None) -> list[str]:
    connection = await connect(dsn, APPLICATION_NAME, require_primary=False)
    try:
        return await schema_differences(connection)
    finally:
        await connection.close()
