"""`relay migrate`: applied once, by whoever comes first; edited, foreign and other ones refused."""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psycopg
import pytest

from relay.embedded import EmbeddedPostgres
from relay.embedded.postgres import _programs
from relay.runtime import migrations
from relay.runtime.database import connect
from relay.runtime.migration_files import (
    EditedMigrationError,
    InstallationKindError,
    Migration,
    MigrationError,
    SampleConflictError,
    SchemaVersionError,
    load,
    pending,
    script,
)
from relay.runtime.migrations import migrate, require_schema
from relay.runtime.resources import sql_folder
from relay.runtime.schema_drift import schema_differences
from relay.runtime.schema_snapshot import make_snapshot

RelayCommand = Callable[..., subprocess.CompletedProcess[str]]
ALL = [m.name for m in load(sample=True)]


async def test_everything_is_applied_once(empty_database: str) -> None:
    first = await migrate(empty_database, sample=True)
    assert (list(first.applied), first.kind) == (ALL, "sample")
    second = await migrate(empty_database, sample=True)
    assert second.applied == ()
    assert second.schema_version == max(m.version for m in load(sample=False))


async def test_from_many_places_at_once(empty_database: str) -> None:
    reports = await asyncio.gather(*(migrate(empty_database, sample=True) for _ in range(5)))
    applied = [name for report in reports for name in report.applied]
    assert sorted(applied) == sorted(ALL)


async def test_two_databases_of_one_cluster_at_once(postgres_url: str, empty_database: str) -> None:
    """The roles belong to the cluster: whoever is second finds them there."""
    await migrate(empty_database, sample=False)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS beside_it")
        connection.execute("CREATE DATABASE beside_it")
    beside = urlunsplit(urlsplit(postgres_url)._replace(path="/beside_it"))
    try:
        await asyncio.gather(migrate(beside, sample=True), migrate(empty_database, sample=False))
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("DROP DATABASE beside_it WITH (FORCE)")


async def test_who_applied_what_is_recorded(pg: asyncpg.Connection) -> None:
    rows = await pg.fetch("SELECT * FROM relay.migration ORDER BY series, version")
    assert [row["name"] for row in rows] == ALL
    for row, migration in zip(rows, load(sample=True), strict=True):
        assert row["sha256"] == migration.sha256
        assert row["by"] == await pg.fetchval("SELECT session_user::text")


async def test_watched_since_and_kind_are_of_the_first_run(empty_database: str) -> None:
    await migrate(empty_database, sample=False)
    connection = await connect(empty_database, "test")
    try:
        before = await connection.fetchrow("SELECT * FROM relay.installation")
        await migrate(empty_database, sample=False)
        assert await connection.fetchrow("SELECT * FROM relay.installation") == before
        assert before["kind"] == "production"
        assert await connection.fetchval("SELECT to_regclass('public.orders')") is None
        with pytest.raises(InstallationKindError, match="relay migrate`"):
            await migrate(empty_database, sample=True)
        assert await connection.fetchval("SELECT to_regclass('public.orders')") is None
        assert await connection.fetchrow("SELECT * FROM relay.installation") == before
    finally:
        await connection.close()


async def test_a_sample_stays_a_sample(database: str) -> None:
    with pytest.raises(InstallationKindError, match="sample"):
        await migrate(database, sample=False)


async def test_somebody_elses_orders_are_not_touched(empty_database: str) -> None:
    connection = await connect(empty_database, "test")
    try:
        await connection.execute("CREATE TABLE public.orders (mine int)")
        with pytest.raises(SampleConflictError, match="relay migrate`"):
            await migrate(empty_database, sample=True)
        assert await connection.fetchval("SELECT to_regclass('relay.outbox')") is None
        assert (await migrate(empty_database, sample=False)).kind == "production"
    finally:
        await connection.close()


