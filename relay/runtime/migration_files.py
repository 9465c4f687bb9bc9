"""Setup: the numbered SQL files of the schema, and the one script that they make.

Invariant: pure but for reading the files, and without a driver: an order service's own migration
tool runs the same script (`relay.outbox.django`). The script is one transaction: whatever client
runs it, and whether or not that stops at an error, either all of it is in or nothing is.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from relay.runtime.resources import sql_folder
from relay.runtime.server_requirements import GUARD

Kind = Literal["sample", "production"]
Series = Literal["relay", "sample"]

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

REMEMBER_ROLE: Final = """
DO $$ BEGIN
    PERFORM pg_catalog.set_config('relay.migrator', pg_catalog.current_setting('role'), true);
END $$;
""".lstrip()
AS_MIGRATOR: Final = """
DO $$ BEGIN
    PERFORM pg_catalog.set_config('role', pg_catalog.current_setting('relay.migrator'), true);
END $$;
""".lstrip()


# A client of somebody else's has the settings of its server and role. What these would change of
# what is stored (names quoted where none need be) is set for the transaction; its zone and the
# forms of its dates change nothing. Files act as relay_owner for the rest of their transaction:
# the next one begins as who runs it all, whose role may be one that was SET before.
_PREPARE: Final = f"""\
SET LOCAL quote_all_identifiers = off;
SET LOCAL standard_conforming_strings = on;
{GUARD}{LOCK}{REMEMBER_ROLE}"""

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
    """Return the statements of one file, and of the record of it."""
    values = {
        "series": migration.series,
        "version": migration.version,
        "name": migration.name,
        "sha256": migration.sha256,
    }
    return migration.sql.rstrip() + "\n" + _RECORD.format(**values)


def finish_script(kind: Kind) -> str:
    """Return the last statements: the installation row, the first partitions."""
    return _INSTALL.format(kind=kind) + _FIRST_PARTITIONS.format(days=PARTITION_DAYS_AHEAD)


def script(migrations: Sequence[Migration], kind: Kind, *, within_transaction: bool = False) -> str:
    """Return everything as one script of plain SQL, for any client.

    Args:
        migrations: those that are pending.
        kind: of the installation.
        within_transaction: without BEGIN and COMMIT, for tools that open a transaction themselves.
    """
    parts = [f"-- {m.name}\n{file_script(m)}{AS_MIGRATOR}" for m in migrations]
    parts.append(f"-- installation\n{finish_script(kind)}")
    inside = _PREPARE + "\n" + "\n".join(parts)
    if within_transaction:
        return inside
    return f"BEGIN ISOLATION LEVEL READ COMMITTED;\n{inside}COMMIT;\n"
