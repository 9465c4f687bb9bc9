"""Setup: `relay migrate`: applies the schema, prints it, or compares it with the database's."""

import asyncio
import os

import click

from relay.runtime.migrations import load, migrate, script


@click.command("migrate", short_help="Apply, print or check the schema.")
@click.option("--sql", "print_sql", is_flag=True, help="Print what would be applied.")
@click.option("--relay-only", is_flag=True, help="Leave out the sample's own tables.")
def command(print_sql: bool, relay_only: bool) -> None:
    """Bring the database to this version's schema."""
    if print_sql:
        kind = "production" if relay_only else "sample"
        click.echo(script(load(sample=not relay_only), kind))  # type: ignore[arg-type]
        return
    report = asyncio.run(migrate(os.environ.get("DATABASE_URL"), sample=not relay_only))
    click.echo(f"schema version {report.schema_version}, {report.kind}")
    for name in report.applied:
        click.echo(f"applied {name}")
