"""A world for each scene; the table of everything that was said, at the end of the run."""

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest

from relay.embedded import EmbeddedKafka
from relay.embedded.folders import run_folder
from tests.conftest import Topics
from tests.corpus.tally import PROPERTY, Row, figure, table
from tests.corpus.world import World
from tests.worlds.world import WORLD

# A broker that forgets as soon as it is told to, and knows access control lists.
FORGETFUL = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "super.users": "User:somebody-else",
    "log.retention.check.interval.ms": "500",
    "log.initial.task.delay.ms": "500",
    "log.cleaner.backoff.ms": "500",
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}


@pytest.fixture
async def world(
    database: str,
    service_pg: asyncpg.Connection,
    kafka_bootstrap: str,
    topics: Topics,
    relay_process: Callable[..., Any],
    relay_command: Callable[..., Any],
    eventually: Callable[..., Awaitable[Any]],
) -> AsyncIterator[World]:
    """A loop on the run's servers."""
    made = World(
        database, service_pg, kafka_bootstrap, topics, relay_process, relay_command, eventually
    )
    yield made
    await made.doing.aclose()


@pytest.fixture
def forgetful_kafka() -> Iterator[EmbeddedKafka]:
    """A broker of this test's own."""
    with run_folder() as folder:
        broker = EmbeddedKafka(folder / "kafka", **WORLD.kafka_options(FORGETFUL))
        broker.start()
        try:
            yield broker
        finally:
            broker.kill()


@pytest.fixture
def world_with_broker(
    database: str,
    service_pg: asyncpg.Connection,
    forgetful_kafka: EmbeddedKafka,
    relay_process: Callable[..., Any],
    relay_command: Callable[..., Any],
    eventually: Callable[..., Awaitable[Any]],
) -> World:
    """A loop whose broker is its own."""
    bootstrap = forgetful_kafka.bootstrap_servers
    made = World(
        database, service_pg, bootstrap, Topics(bootstrap), relay_process, relay_command, eventually
    )
    made.server = forgetful_kafka
    made.environment["KAFKA_BOOTSTRAP_SERVERS"] = bootstrap
    return made


@pytest.fixture
async def world_with_database(
    private_postgres: Any,
    private_database: str,
    kafka_bootstrap: str,
    topics: Topics,
    relay_process: Callable[..., Any],
    relay_command: Callable[..., Any],
    eventually: Callable[..., Awaitable[Any]],
) -> AsyncIterator[World]:
    """A loop whose PostgreSQL is its own."""
    connection = await asyncpg.connect(private_database)
    made = World(
        private_database, connection, kafka_bootstrap, topics, relay_process, relay_command,
        eventually,
    )  # fmt: skip
    made.server = private_postgres
    made.environment["DATABASE_URL"] = private_database
    yield made
    await made.pg.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the figure, and with CORPUS_TABLE=1 the table."""
    reports = [one for kind in ("passed", "failed") for one in terminalreporter.stats.get(kind, [])]
    rows = [
        Row(**row)
        for report in reports
        for name, text in getattr(report, "user_properties", ())
        if name == PROPERTY and report.when == "call"
        for row in json.loads(text)
    ]
    if rows:
        lines = table(rows) if os.environ.get("CORPUS_TABLE") else [figure(rows)]
        for line in lines:
            terminalreporter.write_line(line)
