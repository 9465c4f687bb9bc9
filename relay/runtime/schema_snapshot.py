"""Setup: makes `schemas/sql/expected.json`, what `relay migrate --verify` compares with.

Invariant: it leaves nothing behind: the migrations are applied to an empty database in a
transaction that is rolled back. `relay migrate --snapshot > schemas/sql/expected.json`, and a test
compares the two.
"""

import asyncpg

from relay.runtime.migration_files import Series, file_script, load
from relay.runtime.schema_facts import Expected, read_facts


async def make_snapshot(connection: asyncpg.Connection) -> Expected:
    """Apply everything to an empty database, read what it makes, and roll back."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await _apply(connection, "relay")
        production = await read_facts(connection)
        await _apply(connection, "sample")
        both = await read_facts(connection)
    finally:
        await transaction.rollback()
    sample = {what: how for what, how in both.items() if production.get(what) != how}
    return Expected(production, sample)


async def _apply(connection: asyncpg.Connection, series: Series) -> None:
    for migration in load(sample=True):
        if migration.series == series:
            await connection.execute(file_script(migration))
            # Files change role and path for their own transaction only; this one is all of theirs.
            await connection.execute("RESET ROLE; RESET search_path")
