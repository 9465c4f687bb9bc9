"""The day of the move: every row of an outbox is published by the old publisher or by us, once."""

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from relay.embedded import EmbeddedPostgres
from relay.embedded.folders import run_folder
from relay.runtime.migrations import migrate
from tests.worlds.world import WORLD

RelayCommand = Callable[..., subprocess.CompletedProcess[str]]
OUTBOX = """
    CREATE TABLE public.outbox (id bigserial PRIMARY KEY, aggregatetype text DEFAULT 'order',
        aggregateid text DEFAULT 'a', type text DEFAULT 'order.placed', payload jsonb,
        published_at timestamptz)
"""
CHANGES = (
    "SELECT data FROM pg_logical_slot_get_binary_changes('dbz', NULL, NULL,"
    " 'proto_version', '1', 'publication_names', 'dbz')"
)


@pytest.fixture
def logical_postgres() -> Iterator[str]:
    """A PostgreSQL whose changes can be decoded."""
    with run_folder() as folder:
        options = WORLD.postgres_options({"wal_level": "logical"})
        server = EmbeddedPostgres(folder / "postgres", **options)
        server.start()
        try:
            yield server.dsn()
        finally:
            server.kill()


@contextmanager
def writers(url: str, count: int) -> Iterator[None]:
    """Write the outbox from several transactions at once, each open for a while."""
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(url) as connection:
            while not stop.is_set():
                connection.execute("INSERT INTO outbox (payload) VALUES ('{}')")
                time.sleep(0.001)
                connection.commit()

    threads = [threading.Thread(target=write) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def ids_of(change: bytes) -> list[int]:
    """Read an insert of pgoutput (protocol.sgml, "Logical Replication Message Formats")."""
    if change[:1] != b"I":
        return []
    length = int.from_bytes(change[9:13], "big")
    return [int(change[13 : 13 + length])]


def test_what_a_publication_gives_up_is_copied_from_the_next_row_on(
    logical_postgres: str, relay_command: RelayCommand
) -> None:
    url = logical_postgres
    asyncio.run(migrate(url, sample=False))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(OUTBOX)
        connection.execute("CREATE PUBLICATION dbz FOR TABLE outbox")
        connection.execute("SELECT pg_create_logical_replication_slot('dbz', 'pgoutput')")
        printed = relay_command(
            "trigger", "mirror", "public.outbox", "--publication", "dbz", env={"DATABASE_URL": url}
        ).stdout

        def rows(table: str) -> int:
            return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]

        with writers(url, 4):
            while rows("outbox") < 50:
                time.sleep(0.01)
            connection.execute(printed)
            while rows("relay.outbox") < 50:
                time.sleep(0.01)
        published = [one for (data,) in connection.execute(CHANGES) for one in ids_of(data)]
        written = [one for (one,) in connection.execute("SELECT id FROM outbox")]
        copied = rows("relay.outbox")
    assert len(published) >= 50
    assert len(published) + copied == len(written), "none in both, none in neither"
    assert set(published) <= set(written)


def test_a_backlog_is_copied_in_order_and_nothing_else(
    empty_database: str, relay_command: RelayCommand, tmp_path: Path
) -> None:
    env = {"DATABASE_URL": empty_database, "RELAY_CONFIG": str(tmp_path / "none.toml")}
    (tmp_path / "none.toml").write_text("")
    assert relay_command("migrate", env=env).returncode == 0
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(OUTBOX)
        connection.execute(
            "INSERT INTO outbox (aggregateid, payload, published_at) SELECT g::text, '{}',"
            " CASE WHEN g < 3 THEN now() END FROM generate_series(1, 5) g ORDER BY g DESC"
        )
        backlog = ("--backlog", "published_at IS NULL", "--order-by", "aggregateid")
        connection.execute(relay_command("trigger", "mirror", "outbox", *backlog, env=env).stdout)
        connection.execute("INSERT INTO outbox (aggregateid, payload) VALUES ('6', '{}')")
        found = connection.execute("SELECT aggregate_id FROM relay.outbox ORDER BY id").fetchall()
    assert [one for (one,) in found] == ["3", "4", "5", "6"]
    wrong = relay_command("trigger", "mirror", "outbox", "--publication", "none", env=env)
    assert "no publication none" in wrong.stderr
    assert relay_command("trigger", "mirror", "outbox", "--order-by", "x", env=env).returncode == 2
