"""Hops 1 to 5 of the demo: PostgreSQL and Kafka to run it on, migrated, with topics.

Invariant: servers of its own are gone when the block is left, also when it is left while they
start. Those that the environment names are used as they are, never stopped: topics and groups are
the demo's own there, and a database where a relay is at work is refused: it would take the orders.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from aiokafka.admin import AIOKafkaAdminClient

from relay.embedded import Cluster
from relay.kafka.topic_creation import make_topics
from relay.runtime.database import connect
from relay.runtime.migrations import migrate
from relay.runtime.settings import Settings, load_settings
from relay.runtime.tasks import awaited
from relay.sample.demo_mishaps import EXPRESS, EXPRESS_TOPIC
from relay.sample.demo_result import DemoFailedError
from relay.sample.installation import require_sample

PARTITIONS: Final = 3

# Settings of the demo's services; what else the user has set is for other programs.
_OURS: Final = ("RELAY_", "DATABASE_URL", "KAFKA_", "PG")
_KEPT: Final = ("RELAY_TRACE_URL", "RELAY_TRACEBACK")

_ANOTHER_RELAY: Final = """
SELECT owner FROM relay.lease
 WHERE duty = 'relay' AND owner IS NOT NULL AND released_at IS NULL
   AND expires_at > clock_timestamp()
"""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where everything is.

    Attributes:
        environment: for the services: the servers, and `OTEL_*` as it was given.
        logs: of the servers of its own.
    """

    settings: Settings
    environment: Mapping[str, str]
    versions: str
    logs: tuple[Path, ...]


@asynccontextmanager
async def servers(
    given: Mapping[str, str], deadline_seconds: float, tell: Callable[[str], None]
) -> AsyncIterator[Servers]:
    """Start what is not given, and prepare it.

    Args:
        given: `os.environ`; DATABASE_URL and KAFKA_* name servers to use.
        deadline_seconds: after which an order without its return is overdue.
        tell: is told what takes a while.

    Raises:
        EmbeddedError: a server cannot be started.
        DatabaseError, MigrationError, NotSampleError: the given database cannot be used.
        DemoFailedError: another relay is at work on it.
        TopicNotMadeError: the topics cannot be made.
    """
    cluster = Cluster(
        database_url=given.get("DATABASE_URL"),
        kafka_bootstrap_servers=given.get("KAFKA_BOOTSTRAP_SERVERS"),
        report=tell,
    )
    async with _running(cluster):
        environment = _environment(given, cluster) | _flow(cluster, deadline_seconds)
        settings = load_settings(os.devnull, environment)
        version = await _prepare_database(settings)
        logs = [server.log for server in (cluster.postgres, cluster.kafka) if server is not None]
        async with _topics(settings, given=cluster.kafka is None):
            yield Servers(settings, environment, version, tuple(logs))


@asynccontextmanager
async def _running(cluster: Cluster) -> AsyncIterator[None]:
    """Enter and leave the cluster's block in threads; a start that was begun is waited for."""
    start = awaited(asyncio.to_thread(cluster.__enter__), "cluster")
    try:
        await asyncio.shield(start)
        yield
    finally:
        await asyncio.wait([start])  # what it failed by is raised above already
        if start.exception() is None:
            await asyncio.to_thread(cluster.__exit__, None, None, None)


def _environment(given: Mapping[str, str], cluster: Cluster) -> dict[str, str]:
    """Return the services' environment: the servers, and nothing of the user's other settings."""
    kept = {
        name: text for name, text in given.items() if not name.startswith(_OURS) or name in _KEPT
    }
    if cluster.kafka is None:
        kept |= {name: text for name, text in given.items() if name.startswith("KAFKA_")}
    return {
        **kept,
        "DATABASE_URL": cluster.database_url,
        "KAFKA_BOOTSTRAP_SERVERS": cluster.kafka_bootstrap_servers,
        "PYTHONUNBUFFERED": "1",
    }


def _flow(cluster: Cluster, deadline_seconds: float) -> dict[str, str]:
    """Return the flow's settings; on somebody's own broker, topics and groups that nobody has.

    A sample processor in a real group, on a real topic, would confirm customers' orders.
    """
    if cluster.kafka is not None:
        return {"RELAY_FLOW_EVENTS": _events(EXPRESS_TOPIC, deadline_seconds)}
    own = f"relay-demo-{uuid4().hex[:8]}"
    return {
        "RELAY_FLOW_EVENTS": _events(f"{own}.{EXPRESS_TOPIC}", deadline_seconds),
        "RELAY_FLOW_EVENTS_TOPIC": f"{own}.orders.events",
        "RELAY_FLOW_RETURNS_TOPIC": f"{own}.orders.returns",
        "RELAY_FLOW_PROCESSOR_GROUPS": f"{own}.order-processor",
        "RELAY_FLOW_CONFIRM_GROUP": f"{own}.order-confirmation",
    }


def _events(express_topic: str, deadline_seconds: float) -> str:
    """Map the events: one of them to a topic that no processor reads."""
    due = {"deadline_seconds": deadline_seconds}
    return json.dumps({"order.placed": due, EXPRESS: {**due, "topic": express_topic}})


@asynccontextmanager
async def _topics(settings: Settings, *, given: bool) -> AsyncIterator[None]:
    """Make both topics; on somebody's own broker they are removed afterwards."""
    topics = sorted(settings.flow.topics | {settings.flow.returns_topic})
    made = await make_topics(settings.kafka, topics, partitions=PARTITIONS)
    try:
        yield
    finally:
        if given and made:
            admin = AIOKafkaAdminClient(**settings.kafka.client_options("relay-demo"))
            try:
                await admin.start()
                await admin.delete_topics(made)
            finally:
                await admin.close()


async def _prepare_database(settings: Settings) -> str:
    """Migrate, and return the server's version.

    Raises:
        DemoFailedError: another relay is at work there.
    """
    dsn = settings.database.dsn
    await migrate(dsn, sample=True)
    connection = await connect(dsn, "relay demo")
    try:
        await require_sample(connection)
        other = await connection.fetchval(_ANOTHER_RELAY)
        if other is not None:
            raise DemoFailedError(
                f"a relay ({other}) is at work on this database and would publish the demo's "
                "orders: stop it, or unset DATABASE_URL"
            )
        version: str = await connection.fetchval("SHOW server_version")
        return version
    finally:
        await connection.close()
