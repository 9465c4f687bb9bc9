"""Before hop 1: refuses to run the sample beside an installation that is not one.

Invariant: nothing of the sample touches a production installation: a sample processor joined to a
real group would confirm customers' orders. Failure is a typed error that says what to do.
"""

from __future__ import annotations

import asyncpg

_KIND = "SELECT kind FROM relay.installation"


class NotSampleError(Exception):
    """This database is not a sample installation."""


async def require_sample(connection: asyncpg.Connection) -> None:
    """Refuse a database that `relay migrate --sample` did not make.

    Raises:
        NotSampleError: it is a production installation, or was never migrated.
    """
    try:
        kind = await connection.fetchval(_KIND)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise NotSampleError(
            "this database has no relay schema: run `relay migrate --sample`"
        ) from error
    if kind != "sample":
        raise NotSampleError(
            f"this is a {kind} installation, and `relay sample` would place and confirm orders of"
            " its own in it: use a database of which `relay migrate --sample` made a sample"
        )
