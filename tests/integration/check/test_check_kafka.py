"""What is wrong with Kafka is named: topics that changed, rights, settings, clocks."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from types import MappingProxyType

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from relay.embedded import EmbeddedKafka
from relay.embedded.folders import run_folder
from relay.runtime.flow import EventRoute
from relay.runtime.kafka_connection import KafkaConnection
from tests.worlds.world import WORLD


async def test_more_partitions_than_before_break_the_order_of_orders(
    check, be_healthy, flow, topics, eventually
):
    await check()
    await be_healthy()
    admin = AdminClient({"bootstrap.servers": topics.bootstrap_servers})
    admin.create_partitions([NewPartitions(flow.events_topic, 5)])[flow.events_topic].result(20)
    name = f"kafka.partitions:{flow.events_topic}"

    async def named():  # the answer comes before every broker knows
        checked = await check()
        return name in checked.states and checked

    checked = await eventually(named, 20)
    assert checked.states[name] == "warning"
    assert "there were 3 and are 5" in checked.found(name)
    await be_healthy()
    assert name not in (await check()).states


async def test_a_topic_that_was_made_again_is_named(check, be_healthy, flow, topics):
    await check()
    await be_healthy()
    topics.recreate(flow.returns_topic)
    checked = await check()
    name = f"kafka.recreated:{flow.returns_topic}"
    assert checked.states.get(name) == "warning", checked.states
    assert "returns of before are gone" in checked.found(name)
    assert f"kafka.topic:{flow.returns_topic}" in {change.name for change in checked.changed}


async def test_all_three_clocks_agree_here(check):
    checked = await check()
    assert checked.states["clock.broker"] == "ok"
    assert checked.states["clock.database"] == "ok"


@pytest.mark.parametrize("ahead", [100_000, -100_000])
async def test_a_broker_whose_clock_differs_is_named(check, monkeypatch, ahead):
    # Clocks cannot be moved here: this machine's is, for the moment of asking.
    real = time.time
    monkeypatch.setattr("relay.kafka.cluster_clock.time.time", lambda: real() - ahead)
    checked = await check()
    monkeypatch.undo()
    assert checked.states["clock.broker"] == "warning"
    found = re.search(r"([+-][0-9.]+) s\]", checked.found("clock.broker"))
    assert found is not None
    # On a busy machine the question and its answer take their time.
    assert float(found[1]) == pytest.approx(ahead, abs=60)


async def test_a_session_that_the_broker_does_not_allow_is_named(check):
    checked = await check(session_seconds=1.0)
    assert checked.states["kafka.session_timeout"] == "failed"
    assert "RELAY_CONFIRM_SESSION_TIMEOUT_SECONDS=6" in checked.fix("kafka.session_timeout")


async def test_replicas_that_cannot_acknowledge_are_named(check, flow, topics):
    stuck = topics.create("stuck", min_insync_replicas="2")
    unclean = topics.create("unclean", unclean_leader_election_enable="true")
    events = MappingProxyType(
        {"order.placed": EventRoute(stuck, 900.0), "order.other": EventRoute(unclean)}
    )
    checked = await check(replace(flow, events=events))
    assert checked.states[f"kafka.replicas:{stuck}"] == "failed"
    assert checked.states[f"kafka.unclean_election:{unclean}"] == "failed"


# --- rights, on a broker that has an authorizer

AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "super.users": "User:somebody-else",
    "offsets.retention.minutes": "60",
}
EVENTS, RETURNS, GROUP, PROCESSOR = "acl.events", "acl.returns", "acl-confirm", "acl-processor"


@pytest.fixture(scope="module")
def guarded() -> Iterator[EmbeddedKafka]:
    """A broker that knows access control lists, with the flow's topics."""
    with run_folder() as folder:
        broker = EmbeddedKafka(folder / "kafka", **WORLD.kafka_options(AUTHORIZER))
        broker.start()
        admin = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
        new = [NewTopic(name, 1, replication_factor=1) for name in (EVENTS, RETURNS)]
        for made in admin.create_topics(new).values():
            made.result(30)
        try:
            yield broker
        finally:
            broker.kill()


