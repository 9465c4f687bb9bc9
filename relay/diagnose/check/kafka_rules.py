"""Hops 2 to 5: what of Kafka's state would hold up, lose or reorder an order.

Invariant: pure. What may be done is judged for the principal of these settings, which is the
services' own when they share them.

Source of the operation codes: org.apache.kafka.common.acl.AclOperation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from relay.diagnose.check.broker_rules import KafkaNeeds, judge_broker
from relay.diagnose.check.kafka_facts import KafkaFacts
from relay.diagnose.check.result import Result, failed, ok, unknown, warning
from relay.diagnose.check.transaction_rules import judge_transactions
from relay.kafka.topic_descriptions import TopicDescription
from relay.runtime.flow import Flow

_READ, _WRITE = 3, 4
_UNKNOWN_TOPIC, _NOT_PERMITTED = 3, 29
_CONFIGS: Final = "kafka-configs.sh --bootstrap-server ... --alter"
_DAY_MS: Final = 86_400_000
_FOR_EVER: Final = -1


def judge_kafka(facts: KafkaFacts, flow: Flow, needs: KafkaNeeds) -> list[Result]:
    """Return every check of topics, groups, rights, and the broker's own settings.

    Args:
        facts: what the broker said.
        flow: which topics and groups matter.
        needs: what our own settings ask of it.
    """
    results = [ok("kafka.brokers", str(facts.brokers))]
    for topic, described in sorted(facts.topics.items()):
        results.extend(_topic(topic, described, facts, flow))
        config = facts.configs.get(topic)
        if config is not None:
            results.extend(_config(topic, described, config, facts.brokers, flow))
            results.extend(_sizes(topic, config, flow, needs))
        elif not described.error_code:
            fix = _acl("DESCRIBE_CONFIGS", "topic", topic)
            results.append(unknown(f"kafka.config:{topic}", "not permitted to see it", fix))
    groups = (*flow.processor_groups, flow.confirm_group)
    results.extend(_group(group, facts, flow) for group in groups)
    if facts.confirm_operations and _READ not in facts.confirm_operations:
        results.append(
            failed(
                f"kafka.rights:{flow.confirm_group}",
                "no right to READ: nobody can join the group, and returns are not applied",
                _acl("READ", "group", flow.confirm_group),
            )
        )
    results.extend(judge_transactions(facts))
    results.extend(judge_broker(facts, needs))
    here = f"--bootstrap-server {facts.bootstrap_servers}"
    return [replace(r, fix=r.fix.replace("--bootstrap-server ...", here)) for r in results]


def _acl(operation: str, kind: str, name: str) -> str:
    return (
        "kafka-acls.sh --bootstrap-server ... --add --allow-principal User:... "
        f"--operation {operation} --{kind} {name}"
    )


def _topic(
    topic: str, described: TopicDescription, facts: KafkaFacts, flow: Flow
) -> Iterator[Result]:
    name = f"kafka.topic:{topic}"
    if described.error_code == _UNKNOWN_TOPIC:
        copies = min(3, facts.brokers)
        yield failed(
            name,
            "does not exist",
            f"kafka-topics.sh --bootstrap-server ... --create --topic {topic} --partitions 6 "
            f"--replication-factor {copies}",
        )
        return
    if described.error_code == _NOT_PERMITTED:
        yield failed(name, "not permitted to see it", _acl("DESCRIBE", "topic", topic))
        return
    if described.error_code:
        yield unknown(name, f"Kafka error {described.error_code}", "see the broker's log")
        return
    # The count and the id are in the finding, so that a change of either is shown as one.
    yield ok(name, f"{len(described.partitions)} partitions, id {described.topic_id}")
    yield _leaders(topic, described)
    yield from _operations(topic, described, flow)


def _leaders(topic: str, described: TopicDescription) -> Result:
    name = f"kafka.leaders:{topic}"
    orphaned = [str(p.partition) for p in described.partitions if p.leader < 0]
    if orphaned:
        return failed(
            name,
            f"no leader for partition {', '.join(orphaned)}",
            "bring the brokers back that hold its replicas",
        )
    behind = [str(p.partition) for p in described.partitions if p.in_sync < p.replicas]
    if behind:
        return warning(
            name,
            f"replicas out of sync for partition {', '.join(behind)}",
            "see which broker is down or slow",
        )
    return ok(name, "every partition has one, and its replicas are in sync")


def _operations(topic: str, described: TopicDescription, flow: Flow) -> Iterator[Result]:
    if not described.operations:
        return
    needed = {"READ": _READ} if topic == flow.returns_topic else {"READ": _READ, "WRITE": _WRITE}
    missing = [word for word, code in needed.items() if code not in described.operations]
    name = f"kafka.rights:{topic}"
    if missing:
        hurt = (
            "returns are not applied" if topic == flow.returns_topic else "events stay unpublished"
        )
        yield failed(
            name,
            f"no right to {' or '.join(missing)}: {hurt}, or cannot be read back",
            _acl(missing[-1], "topic", topic),
        )
    else:
        yield ok(name, f"may {' and '.join(needed)}")


def _config(
    topic: str, described: TopicDescription, config: Mapping[str, str], brokers: int, flow: Flow
) -> Iterator[Result]:
    policy = config.get("cleanup.policy", "delete")
    if "compact" in policy:
        what = "returns" if topic == flow.returns_topic else "events"
        yield failed(
            f"kafka.cleanup:{topic}",
            f"{policy}: older {what} of an order are removed before they are read",
            f"{_CONFIGS} --topic {topic} --add-config cleanup.policy=delete",
        )
    else:
        yield ok(f"kafka.cleanup:{topic}", policy)
    copies = min((p.replicas for p in described.partitions), default=0)
    wanted = int(config.get("min.insync.replicas", "1"))
    yield _copies(topic, copies, wanted, brokers)
    if config.get("unclean.leader.election.enable") == "true":
        yield failed(
            f"kafka.unclean_election:{topic}",
            "enabled: acknowledged events can be lost when a leader fails",
            f"{_CONFIGS} --topic {topic} --add-config unclean.leader.election.enable=false",
        )


def _copies(topic: str, copies: int, wanted: int, brokers: int) -> Result:
    name = f"kafka.replicas:{topic}"
    found = f"{copies} replicas, min.insync.replicas {wanted}"
    if wanted > copies:
        return failed(
            name,
            f"{found}: no write can be acknowledged",
            "lower min.insync.replicas, or add replicas",
        )
    if brokers > 1 and (copies == 1 or wanted == 1):
        return warning(
            name,
            f"{found}: one broker's disk can lose acknowledged events",
            "3 replicas and min.insync.replicas=2",
        )
    if brokers > 1 and wanted == copies:
        return warning(name, f"{found}: one broker down stops publishing", "one replica more")
    return ok(name, found)


def _sizes(
    topic: str, config: Mapping[str, str], flow: Flow, needs: KafkaNeeds
) -> Iterator[Result]:
    outbox_days, batch_bytes = needs.outbox_days, needs.batch_bytes
    largest = int(config.get("max.message.bytes", "1048588"))
    if topic != flow.returns_topic:
        name = f"kafka.max_message_bytes:{topic}"
        if largest < batch_bytes:
            yield warning(
                name,
                f"{largest} is less than the relay's batches ({batch_bytes}): they are refused, "
                "split and sent again",
                f"RELAY_PUBLISH_BATCH_BYTES={largest * 9 // 10}, or raise max.message.bytes",
            )
        else:
            yield ok(name, str(largest))
    kept_ms = int(config.get("retention.ms", str(7 * _DAY_MS)))
    if topic == flow.returns_topic:
        yield _inbox(topic, kept_ms, needs)
    name = f"kafka.retention:{topic}"
    longest = max(flow.deadlines.values(), default=0)
    if kept_ms == _FOR_EVER or kept_ms >= outbox_days * _DAY_MS:
        yield ok(name, "at least as long as the outbox")
    elif kept_ms < longest * 1000:
        yield failed(
            name,
            f"{kept_ms / 1000:.0f} s: records are gone before their deadline ({longest:.0f} s)",
            f"{_CONFIGS} --topic {topic} --add-config retention.ms={7 * _DAY_MS}",
        )
    else:
        yield warning(
            name,
            f"{kept_ms / _DAY_MS:.1f} days, the outbox {outbox_days}: older orders are diagnosed "
            "without their records",
            f"retention.ms={outbox_days * _DAY_MS} on {topic}, or RELAY_MAINTENANCE_OUTBOX_DAYS",
        )


def _inbox(topic: str, kept_ms: int, needs: KafkaNeeds) -> Result:
    """Judge whether a return is known again, however late it comes a second time."""
    name = f"kafka.inbox:{topic}"
    if kept_ms == _FOR_EVER:
        return warning(
            name,
            f"returns stay for ever, the inbox remembers them for {needs.inbox_days} days: older "
            "ones, read again, are told apart by the order's status alone",
            f"a retention.ms on {topic}",
        )
    wanted = -(-kept_ms // _DAY_MS) + needs.outbox_days
    if needs.inbox_days >= wanted:
        return ok(name, f"the inbox remembers returns for {needs.inbox_days} days")
    return warning(
        name,
        f"the inbox forgets returns after {needs.inbox_days} days, but the oldest event can be "
        f"replayed for {needs.outbox_days}, and its return stays {kept_ms / _DAY_MS:.1f}",
        f"RELAY_MAINTENANCE_INBOX_DAYS={wanted}",
    )


def _group(group: str, facts: KafkaFacts, flow: Flow) -> Result:
    name = f"kafka.group:{group}"
    found = facts.groups.get(group)
    if found is None:
        return unknown(name, facts.refused[group], _acl("DESCRIBE", "group", group))
    if found.members is None:
        return ok(name, f"is there; the broker does not say who is in a {found.kind} group")
    if found.members:
        return ok(name, f"has members [{found.members}, {found.state}]")
    if group == flow.confirm_group:
        return warning(name, "no members: returns wait", "relay confirm")
    return _nobody_processes(name, group, facts, flow)


def _nobody_processes(name: str, group: str, facts: KafkaFacts, flow: Flow) -> Result:
    unread = sorted(flow.topics - facts.offsets[group])
    if unread and flow.topics <= facts.unwritten:
        return warning(
            name,
            "no members yet, and no event was ever published",
            "start the order processor before the first order, or correct"
            " flow.orders.processor_groups",
        )
    if unread:
        return failed(
            name,
            f"no members, and it never read {', '.join(unread)}",
            "start the order processor, or correct flow.orders.processor_groups",
        )
    if facts.groups[group].never_joined:
        return _reads_alone(name, facts.behind.get(group, 0))
    if facts.other_readers:
        return failed(
            name,
            f"no members; other groups read the events: {', '.join(facts.other_readers[:3])}",
            "where one of them answers (`relay diagnose`: group_replaced), set "
            "flow.orders.processor_groups to it; else start the order processor",
        )
    return failed(name, "no members: nobody processes events", "start the order processor")


def _reads_alone(name: str, behind: int) -> Result:
    """Judge a reader that assigns its partitions itself: Kafka knows its offsets and no member."""
    who = "no member ever joined: its reader assigns its partitions itself"
    if not behind:
        return ok(name, f"{who}, and has come to the end")
    return warning(
        name,
        f"{who}; whether it runs Kafka does not say [{behind} offsets behind]",
        "`relay status`, twice: does less wait? else look at the processor itself",
    )
