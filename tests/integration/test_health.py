"""What a supervisor is told: of an idle process whose broker died, and of one that hangs."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import httpx
from confluent_kafka.admin import AdminClient, NewTopic

from relay.cli.service import alive, readiness
from relay.publish.options import PublishOptions
from relay.publish.service import RelayService
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.telemetry.exporter import ExportCounts
from relay.telemetry.metrics import Metrics
from relay.telemetry.tracing import configure

Eventually = Callable[..., Awaitable[Any]]


def port(process: Any) -> int | None:
    for line in process.stderr.splitlines():
        entry = json.loads(line)
        if entry["message"] == "listening":
            return int(entry["port"])
    return None


def complaints(process: Any) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in process.stderr.splitlines()]
    return [one for one in lines if one["level"] in ("warning", "error", "critical")]


async def get(process: Any, path: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=5) as client:
        return await client.get(f"http://127.0.0.1:{port(process)}{path}")


async def test_an_idle_process_says_within_seconds_that_its_broker_died(
    pg: asyncpg.Connection,
    private_kafka: Any,
    relay_process: Callable[..., Any],
    relay_command: Callable[..., Any],
    eventually: Eventually,
) -> None:
    env = {
        "KAFKA_BOOTSTRAP_SERVERS": private_kafka.bootstrap_servers,
        "RELAY_METRICS_PORT": "0",
        "RELAY_WATCH_INSIDE": "false",
    }
    admin = AdminClient({"bootstrap.servers": private_kafka.bootstrap_servers, "log_level": 0})
    made = admin.create_topics([NewTopic(one, 1) for one in ("orders.events", "orders.returns")])
    for topic in made.values():
        await asyncio.to_thread(topic.result, 30)
    processes = {name: relay_process(name, env=env) for name in ("run", "confirm")}

    async def says(name: str, status: int) -> bool:
        process = processes[name]
        return port(process) is not None and (await get(process, "/readyz")).status_code == status

    for name in processes:
        await eventually(lambda name=name: says(name, 200), 40)
    before = {name: len(complaints(process)) for name, process in processes.items()}
    private_kafka.kill()
    killed = time.monotonic()
    for name, process in processes.items():
        await eventually(lambda name=name: says(name, 503), 30)
        assert (
            'relay_dependency_up{dependency="broker"} 0.0' in (await get(process, "/metrics")).text
        )
        assert (await get(process, "/livez")).status_code == 200
    assert time.monotonic() - killed < 60
    private_kafka.start()
    for name in processes:
        await eventually(lambda name=name: says(name, 200), 60)
    # An outage is a few lines, and each of them is JSON.
    minutes = (time.monotonic() - killed) / 60
    for name, process in processes.items():
        said = complaints(process)[before[name] :]
        assert "waiting" in [one["message"] for one in said]
        assert len(said) <= 8 * (1 + minutes), said


async def test_a_process_whose_work_hangs_is_not_alive(
    pg: asyncpg.Connection, database: str, kafka_bootstrap: str, eventually: Eventually
) -> None:
    """The event loop answers, and the loop that publishes waits for what never comes."""
    tracing = configure("relay", {"OTEL_TRACES_EXPORTER": "none"}, version="0", instance_id="t")
    for_ever, stop = asyncio.Event(), asyncio.Event()
    hangs = [False]

    async def test_point(name: str) -> None:
        if name == "after_read" and hangs[0]:
            await for_ever.wait()

    metrics = Metrics("relay", "0", lambda: ExportCounts(0, {}, 0, 0))
    service = RelayService(
        database, KafkaConnection(kafka_bootstrap), (Flow(),), PublishOptions(), tracing, stop,
        test_point, metrics=metrics,
    )  # fmt: skip
    service._meter.mark.limit_seconds = 1.5
    running = asyncio.create_task(service.run())
    await eventually(lambda: service.ready, 40)
    await asyncio.sleep(2)  # longer than the limit, and idle: its loop turns
    assert alive(service).ok
    hangs[0] = True
    await pg.execute(
        """INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
           VALUES ('order', 'o-1', 'order.placed', '{}')"""
    )
    await eventually(lambda: not alive(service).ok, 20)
    assert "no progress for" in alive(service).checks["stalled"]
    assert readiness(service).checks["state"] == "active", "it believes that all is well"
    for_ever.set()
    await eventually(lambda: alive(service).ok, 20)
    stop.set()
    await running


async def test_a_frozen_event_loop_does_not_answer(
    pg: asyncpg.Connection, relay_process: Callable[..., Any], eventually: Eventually
) -> None:
    process = relay_process("run", env={"RELAY_METRICS_PORT": "0"})
    await eventually(lambda: port(process), 40)
    process.send_signal(signal.SIGSTOP)
    try:
        async with httpx.AsyncClient(timeout=1) as client:
            asked = client.get(f"http://127.0.0.1:{port(process)}/livez")
            try:
                await asked
            except httpx.TimeoutException:
                pass
            else:
                raise AssertionError("it answered")
    finally:
        process.send_signal(signal.SIGCONT)
