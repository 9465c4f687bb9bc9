"""Orders and payments beside each other: one outbox, one event type, the same ids.

Payments are published as Debezium's outbox event router does.
"""

import json
import re
import shlex

from confluent_kafka import Consumer, Producer, TopicPartition

from relay.runtime.command_line import OF_A_FLOW

FLOW = """
[flow.{name}s]
aggregate_type = "{name}"
events_topic = "{events}"
returns_topic = "{returns}"
processor_groups = ["{name}-{suffix}"]
confirm_group = "confirm-{name}-{suffix}"
wire = "{wire}"
status_ranks = {{ submitted = 0, done = 10 }}
[flow.{name}s.events.created]
deadline_seconds = 3
[flow.{name}s.columns]
table = "shop.{name}s"
key_column = "id"
key_type = "bigint"
"""
WIRES = {"order": "cloudevents", "payment": "debezium"}
TABLE = """
CREATE TABLE shop.{name}s (id bigint PRIMARY KEY, status text NOT NULL DEFAULT 'submitted',
                           submitted_at timestamptz NOT NULL DEFAULT now())
"""
PLACE = """
WITH made AS (INSERT INTO shop.{name}s (id) VALUES (42) RETURNING id)
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT '{name}', id, 'created', '{{"kind": "{name}"}}' FROM made
"""


def processed(bootstrap, topic, group):
    """Read a topic to its end as its processor does; return key, value, and the headers' names."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found = []
    while (one := consumer.poll(1.0)) is not None:
        found.append((one.key(), json.loads(one.value()), set(dict(one.headers()))))
    consumer.commit(offsets=[TopicPartition(topic, 0, len(found))], asynchronous=False)
    consumer.close()
    return found


def printed_commands_name_the_flow(relay_command, env):
    """Whatever a command prints can be typed as it stands, up to the order that is sent again."""
    for words in ("diagnose", "diagnose 42", "unreturned", "incidents", "incidents I-1", "status",
                  "check", "reconcile", "replay", "trace 42"):  # fmt: skip
        for form in ((), ("--json",)):
            done = relay_command(*words.split(), "--flow", "orders", *form, env=env)
            bare = re.findall(r"(?<![\w./'-])relay ([a-z]+)\b", done.stdout + done.stderr)
            assert not OF_A_FLOW.intersection(bare), (words, done.stdout, done.stderr)
    found = json.loads(
        relay_command("diagnose", "42", "--flow", "orders", "--json", env=env).stdout
    )
    (line, *_) = found["orders"][0]["next"]
    assert line.startswith("relay --flow orders replay"), line
    planned = relay_command(*shlex.split(line)[1:], env=env)
    assert "1 events would go" in planned.stdout, planned.stderr
    (resume,) = re.findall(r"^ next  (relay .*)$", planned.stdout, re.MULTILINE)
    sent = relay_command(*shlex.split(resume)[1:], "--no-wait", env=env)
    assert sent.returncode == 0, sent.stderr


async def test_two_flows_of_one_outbox_are_told_apart(
    database, pg, kafka_bootstrap, topics, relay_process, relay_command, eventually, tmp_path
):
    await pg.execute("CREATE SCHEMA shop")
    text, named = "[metrics]\nenabled = false\n", {}
    for name in ("order", "payment"):
        await pg.execute(TABLE.format(name=name))
        named[name] = topics.create(f"{name}.events", 1), topics.create(f"{name}.returns", 1)
        events, returns = named[name]
        text += FLOW.format(
            name=name, events=events, returns=returns, suffix=topics.suffix, wire=WIRES[name]
        )
    config = tmp_path / "relay.toml"
    config.write_text(text)
    env = {"RELAY_CONFIG": str(config)}
    relay_process("run", env=env)
    for name in ("order", "payment"):
        relay_process("confirm", "--flow", f"{name}s", env=env)
        await pg.execute(PLACE.format(name=name))
    await eventually(
        lambda: pg.fetchval("SELECT coalesce(sum(record_count), 0) = 2 FROM relay.delivery_ledger")
    )
    # The payment is answered; of the order, which has its id, nothing is ever heard.
    producer = Producer({"bootstrap.servers": kafka_bootstrap})
    producer.produce(named["payment"][1], key=b"42", value=b'{"status": "done"}')
    producer.flush(10)
    await eventually(lambda: pg.fetchval("SELECT status = 'done' FROM shop.payments"))
    for name, (events, _) in named.items():
        found = processed(kafka_bootstrap, events, f"{name}-{topics.suffix}")
        ((key, value, headers),) = found
        assert (key, value) == (b"42", {"kind": name})
        assert ("ce_id" in headers, "id" in headers) == (name == "order", name == "payment")
    await eventually(lambda: pg.fetchval("SELECT count(*) > 0 FROM relay.incident"))
    cases = await pg.fetch("SELECT flow, aggregate_id, closed_at FROM relay.overdue")
    assert [tuple(row) for row in cases] == [("orders", "42", None)]
    assert await pg.fetchval("SELECT status FROM shop.orders") == "submitted"

    def asked(*arguments, flow):
        done = relay_command(*arguments, "--flow", flow, "--json", env=env)
        return done.returncode, json.loads(done.stdout)

    code, found = asked("diagnose", "42", flow="orders")
    assert (code, found["orders"][0]["verdict"]) == (3, "no_return")
    code, found = asked("diagnose", "42", flow="payments")
    assert (code, found["orders"][0]["verdict"]) == (0, "returned")
    assert len(asked("unreturned", flow="orders")[1]["orders"]) == 1
    assert asked("unreturned", flow="payments")[1]["orders"] == []
    hops = asked("status", flow="payments")[1]["hops"]
    assert [hops[hop]["waiting"] for hop in ("publish", "confirm")] == [0, 0]
    for flow in ("orders", "payments"):
        _, compared = asked("reconcile", flow=flow)
        assert compared["counts"]["rows whose record is there"] == 1, compared
    unnamed = relay_command("diagnose", "42", env=env)
    assert unnamed.returncode == 1
    assert "--flow with one of orders, payments" in unnamed.stderr
    printed_commands_name_the_flow(relay_command, env)
    canary = relay_command("probe", "--flow", "payments", "--create-topic", env=env)
    assert canary.returncode == 0, canary.stderr
