"""`relay probe`: a canary comes through the real relay, or the hop where it stopped is named."""

import json

import pytest


@pytest.fixture
def services(topics):
    return {
        "RELAY_FLOW_EVENTS_TOPIC": topics.create("orders.events"),
        "RELAY_FLOW_RETURNS_TOPIC": topics.create("orders.returns"),
        "RELAY_FLOW_PROBE_TOPIC": f"relay.probe.{topics.suffix}",
        "RELAY_METRICS_ENABLED": "false",
    }


def test_without_its_topic_nothing_is_sent(database, kafka_bootstrap, services, relay_command):
    done = relay_command("probe", env=services)
    assert done.returncode == 1
    assert "relay probe --create-topic" in done.stderr


async def test_a_canary_comes_through_and_is_no_business(
    pg, kafka_bootstrap, services, relay_process, relay_command
):
    relay = relay_process("run", env=services)
    done = relay_command("probe", "--create-topic", "--json", env=services)
    probe = json.loads(done.stdout)
    assert (done.returncode, probe["ok"], probe["failed_hop"]) == (0, True, None)
    assert probe["seconds"].keys() == {"place", "publish"}
    assert await pg.fetchval("SELECT ok FROM relay.probe_run")
    assert relay_command("probe", env=services).stdout.startswith("OK place ")
    assert relay_command("reconcile", env=services).returncode == 0
    assert relay.is_running()


async def test_without_a_relay_it_stops_at_publish(pg, kafka_bootstrap, services, relay_command):
    done = relay_command("probe", "--create-topic", "--within", "0.2", env=services)
    assert done.returncode == 3
    assert done.stdout.startswith("STOPPED at 2 publish: outbox row ")
    assert await pg.fetchval("SELECT failed_hop FROM relay.probe_run") == "publish"


async def test_an_outbox_that_refuses_stops_it_at_place(
    pg, kafka_bootstrap, services, relay_command
):
    await pg.execute("ALTER TABLE relay.outbox ADD CONSTRAINT none CHECK (false) NOT VALID")
    done = relay_command("probe", "--create-topic", env=services)
    assert done.returncode == 3
    assert done.stdout.startswith("STOPPED at 1 place: the outbox refuses it")


async def test_every_so_often_until_told_to_stop(
    pg, kafka_bootstrap, services, relay_process, eventually
):
    relay_process("run", env=services)
    probing = relay_process("probe", "--create-topic", "--every", "1", env=services)

    async def twice():
        return await pg.fetchval("SELECT count(*) >= 2 FROM relay.probe_run WHERE ok")

    await eventually(twice, 30)
    assert probing.terminate() == 0