@pytest.fixture
def deny(guarded: EmbeddedKafka):
    """Deny us an operation, until the test ends."""
    admin = AdminClient({"bootstrap.servers": guarded.bootstrap_servers})
    rules: list[AclBinding] = []

    def rule(kind, name, operation):
        # Once one rule names a resource, what no rule allows is denied.
        others = {AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE}
        others |= {AclOperation.DESCRIBE_CONFIGS}
        made = [_acl(kind, name, operation, AclPermissionType.DENY)]
        allowed = others - {operation} if operation != AclOperation.DESCRIBE else set()
        made += [
            _acl(kind, name, one, AclPermissionType.ALLOW) for one in allowed if _fits(kind, one)
        ]
        for future in admin.create_acls(made).values():
            future.result(20)
        rules.extend(made)

    yield rule
    if rules:
        filters = list({(one.restype, one.name): _filter(one) for one in rules}.values())
        for future in admin.delete_acls(filters).values():
            future.result(20)


def _fits(kind, operation):
    return kind is ResourceType.TOPIC or operation in (AclOperation.READ, AclOperation.DESCRIBE)


def _acl(kind, name, operation, permission):
    return AclBinding(
        kind, name, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*", operation, permission
    )


def _filter(rule):
    from confluent_kafka.admin import AclBindingFilter  # noqa: PLC0415 - used once

    return AclBindingFilter(
        rule.restype, rule.name, ResourcePatternType.LITERAL, None, None,
        AclOperation.ANY, AclPermissionType.ANY,
    )  # fmt: skip


TOPIC, GROUP_KIND = ResourceType.TOPIC, ResourceType.GROUP


@pytest.mark.parametrize(
    ("kind", "name", "operation", "result", "state", "fix"),
    [
        (TOPIC, EVENTS, AclOperation.WRITE, f"kafka.rights:{EVENTS}", "failed",
         "--operation WRITE --topic"),
        (TOPIC, EVENTS, AclOperation.READ, f"kafka.rights:{EVENTS}", "failed",
         "--operation READ --topic"),
        (TOPIC, EVENTS, AclOperation.DESCRIBE, f"kafka.topic:{EVENTS}", "failed",
         "--operation DESCRIBE --topic"),
        (TOPIC, RETURNS, AclOperation.READ, f"kafka.rights:{RETURNS}", "failed",
         "--operation READ --topic"),
        (TOPIC, EVENTS, AclOperation.DESCRIBE_CONFIGS, f"kafka.config:{EVENTS}", "unknown",
         "--operation DESCRIBE_CONFIGS --topic"),
        (GROUP_KIND, GROUP, AclOperation.READ, f"kafka.rights:{GROUP}", "failed",
         "--operation READ --group"),
        (GROUP_KIND, PROCESSOR, AclOperation.DESCRIBE, f"kafka.group:{PROCESSOR}", "unknown",
         "--operation DESCRIBE --group"),
    ],
)  # fmt: skip
async def test_a_right_that_is_missing_is_named_with_the_command(
    check, flow, guarded, deny, eventually, kind, name, operation, result, state, fix
):
    ours = replace(
        flow,
        events=MappingProxyType({"order.placed": EventRoute(EVENTS, 900.0)}),
        events_topic=EVENTS,
        returns_topic=RETURNS,
        processor_groups=(PROCESSOR,),
        confirm_group=GROUP,
    )
    kafka = KafkaConnection(guarded.bootstrap_servers)
    assert (await check(ours, kafka=kafka)).states.get(result, "ok") != state
    deny(kind, name, operation)

    async def named():
        checked = await check(ours, kafka=kafka)
        return checked.states.get(result) == state and checked

    checked = await eventually(named, 30)
    assert f"{fix} {name}" in checked.fix(result)
    assert guarded.bootstrap_servers in checked.fix(result)


async def test_offsets_that_are_forgotten_within_hours_are_named(check, flow, guarded):
    checked = await check(flow, kafka=KafkaConnection(guarded.bootstrap_servers))
    assert checked.states["kafka.offsets_retention"] == "warning"


def test_the_rules_of_these_tests_are_kept_by_the_broker(guarded, deny):
    """Nothing above proves anything on a broker that lets everybody do everything."""
    admin = AdminClient({"bootstrap.servers": guarded.bootstrap_servers})
    deny(TOPIC, EVENTS, AclOperation.DESCRIBE)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            error = admin.list_topics(EVENTS, timeout=10).topics[EVENTS].error
        except KafkaException as refused:
            error = refused.args[0]
        if error is not None:
            return
    raise AssertionError("the broker shows the topic all the same")
