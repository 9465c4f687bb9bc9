"""`relay demo`, as someone new runs it."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest
from confluent_kafka.admin import AdminClient

from relay.cli.demo_page import LOST_AT_ONCE
from relay.diagnose.verdicts import Hop
from relay.embedded.process import lives
from relay.sample.demo_mishaps import Mishaps

Eventually = Callable[..., Awaitable[Any]]

SMALL = ("demo", "--orders", "60", "--rate", "30")


def family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def service(pid: int, *words: str) -> psutil.Process | None:
    """The demo's child with these words on its command line; its guard has them in one."""
    for child in family(pid):
        try:
            line = child.cmdline()
        except psutil.Error:
            continue
        if all(word in line for word in words):
            return child
    return None


def all_gone(started: list[psutil.Process]) -> bool:
    return not any(lives(one) for one in started)


def kept_logs(stderr: str) -> dict[str, str]:
    """The logs that a failed demo kept, by name; removed here."""
    folder = Path(stderr.rpartition("all logs are kept in ")[2].split("\n")[0].strip())
    try:
        return {one.name: one.read_text("utf-8", "replace") for one in folder.iterdir()}
    finally:
        shutil.rmtree(folder)


def test_every_order_comes_back_but_those_lost_on_purpose(relay_command: Any) -> None:
    """On servers of its own: no DATABASE_URL, no KAFKA_BOOTSTRAP_SERVERS."""
    done = relay_command("--json", *SMALL, "--lose", "5", within_seconds=110)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["ok"], said["problems"]) == (True, [])
    # Sixty over HTTP, of which the processor loses two; three of other programs.
    assert (said["placed"], said["expected"], said["returned"]) == (63, 58, 58)
    assert said["statuses"]["submitted"] == 5
    assert 17 <= said["statuses"]["rejected"] <= 20, "a third of them is dear"
    assert said["lost_and_found"] == said["lost_on_purpose"]
    assert said["lost_at"] == {one["order_id"]: one["gap"] for one in said["missing"]}
    assert {(one["gap"], one["verdict"]) for one in said["missing"]} == {
        ("place", "no_outbox_row"),
        ("publish", "parked"),
        ("process", "not_processed"),
        ("return", "no_return"),
        ("confirm", "return_quarantined"),
    }
    assert {name: one["count"] for name, one in said["hops"].items()} == {
        "place": 60,
        "publish": 60,
        "process": 59,
        "return": 59,
        "confirm": 58,
        "hops 2 to 5": 58,
    }
    assert said["example"]["verdict"] == "returned"
    assert [hop["state"] for hop in said["example"]["hops"]] == ["ok"] * 5
    for name in ("place", "publish", "process", "return", "confirm"):
        assert f" {name} " in done.stderr, "live progress, hop by hop"


@pytest.mark.parametrize(("number", "most"), [(0, 0), (1, 1), (5, 1), (7, 2), (25, 5)])
def test_losses_are_dealt_out_over_the_hops(number: int, most: int) -> None:
    dealt = Mishaps.dealt(number).at
    assert sum(dealt.values()) == number
    assert set(dealt) == set(Hop)
    assert max(dealt.values()) == most
    assert max(dealt.values()) - min(dealt.values()) <= 1


async def test_given_servers_are_used_and_left_alone(
    relay_command: Any, pg: asyncpg.Connection, kafka_bootstrap: str
) -> None:
    done = relay_command(*SMALL, "--lose", "0", within_seconds=110)
    assert done.returncode == 0, done.stderr
    assert await pg.fetchval("SELECT count(*) FROM orders WHERE returned_at IS NOT NULL") == 60
    assert "returned  60 of the 60 that were expected" in done.stdout
    assert "as `relay trace` shows it" in done.stdout
    left = AdminClient({"bootstrap.servers": kafka_bootstrap}).list_topics(timeout=10).topics
    assert not [topic for topic in left if topic == "orders.events" or "relay-demo" in topic]


