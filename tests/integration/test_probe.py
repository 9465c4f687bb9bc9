"""`relay probe`: a canary comes through the real relay, or the hop where it stopped is named."""

import asyncio
import json
import signal
import urllib.request

import pytest


@pytest.fixture
def services(topics):
    return {
        "RELAY_FLOW_EVENTS_TOPIC": topics.create("orders.events"),
        "RELAY_FLOW_RETURNS_TOPIC": topics.create("orders.returns"),
        "RELAY_FLOW_PROCESSOR_GROUPS": f"processor-{topics.suffix}",
        "RELAY_FLOW_CONFIRM_GROUP": f"confirm-{topics.suffix}",
        "RELAY_FLOW_PROBE_TOPIC": f"relay.probe.{topics.suffix}",
        "RELAY_METRICS_ENABLED": "false",
    }


@pytest.fixture
def through(services):
    return services | {"RELAY_PROBE_THROUGH_PROCESSOR": "yes"}


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
    # What waits for a relay is no order.
    told = json.loads(relay_command("status", "--json", env=services).stdout)
    assert told["hops"]["publish"]["waiting"] == 0


async def test_an_outbox_that_refuses_stops_it_at_place(
    pg, kafka_bootstrap, services, relay_command
):
    await pg.execute("ALTER TABLE relay.outbox ADD CONSTRAINT none CHECK (false) NOT VALID")
    done = relay_command("probe", "--create-topic", env=services)
    assert done.returncode == 3
    assert done.stdout.startswith("STOPPED at 1 place: the outbox refuses it")


async def until_joined(pg, services, eventually):
    """Wait until the consumer has its partitions: what it takes over later waits for nobody."""

    async def joined():
        group = services["RELAY_FLOW_CONFIRM_GROUP"]
        query = "SELECT count(*) = 3 FROM relay.consumer_offset WHERE consumer_group = $1"
        return await pg.fetchval(query, group)

    await eventually(joined, 40)


async def probed(relay_command, env, within="30"):
    done = await asyncio.to_thread(relay_command, "probe", "--json", "--within", within, env=env)
    assert done.returncode in (0, 3), done.stderr
    return json.loads(done.stdout)


async def test_through_the_processor_and_back_it_is_no_order(
    pg, kafka_bootstrap, through, relay_process, relay_command, eventually
):
    relay_process("run", env=through)
    relay_process("sample", "processor", env=through)
    relay_process("confirm", env=through)
    await until_joined(pg, through, eventually)
    probe = await probed(relay_command, through)
    assert (probe["ok"], probe["failed_hop"]) == (True, None), probe
    assert probe["seconds"].keys() == {"place", "publish", "process", "return", "confirm", "total"}
    assert await pg.fetchval("SELECT array_agg(outcome) FROM relay.inbox") == ["canary"]
    assert await pg.fetchval("SELECT count(*) FROM relay.quarantine") == 0
    assert await pg.fetchval("SELECT count(*) FROM public.order_status_history") == 0
    run = await pg.fetchrow("SELECT * FROM relay.probe_run")
    assert (run["ok"], run["through_processor"]) == (True, True)
    assert run["return_offset"] is not None
    told = json.loads(relay_command("status", "--json", env=through).stdout)
    assert all(hop["waiting"] == 0 for hop in told["hops"].values())
    assert told["hops"]["confirm"]["rate_per_second"] == 0
    assert told["hops"]["place"]["rate_per_second"] == 0
    assert told["hops"]["publish"]["rate_per_second"] == 0
    assert told["trace_continuity"]["orders"] == 0
    assert relay_command("unreturned", env=through).returncode == 0
    assert relay_command("reconcile", env=through).returncode == 0


@pytest.mark.parametrize("how", ["observe", "text key"])
async def test_other_flows_know_canaries_too(
    how, pg, kafka_bootstrap, through, relay_process, relay_command, eventually
):
    if how == "observe":
        env = through | {"RELAY_FLOW_APPLY": "observe"}
    else:
        await pg.execute(
            "CREATE TABLE public.purchase (number bigint PRIMARY KEY, status text, at timestamptz)"
        )
        columns = {"table": "public.purchase", "key_column": "number", "key_type": "bigint"}
        columns |= {"submitted_at_column": "at"}
        env = through | {"RELAY_FLOW_COLUMNS": json.dumps(columns)}
    relay_process("run", env=env)
    relay_process("sample", "processor", env=env)
    relay_process("confirm", env=env)
    await until_joined(pg, env, eventually)
    probe = await probed(relay_command, env)
    assert probe["ok"], probe
    assert await pg.fetchval("SELECT array_agg(outcome) FROM relay.inbox") == ["canary"]