async def test_the_first_row_ever_is_read(pg: asyncpg.Connection) -> None:
    await pg.execute(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
        " VALUES ('order', '1', 'order.placed', '{}')"
    )
    assert await pg.fetchval(
        "SELECT NOT pg_visible_in_snapshot(o.txid, c.prev) FROM relay.outbox o, relay.checkpoint c"
    )


def folder_with(tmp_path: Path, **files: str) -> Path:
    for name, sql in files.items():
        (tmp_path / f"{name}.sql").write_text(sql, "utf-8")
    return tmp_path


async def test_an_edited_file_is_named(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    edited = [
        Migration(m.series, m.version, m.name, m.sql + ("--" if m.version == 2 else ""))
        for m in load(sample=True)
    ]
    monkeypatch.setattr(migrations, "load", lambda _sample: tuple(edited))
    with pytest.raises(EditedMigrationError, match=r"0002_roles\.sql"):
        await migrate(database, sample=True)


async def test_a_file_that_fails_leaves_nothing(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Migration("relay", 9999, "9999_bad.sql", "CREATE TABLE relay.half ();\nSELECT 1 / 0;\n")
    good = load(sample=True)
    monkeypatch.setattr(migrations, "load", lambda _sample: (*good, bad))
    with pytest.raises(MigrationError, match=r"9999_bad\.sql.*division"):
        await migrate(empty_database, sample=True)
    connection = await connect(empty_database, "test")
    try:
        assert await connection.fetchval("SELECT to_regnamespace('relay')") is None
        assert await connection.fetchval("SELECT to_regclass('public.orders')") is None
    finally:
        await connection.close()
    monkeypatch.undo()
    assert len((await migrate(empty_database, sample=True)).applied) == len(good)


@pytest.mark.parametrize("names", [["1_x"], ["0001_x", "0001_y"], ["0001_X"]])
def test_a_file_with_a_wrong_name_is_refused(tmp_path: Path, names: list[str]) -> None:
    folder = folder_with(tmp_path, **dict.fromkeys(names, "SELECT 1;"))
    with pytest.raises(MigrationError, match="NNNN_words"):
        load(sample=False, folder=folder)


def test_numbers_have_no_gaps() -> None:
    for series in ("relay", "sample"):
        versions = [m.version for m in load(sample=True) if m.series == series]
        assert versions == list(range(1, len(versions) + 1))


def test_pending_is_what_is_not_in() -> None:
    found = load(sample=True)
    applied = {(m.series, m.version): m.sha256 for m in found[:2]}
    assert pending(found, applied) == found[2:]


async def test_services_refuse_a_schema_that_is_not_theirs(pg: asyncpg.Connection) -> None:
    await require_schema(pg)
    own = load(sample=False)[-1].version
    await pg.execute("UPDATE relay.installation SET schema_version = $1", own + 1)
    await require_schema(pg)
    for version, says in ((own + 2, "too new"), (own - 1, "relay migrate")):
        await pg.execute("UPDATE relay.installation SET schema_version = $1", version)
        with pytest.raises(SchemaVersionError, match=says):
            await require_schema(pg)


async def test_services_refuse_a_database_without_schema(empty_database: str) -> None:
    connection = await connect(empty_database, "test")
    try:
        with pytest.raises(SchemaVersionError, match="relay migrate"):
            await require_schema(connection)
    finally:
        await connection.close()


async def test_the_committed_snapshot_is_what_the_migrations_make(empty_database: str) -> None:
    connection = await connect(empty_database, "test")
    try:
        made = await make_snapshot(connection)
        assert await connection.fetchval("SELECT to_regnamespace('relay')") is None
    finally:
        await connection.close()
    assert made.as_json() == (sql_folder() / "expected.json").read_text("utf-8"), (
        "with an empty database: relay migrate --snapshot > schemas/sql/expected.json"
    )


async def test_sql_prints_what_is_applied(empty_database: str, relay_command: RelayCommand) -> None:
    printed = relay_command("migrate", "--sql", "--sample", env={"DATABASE_URL": empty_database})
    assert printed.returncode == 0
    assert printed.stdout == script(load(sample=True), "sample")
    connection = await connect(empty_database, "test")
    try:
        await connection.execute(printed.stdout)
    finally:
        await connection.close()
    assert (await migrate(empty_database, sample=True)).applied == ()
    verified = relay_command("migrate", "--verify", env={"DATABASE_URL": empty_database})
    assert (verified.returncode, verified.stdout) == (0, "the schema is as it should be\n")


def test_sql_prints_only_what_is_missing(database: str, relay_command: RelayCommand) -> None:
    printed = relay_command("migrate", "--sql")
    assert "CREATE TABLE" not in printed.stdout
    assert printed.stdout == script([], "sample")


def test_sql_without_a_database_prints_all(relay_command: RelayCommand) -> None:
    nowhere = {"DATABASE_URL": "postgresql://127.0.0.1:1/x"}
    printed = relay_command("migrate", "--sql", env=nowhere)
    assert printed.returncode == 0
    assert "no database" in printed.stderr
    assert printed.stdout == script(load(sample=False), "production")
    assert "public.orders" not in printed.stdout


CHANGES = {
    "ALTER TABLE relay.outbox ALTER txid DROP DEFAULT": "relay.outbox.txid",
    "ALTER TABLE relay.inbox ADD mine int": "relay.inbox.mine",
    "ALTER TABLE relay.inbox ALTER reason TYPE varchar(5)": "relay.inbox.reason",
    "ALTER TABLE relay.inbox ALTER reason SET NOT NULL": "relay.inbox.reason",
    "DROP INDEX relay.outbox_txid_id": "outbox_txid_id",
    "CREATE INDEX mine ON relay.inbox (status)": "mine",
    "ALTER TABLE relay.quarantine DROP CONSTRAINT quarantine_kind_check": "quarantine_kind_check",
    "ALTER TABLE public.orders DROP CONSTRAINT orders_status_check": "orders_status_check",
    "DROP TABLE relay.probe_run": "relation relay.probe_run",
    "DROP FUNCTION relay.drop_partition": "relay.drop_partition",
    "ALTER FUNCTION relay.create_partition SECURITY INVOKER": "relay.create_partition",
    "ALTER FUNCTION relay.create_partition SET lock_timeout = '9s'": "relay.create_partition",
    "GRANT SELECT ON relay.outbox TO relay_writer": "relay.outbox to relay_writer",
    "GRANT SELECT ON relay.outbox TO PUBLIC": "relay.outbox to public",
    "GRANT INSERT (txid) ON relay.outbox TO relay_writer": "relay.outbox.txid to relay_writer",
    "REVOKE INSERT (status) ON relay.inbox FROM relay_confirmer": "relay.inbox.status to",
    "DROP POLICY change ON relay.lease": "policy relay.lease: change",
    "ALTER TABLE relay.lease DISABLE ROW LEVEL SECURITY": "policy relay.lease",
    "GRANT EXECUTE ON FUNCTION relay.keep_rows TO PUBLIC": "relay.keep_rows",
    "ALTER TABLE relay.inbox OWNER TO CURRENT_USER": "owner of relay.inbox",
    "ALTER SEQUENCE relay.outbox_id_seq CACHE 50": "relay.outbox_id_seq",
    "CREATE TRIGGER mine BEFORE INSERT ON relay.inbox FOR EACH ROW"
    " EXECUTE FUNCTION suppress_redundant_updates_trigger()": "relay.inbox: mine",
    "CREATE OR REPLACE VIEW relay.kept_summary AS SELECT id, txid, event_id, aggregate_type,"
    " aggregate_id, aggregate_version, event_type, 1 AS payload_bytes, traceparent, tracestate,"
    " created_at, kept_at, why FROM relay.kept": "view relay.kept_summary",
}


async def test_verify_names_each_difference(pg: asyncpg.Connection) -> None:
    for change, named in CHANGES.items():
        transaction = pg.transaction()
        await transaction.start()
        await pg.execute(change)
        found = await schema_differences(pg)
        await transaction.rollback()
        assert any(named in line for line in found), (change, found)
        assert len(found) <= 2, (change, found)
    assert await schema_differences(pg) == []


async def test_new_and_dropped_partitions_are_no_difference(pg: asyncpg.Connection) -> None:
    await pg.execute("SELECT relay.create_partition('2030-01-01')")
    assert await schema_differences(pg) == []


def test_verify_exits_with_3_and_names_them(database: str, relay_command: RelayCommand) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("DROP INDEX relay.kept_event")
    found = relay_command("migrate", "--verify", "--json")
    assert found.returncode == 3
    (difference,) = json.loads(found.stdout)["differences"]
    assert difference.startswith("missing: index relay.kept: kept_event")


def test_verify_of_a_production_installation(
    empty_database: str, relay_command: RelayCommand
) -> None:
    env = {"DATABASE_URL": empty_database}
    unmigrated = relay_command("migrate", "--verify", env=env)
    assert unmigrated.returncode == 1
    assert "relay migrate" in unmigrated.stderr
    assert relay_command("migrate", "--relay-only", env=env).returncode == 0
    with psycopg.connect(empty_database) as connection:
        connection.execute("CREATE TABLE public.orders (mine int)")
    assert relay_command("migrate", "--verify", env=env).returncode == 0


def test_migrate_says_what_it_did(empty_database: str, relay_command: RelayCommand) -> None:
    env = {"DATABASE_URL": empty_database}
    first = relay_command("migrate", "--sample", env=env)
    assert first.stdout.splitlines()[: len(ALL)] == [f"applied {name}" for name in ALL]
    second = json.loads(relay_command("migrate", "--sample", "--json", env=env).stdout)
    assert second["applied"] == []
    assert second["kind"] == "sample"


ROLES_FILE = Path(__file__).parents[2] / "deploy" / "roles.sql"


def owned_by(server: EmbeddedPostgres, user: str, powers: str = "") -> str:
    """Make a database and a user who owns it, and return that user's URL."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'plain' {powers}")
        connection.execute(f"CREATE DATABASE {user} OWNER {user}")
    parts = urlsplit(server.dsn(user))
    return urlunsplit(parts._replace(netloc=f"{user}:plain@{parts.netloc.split('@')[-1]}"))


def superuser_makes_roles(server: EmbeddedPostgres, migrator: str) -> None:
    psql = (str(_programs() / "psql"), "-q", "-v", f"migrator={migrator}", "-f", ROLES_FILE)
    subprocess.run([*psql, server.dsn()], check=True, timeout=30)


async def test_a_migrator_who_may_not_create_roles(private_postgres: EmbeddedPostgres) -> None:
    """On a cluster of its own: the roles are not there before a superuser makes them."""
    url = owned_by(private_postgres, "plain")
    with pytest.raises(MigrationError, match=r"relay_owner does not exist.*deploy/roles\.sql"):
        await migrate(url, sample=True)
    with psycopg.connect(private_postgres.dsn(), autocommit=True) as connection:
        connection.execute("CREATE ROLE relay_owner")
    with pytest.raises(MigrationError, match=r"relay_writer does not exist"):
        await migrate(url, sample=True)
    for _ in range(2):  # it may be run again
        superuser_makes_roles(private_postgres, "plain")
    assert (await migrate(url, sample=True)).kind == "sample"
    connection = await connect(url, "test")
    try:
        assert await schema_differences(connection) == []
    finally:
        await connection.close()


async def test_a_migrator_who_may_create_roles(private_postgres: EmbeddedPostgres) -> None:
    """Since PostgreSQL 16 its own roles are not its to become: it has to grant them first."""
    url = owned_by(private_postgres, "creator", "CREATEROLE")
    assert (await migrate(url, sample=True)).kind == "sample"
    connection = await connect(url, "test")
    try:
        assert await schema_differences(connection) == []
    finally:
        await connection.close()


async def test_a_migrator_who_is_no_member_of_the_owner(
    private_postgres: EmbeddedPostgres,
) -> None:
    await migrate(private_postgres.dsn(), sample=True)
    with pytest.raises(MigrationError, match=r"not a member of relay_owner.*deploy/roles\.sql"):
        await migrate(owned_by(private_postgres, "outsider"), sample=True)


def test_plain_migrate_makes_a_production_installation(
    empty_database: str, relay_command: RelayCommand
) -> None:
    env = {"DATABASE_URL": empty_database}
    assert json.loads(relay_command("migrate", "--json", env=env).stdout)["kind"] == "production"
    with psycopg.connect(empty_database) as connection:
        tables = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone()
    assert tables == (0,)


def test_the_script_is_all_or_nothing_where_the_client_goes_on_after_an_error(
    empty_database: str,
) -> None:
    """As psql does without ON_ERROR_STOP; and as a role that was SET, whose rights come back."""
    whole = script(load(sample=False), "production")
    broken = whole.replace("CREATE TABLE relay.inbox", "CREATE TABLE relay.nowhere.inbox", 1)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        for statement in broken.split(";\n\n"):
            with contextlib.suppress(psycopg.Error):
                connection.execute(statement)
        connection.execute("ROLLBACK")
        found = connection.execute("SELECT to_regnamespace('relay')").fetchone()
        assert found == (None,)


def test_the_script_runs_within_a_tools_own_transaction(
    empty_database: str, relay_command: RelayCommand
) -> None:
    env = {"DATABASE_URL": empty_database}
    printed = relay_command("migrate", "--sql", "--within-transaction", env=env).stdout
    with psycopg.connect(empty_database) as connection:
        connection.execute(printed)
        connection.execute("CREATE TABLE public.after_it (a int)")
        owner = connection.execute(
            "SELECT tableowner = current_user FROM pg_tables WHERE tablename = 'after_it'"
        ).fetchone()
        connection.rollback()
        assert connection.execute("SELECT to_regnamespace('relay')").fetchone() == (None,)
        connection.execute(printed)
    assert owner == (True,)
    assert relay_command("migrate", "--verify", env=env).returncode == 0


def test_grants_are_those_of_the_settings_table(
    empty_database: str, relay_command: RelayCommand, tmp_path: Path
) -> None:
    """Odd names are quoted by the server, and the printed rights can be granted."""
    settings = tmp_path / "relay.toml"
    settings.write_text(
        '[flow.orders.columns]\ntable = \'shop."Order"\'\nkey_column = "Id"\nkey_type = "bigint"\n'
        'status_column = "state"\nsubmitted_at_column = "at"\nlookup_columns = ["number"]\n'
    )
    env = {"DATABASE_URL": empty_database, "RELAY_CONFIG": str(settings)}
    assert relay_command("migrate", env=env).returncode == 0
    with psycopg.connect(empty_database) as connection:
        connection.execute(
            'CREATE SCHEMA shop; CREATE TABLE shop."Order"'
            ' ("Id" bigint PRIMARY KEY, number text, state text, at timestamptz)'
        )
        connection.commit()
        printed = relay_command("migrate", "--grants", env=env).stdout
        assert 'GRANT UPDATE (state) ON shop."Order" TO relay_confirmer;' in printed
        connection.execute(printed)
        connection.execute("SET ROLE relay_confirmer")
        connection.execute('UPDATE shop."Order" SET state = \'x\' WHERE "Id" = 1')
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute('UPDATE shop."Order" SET number = \'x\' WHERE "Id" = 1')
