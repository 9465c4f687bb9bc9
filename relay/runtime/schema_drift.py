"""Setup: what of a database's schema is not as this version's migrations make it.

Invariant: reads the catalogs alone. A difference is said in words; none means that they agree.
"""

from __future__ import annotations

import asyncpg

from relay.runtime.migration_files import MigrationError, load, pending
from relay.runtime.migrations import read_applied, read_kind
from relay.runtime.schema_facts import differences, load_expected, read_facts


async def schema_differences(connection: asyncpg.Connection) -> list[str]:
    """Return every difference between the database's schema and this version's, in words.

    Raises:
        MigrationError: the database was never migrated, or a migration was edited.
    """
    kind = await read_kind(connection)
    if kind is None:
        raise MigrationError("this database has no relay schema yet: run `relay migrate`")
    todo = pending(load(kind == "sample"), await read_applied(connection))
    expected = load_expected()
    found = differences(expected.facts(sample=kind == "sample"), await read_facts(connection))
    return [f"not applied: {m.name}" for m in todo] + [str(difference) for difference in found]