async def test_a_processor_that_is_down_stops_it_at_process_and_it_is_no_backlog(
    pg, kafka_bootstrap, through, relay_process, relay_command
):
    relay_process("run", env=through)
    probe = await probed(relay_command, through, within="5")
    assert probe["failed_hop"] == "process", probe
    told = json.loads(relay_command("status", "--json", env=through).stdout)
    assert told["hops"]["process"]["waiting"] == 0
    assert told["hops"]["process"]["oldest_age_seconds"] is None


async def test_a_processor_that_answers_nothing_stops_it_at_return(
    pg, kafka_bootstrap, through, relay_process, relay_command
):
    relay_process("run", env=through)
    relay_process("sample", "processor", "--lose-rate", "1", env=through)
    probe = await probed(relay_command, through, within="12")
    assert probe["failed_hop"] == "return", probe
    assert "no return came" in probe["said"]


async def test_a_consumer_that_is_down_stops_it_at_confirm(
    pg, kafka_bootstrap, through, relay_process, relay_command
):
    relay_process("run", env=through)
    relay_process("sample", "processor", env=through)
    probe = await probed(relay_command, through, within="12")
    assert probe["failed_hop"] == "confirm", probe
    assert "was not applied" in probe["said"]
    told = json.loads(relay_command("status", "--json", env=through).stdout)
    assert told["hops"]["confirm"]["waiting"] == 0


async def test_a_return_that_cannot_be_read_stops_it_at_confirm(
    pg, kafka_bootstrap, through, relay_process, relay_command, eventually
):
    relay_process("run", env=through)
    relay_process("sample", "processor", "--corrupt-rate", "1", env=through)
    relay_process("confirm", env=through)
    await until_joined(pg, through, eventually)
    probe = await probed(relay_command, through)
    assert probe["failed_hop"] == "confirm", probe
    assert "quarantined" in probe["said"]


async def test_a_paused_relay_stops_it_at_publish_on_the_way_through(
    pg, kafka_bootstrap, through, relay_process, relay_command, eventually
):
    relay = relay_process("run", env=through)

    async def active():
        return await pg.fetchval("SELECT epoch > 0 FROM relay.checkpoint")

    await eventually(active, 30)
    relay.send_signal(signal.SIGSTOP)
    probe = await probed(relay_command, through, within="2")
    relay.send_signal(signal.SIGCONT)
    assert probe["failed_hop"] == "publish", probe


def scraped(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


async def test_every_so_often_with_metrics_until_told_to_stop(
    pg, kafka_bootstrap, services, relay_process, eventually
):
    relay = relay_process("run", env=services)
    env = services | {"RELAY_METRICS_ENABLED": "true", "RELAY_METRICS_PORT": "0"}
    probing = relay_process("probe", "--create-topic", "--every", "1", "--within", "3", env=env)

    def said(event):
        lines = [json.loads(line) for line in probing.stderr.splitlines()]
        return [line for line in lines if line["message"] == event]

    def port():
        return next((line["port"] for line in said("listening")), None)

    where = await eventually(port)

    async def counted(result, least):
        found = await asyncio.to_thread(scraped, where)
        return float(found.get(f'relay_probe_runs_total{{result="{result}"}}', 0)) >= least

    await eventually(lambda: counted("ok", 2), 40)
    found = await asyncio.to_thread(scraped, where)
    assert float(found['relay_probe_seconds{hop="publish"}']) > 0
    assert float(found["relay_probe_last_ok_timestamp_seconds"]) > 0
    # An outage ends no probing: it is what it is there to tell.
    relay.kill()
    # The first may have come before the relay was at work.
    found = await asyncio.to_thread(scraped, where)
    before = float(found['relay_probe_runs_total{result="publish"}'])
    await eventually(lambda: counted("publish", before + 2), 40)
    assert probing.terminate() == 3
    # Every line is JSON: the first and the last, and what became of the canaries, once a change.
    assert said("starting")[0]["settings"]["metrics.port"]["from"] == "RELAY_METRICS_PORT"
    results = [json.loads(line) for line in probing.stderr.splitlines() if '"canary_' in line]
    events = [line["message"] for line in results]
    assert events[-2:] == ["canary_came_through", "canary_stopped"]
    assert (results[-1]["hop"], results[-1]["level"]) == ("publish", "warning")
    assert said("stopped")[0]["reason"] == "SIGTERM"
    assert probing.stdout == ""
