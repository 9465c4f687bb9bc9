"""A server that neither answers nor closes its connections, and one that forbids."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from relay.embedded import EmbeddedKafka, EmbeddedPostgres
from relay.embedded.folders import run_folder
from tests.worlds.world import WORLD

STANDARD_AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "super.users": "User:somebody-else",
}


def waiting_for(relay: Any) -> str:
    return relay.service.waiting_for or ""


async def test_a_broker_that_freezes_is_waited_for(
    lab: Any, private_kafka: EmbeddedKafka, kafka_topic: Any
) -> None:
    lab.bootstrap_servers = private_kafka.bootstrap_servers
    kafka_topic(private_kafka.bootstrap_servers, lab.topic)
    relay = lab.relay(request_timeout_seconds=1.0)
    await lab.fill(200)
    await lab.until_published(200)
    await asyncio.to_thread(private_kafka.pause)
    await lab.fill(600, start=200)
    await lab.until(lambda: "broker" in waiting_for(relay))
    await asyncio.to_thread(private_kafka.resume)
    await lab.until_published(600, within_seconds=60)
    await relay.stop()
    await lab.assert_published(600)


async def test_a_database_that_freezes_ends_the_tenure_by_the_relays_own_clock(
    lab: Any, private_postgres: EmbeddedPostgres, private_database: str
) -> None:
    lab.dsn = private_database
    lab.pg = await asyncpg.connect(private_database)
    relay = lab.relay(lease_seconds=1.0)
    await lab.fill(200)
    await lab.until_published(200)
    await asyncio.to_thread(private_postgres.pause)
    await lab.until(lambda: relay.service.state in ("connecting", "waiting"))
    await asyncio.to_thread(private_postgres.resume)
    await lab.fill(400, start=200)
    await lab.until_published(400, within_seconds=60)
    assert relay.service.epoch > 1
    await relay.stop()
    await lab.pg.close()
    await lab.assert_published(400)


async def test_a_database_that_freezes_during_upkeep_is_left_all_the_same(
    lab: Any, private_postgres: EmbeddedPostgres, private_database: str
) -> None:
    lab.dsn = private_database
    lab.pg = await asyncpg.connect(private_database)
    locker = await asyncpg.connect(private_database)
    await locker.execute("BEGIN; LOCK TABLE relay.maintenance")
    relay = lab.relay(lease_seconds=1.0)
    await lab.until(lambda: relay.service.ready)
    await lab.until(
        lambda: lab.pg.fetchval(
            "SELECT EXISTS (SELECT FROM pg_stat_activity"
            " WHERE application_name = 'relay-run-upkeep' AND wait_event_type = 'Lock')"
        )
    )
    await asyncio.to_thread(private_postgres.pause)
    await lab.until(lambda: relay.service.state in ("connecting", "waiting"))
    await asyncio.to_thread(private_postgres.resume)
    await locker.close()
    await lab.fill(200)
    await lab.until_published(200, within_seconds=60)
    await relay.stop()
    await lab.pg.close()


@pytest.fixture
def forbidding_kafka() -> Iterator[EmbeddedKafka]:
    """A broker that knows access control lists."""
    with run_folder() as folder:
        broker = EmbeddedKafka(folder / "kafka", **WORLD.kafka_options(STANDARD_AUTHORIZER))
        broker.start()
        try:
            yield broker
        finally:
            broker.kill()


def forbid(admin: AdminClient, topic: str, operation: AclOperation) -> None:
    """Deny one operation, allow the others, and wait until the broker's authorizer knows."""
    others = {AclOperation.WRITE, AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS} - {
        operation
    }
    rules = [rule(topic, operation, AclPermissionType.DENY)]
    rules += [rule(topic, other, AclPermissionType.ALLOW) for other in others]
    for future in admin.create_acls(rules).values():
        future.result(20)
    deadline = time.monotonic() + 20
    while len(admin.describe_acls(every_rule(topic)).result(20)) < len(rules):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rule(topic: str, operation: AclOperation, permission: AclPermissionType) -> AclBinding:
    return AclBinding(
        ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*",
        operation, permission,
    )  # fmt: skip


def every_rule(topic: str) -> AclBindingFilter:
    return AclBindingFilter(
        ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, None, None,
        AclOperation.ANY, AclPermissionType.ANY,
    )  # fmt: skip


def allow_again(admin: AdminClient, topic: str) -> None:
    every = every_rule(topic)
    admin.delete_acls([every])[every].result(20)


@pytest.mark.parametrize(
    ("operation", "says"),
    [(AclOperation.WRITE, "grant Write"), (AclOperation.DESCRIBE, "grant Describe")],
)
async def test_a_missing_permission_is_named_and_waited_for(
    lab: Any, forbidding_kafka: EmbeddedKafka, kafka_topic: Any, operation: Any, says: str
) -> None:
    bootstrap = lab.bootstrap_servers = forbidding_kafka.bootstrap_servers
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    await asyncio.to_thread(kafka_topic, bootstrap, lab.topic)
    await asyncio.to_thread(forbid, admin, lab.topic, operation)
    await lab.fill(100)
    relay = lab.relay()
    await lab.until(lambda: says in waiting_for(relay) and lab.topic in waiting_for(relay))
    assert not relay.service.ready
    assert not await lab.quarantine()
    await asyncio.to_thread(allow_again, admin, lab.topic)
    await lab.until_published(100)
    await lab.until(lambda: relay.service.ready)
    await relay.stop()
    await lab.assert_published(100)
