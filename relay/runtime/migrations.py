"""Setup: brings a database to the schema of this version: numbered SQL files, each applied once.

Invariant: what `--sql` prints is, file by file, byte for byte what `migrate` executes. Each file is
one transaction that first locks the list of files and then looks whether the file is already in, so
that a crash between two files, a second run, and two runs at once all end in the same schema. An
applied file that was edited afterwards is refused, and what kind of installation this is never
changes. A server that cannot be used is refused before anything is applied.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import asyncpg

from relay.runtime.database import connect
from relay.runtime.resources import sql_folder
from relay.runtime.server_requirements import GUARD, require_suitable_server

Kind = Literal["sample", "production"]
Series = Literal["relay", "sample"]

APPLICATION_NAME = "relay-migrate"
PARTITION_DAYS_AHEAD = 7

_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


class MigrationError(Exception):
    """The schema cannot be brought up to date; the message says why and what to do next."""


class EditedMigrationError(MigrationError):
    """A file that was applied has other content now: restore it, and write a new one instead."""


class InstallationKindError(MigrationError):
    """The database is an installation of the other kind; that never changes silently."""


class SampleConflictError(MigrationError):
    """The sample's tables would collide with tables that are somebody else's."""


class SchemaVersionError(MigrationError):
    """The schema is older, or more than one version newer, than this program."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    series: Series
    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """The content's digest, in hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


Applied = Mapping[tuple[str, int], str]
"""What a database has: (series, version) -> sha256."""


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What a run found and did."""

    kind: Kind
    schema_version: int
    applied: tuple[str, ...]


def load(sample: bool, folder: Path | None = None) -> tuple[Migration, ...]:  # noqa: FBT001 - contract
    """Return the files in the order in which they are applied: the relay's, then the sample's.

    Raises:
        MigrationError: a file is not named `NNNN_words.sql`, or two have one number.
    """
    root = folder or sql_folder()
    found = _series("relay", root)
    return found + _series("sample", root / "sample") if sample else found


