"""Setup: brings a database to the schema of this version: numbered SQL files, each applied once.

Invariant: what `--sql` prints is, file by file, byte for byte what `migrate` executes. All of a run
is one transaction that first locks the list of files and then looks which are already in, so that a
crash, a failure, a second run, and two runs at once all end in the schema as it was, or as it
should be. An applied file that was edited afterwards is refused, and what kind of installation this
is never changes. A server that cannot be used is refused before anything is applied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import asyncpg

from relay.runtime.database import connect
from relay.runtime.migration_files import (
    AS_MIGRATOR,
    LOCK,
    REMEMBER_ROLE,
    Applied,
    InstallationKindError,
    Kind,
    Migration,
    MigrationError,
    SampleConflictError,
    SchemaVersionError,
    file_script,
    finish_script,
    load,
    pending,
)
from relay.runtime.server_requirements import require_suitable_server

APPLICATION_NAME = "relay-migrate"


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What a run found and did."""

    kind: Kind
    schema_version: int
    applied: tuple[str, ...]


async def migrate(dsn: str | None, sample: bool = True) -> MigrationReport:  # noqa: FBT001, FBT002 - contract
    """Bring the database to this version's schema; done already: nothing happens.

    Raises:
        MigrationError: see its subclasses; nothing was applied.
        UnsuitableServerError: the server is too old, or the database is not UTF8.
        DatabaseError: no connection.
    """
    connection = await connect(dsn, APPLICATION_NAME)
    try:
        require_suitable_server(connection)
        return await _migrate(connection, load(sample), "sample" if sample else "production")
    finally:
        await connection.close()


# The index that two of CREATE SCHEMA at once meet in.
_SCHEMA_NAMES = "pg_namespace_nspname_index"


class _FirstOneFasterError(Exception):
    """Another run made the schema at the same moment: it has applied the files by now."""


async def _migrate(
    connection: asyncpg.Connection, migrations: Sequence[Migration], kind: Kind
) -> MigrationReport:
    try:
        done = await _apply(connection, migrations, kind)
    except _FirstOneFasterError:
        done = await _apply(connection, migrations, kind)
    version = await read_schema_version(connection)
    assert version is not None
    return MigrationReport(kind, version, done)


async def _apply(
    connection: asyncpg.Connection, migrations: Sequence[Migration], kind: Kind
) -> tuple[str, ...]:
    """Apply what is pending in one transaction: a failure leaves nothing."""
    async with connection.transaction():
        await connection.execute(LOCK + REMEMBER_ROLE)
        todo = pending(migrations, await read_applied(connection))
        await _refuse_other_kind(connection, kind)
        await _refuse_sample_conflict(connection, todo)
        for migration in todo:
            await _apply_file(connection, migration)
        await connection.execute(finish_script(kind))
    return tuple(m.name for m in todo)


async def _apply_file(connection: asyncpg.Connection, migration: Migration) -> None:
    try:
        await connection.execute(file_script(migration) + AS_MIGRATOR)
    except (asyncpg.UniqueViolationError, asyncpg.DuplicateSchemaError) as error:
        if migration.version > 1 or error.constraint_name not in (None, _SCHEMA_NAMES):
            raise MigrationError(_failure(migration, error)) from error
        raise _FirstOneFasterError from error
    except asyncpg.PostgresError as error:
        raise MigrationError(_failure(migration, error)) from error


def _failure(migration: Migration, error: asyncpg.PostgresError) -> str:
    # asyncpg's own text has line breaks: an error is one line.
    said = (error.message, error.detail, error.hint)
    return f"{migration.name} was not applied, nor anything else: " + "; ".join(
        part for part in said if part
    )


_HAS_MIGRATIONS = "SELECT pg_catalog.to_regclass('relay.migration') IS NOT NULL"
_APPLIED = "SELECT series, version, sha256 FROM relay.migration"


async def read_applied(connection: asyncpg.Connection) -> Applied:
    """Return what the database has; nothing when it was never migrated."""
    if not await connection.fetchval(_HAS_MIGRATIONS):
        return {}
    rows = await connection.fetch(_APPLIED)
    return {(row["series"], row["version"]): row["sha256"] for row in rows}


_KIND = "SELECT kind FROM relay.installation"


async def read_kind(connection: asyncpg.Connection) -> Kind | None:
    """Return what kind of installation this is; None: it was never migrated."""
    if not await connection.fetchval(_HAS_MIGRATIONS):
        return None
    kind: Kind | None = await connection.fetchval(_KIND)
    return kind


async def _refuse_other_kind(connection: asyncpg.Connection, kind: Kind) -> None:
    found = await read_kind(connection)
    if found in (None, kind):
        return
    right = "relay migrate --sample" if found == "sample" else "relay migrate"
    raise InstallationKindError(f"this is a {found} installation, and stays one: run `{right}`")


_ORDERS_EXIST = "SELECT pg_catalog.to_regclass('public.orders') IS NOT NULL"


async def _refuse_sample_conflict(
    connection: asyncpg.Connection, todo: Sequence[Migration]
) -> None:
    first_sample = any(m.series == "sample" and m.version == 1 for m in todo)
    if first_sample and await connection.fetchval(_ORDERS_EXIST):
        raise SampleConflictError(
            "there is a table public.orders that is not the sample's: run `relay migrate`, "
            "or take an empty database for the sample"
        )


_VERSION = "SELECT schema_version FROM relay.installation"


async def read_schema_version(connection: asyncpg.Connection) -> int | None:
    """Return the version of the database's schema; None: it was never migrated."""
    if not await connection.fetchval(_HAS_MIGRATIONS):
        return None
    version: int | None = await connection.fetchval(_VERSION)
    return version


@cache
def _own_version() -> int:
    return load(sample=False)[-1].version


async def require_schema(connection: asyncpg.Connection) -> None:
    """Refuse a schema that this program does not run on: it runs on its own and on the next one.

    Raises:
        UnsuitableServerError: the server is too old, or the database is not UTF8.
        SchemaVersionError: never migrated, too old, or too new; the message says what to run.
    """
    require_suitable_server(connection)
    found, own = await read_schema_version(connection), _own_version()
    if found is None:
        raise SchemaVersionError("this database has no relay schema yet: run `relay migrate`")
    if found < own:
        raise SchemaVersionError(f"schema version {found}, need {own}: run `relay migrate`")
    if found > own + 1:
        raise SchemaVersionError(f"schema version {found} is too new for {own}: upgrade the relay")
