"""A database that cannot hold what is written is refused before anything is."""

import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psycopg
import pytest
from psycopg import sql

from relay.runtime.database import connect
from relay.runtime.migration_files import load, script
from relay.runtime.migrations import migrate, require_schema
from relay.runtime.schema_drift import schema_differences
from relay.runtime.server_requirements import UnsuitableServerError
from tests.odd_sessions import make_odd

RelayCommand = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def narrow_database(postgres_url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database whose encoding is not UTF8."""
    name = f"narrow_{uuid.uuid4().hex[:12]}"
    create = sql.SQL(
        "CREATE DATABASE {} ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(create.format(sql.Identifier(name), sql.Literal(request.param)))
        yield urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


async def test_only_utf8_is_migrated(narrow_database: str) -> None:
    with pytest.raises(UnsuitableServerError, match=r"UTF8 is needed.*template0"):
        await migrate(narrow_database)
    connection = await connect(narrow_database, "relay-test")
    assert await connection.fetchval("SELECT to_regnamespace('relay')") is None
    with pytest.raises(UnsuitableServerError, match="UTF8"):
        await require_schema(connection)
    await connection.close()


async def test_the_printed_script_refuses_it_too(narrow_database: str) -> None:
    printed = script(load(sample=True), "sample")
    connection = await asyncpg.connect(narrow_database)
    with pytest.raises(asyncpg.RaiseError, match="UTF8 is needed"):
        await connection.execute(printed)
    await connection.execute("ROLLBACK")
    assert await connection.fetchval("SELECT to_regnamespace('relay')") is None
    await connection.close()


@pytest.mark.parametrize("arguments", [("migrate",), ("run",), ("confirm",), ("check", "--json")])
def test_every_command_says_so(
    narrow_database: str, relay_command: RelayCommand, arguments: tuple[str, ...]
) -> None:
    done = relay_command(
        *arguments,
        env={"DATABASE_URL": narrow_database, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
    )
    assert done.returncode != 0
    assert "UTF8 is needed" in done.stdout + done.stderr


async def test_the_printed_script_makes_the_same_in_an_odd_client(empty_database: str) -> None:
    """Names quoted without need, another isolation, another zone: nothing of it is kept."""
    printed = script(load(sample=True), "sample")
    setup = await asyncpg.connect(empty_database)
    await make_odd(setup)
    await setup.close()
    foreign = await asyncpg.connect(empty_database)
    assert await foreign.fetchval("SHOW quote_all_identifiers") == "on"
    for transaction in filter(str.strip, re.split(r"(?<=^COMMIT;)$", printed, flags=re.MULTILINE)):
        await foreign.execute(transaction)
    await foreign.close()
    connection = await connect(empty_database, "relay-test")
    assert await schema_differences(connection) == []
    await connection.close()
