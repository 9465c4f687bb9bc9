"""Setup: `relay migrate`: applies the schema, prints it, or compares it with the database's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click

from relay.cli.errors import Found
from relay.cli.output import own_settings, print_json, wants_json
from relay.orders.rights import grant_statements
from relay.runtime.database import connect
from relay.runtime.flow import Flow
from relay.runtime.migration_files import Applied, Kind, Migration, load, pending, script
from relay.runtime.migrations import APPLICATION_NAME, migrate, read_applied, read_kind
from relay.runtime.schema_drift import schema_differences
from relay.runtime.schema_snapshot import make_snapshot

_FORMS = "--sql, --grants and --verify exclude each other"


@click.command("migrate")
@click.option(
    "--sql",
    "print_sql",
    is_flag=True,
    help="Print the SQL script that would be applied, for any client, and apply nothing.",
)
@click.option(
    "--within-transaction",
    is_flag=True,
    help="With --sql: without BEGIN and COMMIT, for tools that open a transaction themselves.",
)
@click.option(
    "--grants",
    "print_grants",
    is_flag=True,
    help="Print the rights that the relay's roles need on your own tables, and grant nothing.",
)
@click.option(
    "--verify",
    is_flag=True,
    help="Compare the database's schema with this version's; exit code 3: they differ.",
)
@click.option(
    "--sample",
    is_flag=True,
    help="For trying it out: make the sample's own orders table, too, in an empty database.",
)
@click.option("--relay-only", is_flag=True, hidden=True)  # what it does by itself; still taken
@click.option("--snapshot", "print_snapshot", is_flag=True, hidden=True)
@click.pass_context
def command(
    ctx: click.Context,
    *,
    print_sql: bool,
    within_transaction: bool,
    print_grants: bool,
    verify: bool,
    sample: bool,
    relay_only: bool,
    print_snapshot: bool,
) -> None:
    """Bring the database to this version's schema; safe to repeat, and from two places at once.

    It makes the schema `relay` beside your tables and touches nothing else, in one transaction: a
    failure leaves nothing. With --sql nothing is applied: the script is printed for those who apply
    schemas by their own means (all of it when no database can be reached). With --verify columns,
    defaults, indexes, constraints, functions and grants are compared, and each difference is named.
    """
    if sum((print_sql, verify, print_grants, print_snapshot)) > 1:
        raise click.UsageError(_FORMS)
    if within_transaction and not print_sql:
        raise click.UsageError("--within-transaction belongs to --sql")
    if sample and relay_only:
        raise click.UsageError("--sample and --relay-only exclude each other")
    settings = own_settings(ctx)
    dsn = settings.database.dsn
    if print_sql:
        kind: Kind = "sample" if sample else "production"
        click.echo(asyncio.run(_script(dsn, kind, within_transaction)), nl=False)
    elif print_grants:
        click.echo(asyncio.run(_grants(dsn, settings.every_flow)), nl=False)
    elif print_snapshot:
        click.echo(asyncio.run(_snapshot(dsn)), nl=False)
    elif verify:
        _verify(ctx, dsn)
    else:
        _migrate(ctx, dsn, sample=sample)


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


async def _script(dsn: str | None, kind: Kind, within_transaction: bool) -> str:
    applied: Applied = {}
    found: Kind | None = None
    try:
        connection = await connect(dsn, APPLICATION_NAME)
    except Exception as error:  # noqa: BLE001 - said, and the whole script is printed
        click.echo(f"no database ({error}): this is the whole script", err=True)
    else:
        try:
            applied, found = await read_applied(connection), await read_kind(connection)
        finally:
            await connection.close()
    kind = found or kind  # it stays what it is
    migrations: tuple[Migration, ...] = load(sample=kind == "sample")
    return script(pending(migrations, applied), kind, within_transaction=within_transaction)


async def _grants(dsn: str | None, flows: Sequence[Flow]) -> str:
    connection = await connect(dsn, APPLICATION_NAME, require_primary=False)
    try:
        found = [one for flow in flows for one in await grant_statements(connection, flow)]
    finally:
        await connection.close()
    return "".join(f"{one}\n" for one in dict.fromkeys(found))


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