def _series(series: Series, folder: Path) -> tuple[Migration, ...]:
    found: dict[int, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None or int(match[1]) in found:
            raise MigrationError(f"{path.name}: not named NNNN_words.sql, or the number is taken")
        version = int(match[1])
        name = path.name if series == "relay" else f"sample/{path.name}"
        found[version] = Migration(series, version, name, path.read_text("utf-8"))
    return tuple(found.values())


def pending(migrations: Sequence[Migration], applied: Applied) -> tuple[Migration, ...]:
    """Return those not applied yet.

    Raises:
        EditedMigrationError: an applied file has other content now; the message names it.
    """
    for migration in migrations:
        digest = applied.get((migration.series, migration.version))
        if digest not in (None, migration.sha256):
            raise EditedMigrationError(
                f"{migration.name} was applied with other content: restore the file "
                f"(sha256 {digest}), and put the change into a new one"
            )
    return tuple(m for m in migrations if (m.series, m.version) not in applied)


# The transaction's first statement: whoever comes second waits here, then finds the file applied.
# No advisory lock: every login of the database could hold its key. Before there is a list, CREATE
# SCHEMA makes the second one wait, and fails for it.
LOCK = """
DO $$ BEGIN
    IF pg_catalog.to_regclass('relay.migration') IS NOT NULL THEN
        LOCK TABLE relay.migration IN SHARE ROW EXCLUSIVE MODE;
    END IF;
END $$;
""".lstrip()

# A client of somebody else's has the settings of its server and role. What these would change of
# what is stored (names quoted where none need be) is set for the transaction; its zone and the
# forms of its dates change nothing.
_BEGIN = f"""\
BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL quote_all_identifiers = off;
SET LOCAL standard_conforming_strings = on;
{GUARD}"""

_RECORD = """
INSERT INTO relay.migration (series, version, name, sha256)
VALUES ('{series}', {version}, '{name}', '{sha256}');
"""

# Kind and watched_since are of the first run for ever; only the version moves.
_INSTALL = """
INSERT INTO relay.installation (kind, schema_version)
VALUES ('{kind}', (SELECT max(version) FROM relay.migration WHERE series = 'relay'))
ON CONFLICT (only_row) DO UPDATE SET schema_version = excluded.schema_version;
"""

# Only where there is none yet: later on the relay's maintenance makes them, with its retries.
_FIRST_PARTITIONS = """
SELECT relay.create_partition((clock_timestamp() AT TIME ZONE 'UTC')::date + ahead)
  FROM generate_series(0, {days}) AS ahead
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_inherits
                    WHERE inhparent = 'relay.outbox'::regclass
                      AND inhrelid <> 'relay.outbox_default'::regclass);
"""


def file_script(migration: Migration) -> str:
    """Return the statements of one file's transaction, without BEGIN, lock and COMMIT."""
    values = {
        "series": migration.series,
        "version": migration.version,
        "name": migration.name,
        "sha256": migration.sha256,
    }
    return migration.sql.rstrip() + "\n" + _RECORD.format(**values)


def finish_script(kind: Kind) -> str:
    """Return the statements of the last transaction: the installation row, the first partitions."""
    return _INSTALL.format(kind=kind) + _FIRST_PARTITIONS.format(days=PARTITION_DAYS_AHEAD)


def script(migrations: Sequence[Migration], kind: Kind) -> str:
    """Return everything as one script for psql, for those who apply schemas by their own means."""
    parts = [f"-- {m.name}\n{_BEGIN}{LOCK}{file_script(m)}COMMIT;\n" for m in migrations]
    parts.append(f"-- installation\n{_BEGIN}{LOCK}{finish_script(kind)}COMMIT;\n")
    return "\\set ON_ERROR_STOP on\n\n" + "\n".join(parts)


async def migrate(dsn: str | None, sample: bool = True) -> MigrationReport:  # noqa: FBT001, FBT002 - contract
    """Bring the database to this version's schema; done already: nothing happens.

    Raises:
        MigrationError: see its subclasses; what was applied before it stays applied.
        UnsuitableServerError: the server is too old, or the database is not UTF8.
        DatabaseError: no connection.
    """
    connection = await connect(dsn, APPLICATION_NAME)
    try:
        require_suitable_server(connection)
        return await _migrate(connection, load(sample), "sample" if sample else "production")
    finally:
        await connection.close()


async def _migrate(
    connection: asyncpg.Connection, migrations: Sequence[Migration], kind: Kind
) -> MigrationReport:
    todo = pending(migrations, await read_applied(connection))
    await _refuse_other_kind(connection, kind)
    await _refuse_sample_conflict(connection, todo)
    done = [m.name for m in todo if await _apply(connection, m)]
    async with connection.transaction():
        await connection.execute(LOCK + finish_script(kind))
    version = await read_schema_version(connection)
    assert version is not None
    return MigrationReport(kind, version, tuple(done))


async def _apply(connection: asyncpg.Connection, migration: Migration) -> bool:
    try:
        return await _apply_once(connection, migration)
    except _FirstOneFasterError:
        return await _apply_once(connection, migration)


# The index that two of CREATE SCHEMA at once meet in.
_SCHEMA_NAMES = "pg_namespace_nspname_index"


class _FirstOneFasterError(Exception):
    """Another run made the schema at the same moment: it has applied the file by now."""


async def _apply_once(connection: asyncpg.Connection, migration: Migration) -> bool:
    async with connection.transaction():
        await connection.execute(LOCK)
        found = await read_applied(connection)
        if not pending([migration], found):
            return False
        try:
            await connection.execute(file_script(migration))
        except (asyncpg.UniqueViolationError, asyncpg.DuplicateSchemaError) as error:
            if found or error.constraint_name not in (None, _SCHEMA_NAMES):
                raise MigrationError(_failure(migration, error)) from error
            raise _FirstOneFasterError from error
        except asyncpg.PostgresError as error:
            raise MigrationError(_failure(migration, error)) from error
    return True


def _failure(migration: Migration, error: asyncpg.PostgresError) -> str:
    # asyncpg's own text has line breaks: an error is one line.
    said = (error.message, error.detail, error.hint)
    return f"{migration.name} was not applied: " + "; ".join(part for part in said if part)


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
    right = "relay migrate" if found == "sample" else "relay migrate --relay-only"
    raise InstallationKindError(f"this is a {found} installation, and stays one: run `{right}`")


_ORDERS_EXIST = "SELECT pg_catalog.to_regclass('public.orders') IS NOT NULL"


async def _refuse_sample_conflict(
    connection: asyncpg.Connection, todo: Sequence[Migration]
) -> None:
    first_sample = any(m.series == "sample" and m.version == 1 for m in todo)
    if first_sample and await connection.fetchval(_ORDERS_EXIST):
        raise SampleConflictError(
            "there is a table public.orders that is not the sample's: run `relay migrate "
            "--relay-only`, or take an empty database for the sample"
        )


_VERSION = "SELECT schema_version FROM relay.installation"


async def read_schema_version(connection: asyncpg.Connection) -> int | None:
    """Return the version of the database's schema; None: it was never migrated."""
    if not await connection.fetchval(_HAS_MIGRATIONS):
        return None
    version: int | None = await connection.fetchval(_VERSION)
    return version


async def require_schema(connection: asyncpg.Connection) -> None:
    """Refuse a schema that this program does not run on: it runs on its own and on the next one.

    Raises:
        UnsuitableServerError: the server is too old, or the database is not UTF8.
        SchemaVersionError: never migrated, too old, or too new; the message says what to run.
    """
    require_suitable_server(connection)
    found, own = await read_schema_version(connection), load(sample=False)[-1].version
    if found is None:
        raise SchemaVersionError("this database has no relay schema yet: run `relay migrate`")
    if found < own:
        raise SchemaVersionError(f"schema version {found}, need {own}: run `relay migrate`")
    if found > own + 1:
        raise SchemaVersionError(f"schema version {found} is too new for {own}: upgrade the relay")