async def test_spans_go_to_the_jaeger_that_is_named(
    relay_command: Any, jaeger: Any, database: str, kafka_bootstrap: str
) -> None:
    otlp = {"OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp_http, "OTEL_TRACES_EXPORTER": ""}
    done = relay_command(
        *("--json", *SMALL, "--jaeger-url", jaeger.query), env=otlp, within_seconds=110
    )
    assert done.returncode == 0, done.stderr
    example = json.loads(done.stdout)["example"]
    assert example["trace_url"] == f"{jaeger.query}/trace/{example['trace_id']}"
    spans = jaeger.wait_for_spans(example["trace_id"], lambda found: len(found) >= 6)
    assert min(span["operationName"] for span in spans) == "POST /orders"
    assert len(spans) == 6


async def test_a_relay_that_is_at_work_there_is_not_joined(
    relay_process: Any,
    relay_command: Any,
    database: str,
    kafka_bootstrap: str,
    pg: Any,
    eventually: Eventually,
    topics: Any,
) -> None:
    topic = topics.create("orders.events")
    relay_process("run", env={"RELAY_FLOW_EVENTS_TOPIC": topic, "RELAY_METRICS_PORT": "0"})
    await eventually(
        lambda: pg.fetchval("SELECT owner FROM relay.lease WHERE duty = 'relay'"),
        within_seconds=60,
    )
    refused = relay_command(*SMALL, within_seconds=60)
    assert refused.returncode == 1
    assert "is at work on this database" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_stops_when_told_to_and_leaves_nothing_running(
    relay_process: Any, eventually: Eventually, number: signal.Signals
) -> None:
    demo = relay_process("demo", "--orders", "2000", "--rate", "20")
    await eventually(lambda: " place " in demo.stderr, within_seconds=90)
    started = family(demo.pid)
    assert len(started) >= 6, "two servers and four services at least"
    demo.send_signal(number)
    assert demo.wait(60) == 130
    assert "stopped before the end; nothing was left running" in demo.stderr
    assert all_gone(started)


async def test_even_a_killed_demo_leaves_nothing_running(
    relay_process: Any, eventually: Eventually
) -> None:
    demo = relay_process("demo", "--orders", "2000", "--rate", "20")
    await eventually(lambda: " place " in demo.stderr, within_seconds=90)
    started = family(demo.pid)
    demo.kill()
    await eventually(lambda: all_gone(started), within_seconds=60)


async def test_a_service_that_dies_is_named_and_its_log_is_kept(
    relay_process: Any, eventually: Eventually, database: str, kafka_bootstrap: str
) -> None:
    demo = relay_process("demo", "--orders", "2000", "--rate", "20")
    await eventually(lambda: " place " in demo.stderr, within_seconds=90)
    relay = service(demo.pid, "run")
    assert relay is not None
    relay.kill()
    assert demo.wait(60) == 1
    assert "the relay ended by itself (exit code 137)" in demo.stderr
    logs = kept_logs(demo.stderr)
    assert set(logs) >= {"relay.log", "confirm.log", "order-service.log", "order-processor.log"}
    assert '"active"' in logs["relay.log"]


async def test_orders_that_do_not_come_back_are_a_failure(
    relay_process: Any, eventually: Eventually, database: str, kafka_bootstrap: str
) -> None:
    demo = relay_process("demo", "--orders", "40", "--rate", "20", "--timeout", "5")
    await eventually(lambda: " place " in demo.stderr, within_seconds=90)
    confirm = service(demo.pid, "confirm")
    assert confirm is not None
    confirm.suspend()
    assert demo.wait(100) == 1
    assert "orders did not come back, not on purpose" in demo.stderr
    assert "One that did not come back, and should have:" in demo.stdout
    assert "confirm.log" in kept_logs(demo.stderr)


async def test_the_page_is_shown_loses_orders_by_a_button_and_ends_with_ctrl_c(
    relay_process: Any, eventually: Eventually
) -> None:
    demo = relay_process("demo", "--web", "--orders", "20", "--lose", "0")
    address = re.compile(r"The operator's page: (http://127\.0\.0\.1:\d+)")
    found = await eventually(lambda: address.search(demo.stderr), 90)
    assert "Ctrl-C ends everything" in demo.stderr
    started = family(demo.popen.pid)
    async with httpx.AsyncClient(base_url=found[1], timeout=30) as client:
        for hop, verdict in (("place", "no_outbox_row"), ("publish", "parked")):
            form = (await client.get("/")).text.partition('action="/acts/lose"')[2]
            token = re.search(r'name="token" value="([^"]+)"', form)
            sent = await client.post(
                "/acts/lose", data={"token": token[1], "hop": hop}, headers={"origin": found[1]}
            )
            assert (sent.status_code, sent.headers["location"]) == (303, "/")

            async def all_found(hop: str = hop) -> list[Any] | None:
                told = (await client.get("/unreturned.json", params={"hop": hop})).json()
                return told["orders"] if len(told["orders"]) == LOST_AT_ONCE else None

            lost = await eventually(all_found, 60)
            assert {one["verdict"] for one in lost} == {verdict}
        assert (await client.get("/incidents/I-1")).status_code == 200
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 0
    assert all_gone(started)
    assert "Traceback" not in demo.stderr
    assert "[info" not in demo.stderr + demo.stdout  # no lines of a logger that nobody set up
