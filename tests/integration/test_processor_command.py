"""`relay sample processor` as its users run it."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from tests.group_offsets import committed_offsets

Eventually = Callable[..., Awaitable[Any]]


class Flow:
    """Topics and a group of this test's own, as settings; counts what was committed."""

    def __init__(self, bootstrap: str, topics: Any) -> None:
        self.events = topics.create("orders.events", partitions=2)
        self.returns = topics.create("orders.returns", partitions=2)
        self.group = f"processor-{uuid4().hex[:8]}"
        self.environment = {
            "RELAY_FLOW_EVENTS_TOPIC": self.events,
            "RELAY_FLOW_RETURNS_TOPIC": self.returns,
            "RELAY_FLOW_PROCESSOR_GROUPS": self.group,
        }
        servers = {"bootstrap.servers": bootstrap}
        self._producer = Producer(servers)
        self._books = Consumer({**servers, "group.id": self.group})
        self._returns = Consumer({**servers, "group.id": "nobody"})

    def place(self, number: int) -> list[str]:
        orders = [str(uuid4()) for _ in range(number)]
        for order in orders:
            headers = {"ce_id": str(uuid4()), "ce_type": "order.placed"}
            self._producer.produce(self.events, b'{"total": "1"}', order, headers=headers)
        self._producer.flush(30)
        return orders

    def committed(self) -> int:
        parts = [TopicPartition(self.events, number) for number in range(2)]
        return sum(committed_offsets(self._books, parts).values())

    def returned(self) -> int:
        """How many returns stand on their topic."""
        parts = [TopicPartition(self.returns, number) for number in range(2)]
        try:
            return sum(self._returns.get_watermark_offsets(part, timeout=10)[1] for part in parts)
        except KafkaException as error:  # a new topic is not known to every client at once
            raise AssertionError("not yet") from error

    def close(self) -> None:
        self._books.close()
        self._returns.close()


@pytest.fixture
def flow(kafka_bootstrap: str, topics: Any) -> Iterator[Flow]:
    made = Flow(kafka_bootstrap, topics)
    yield made
    made.close()


async def test_a_crash_before_the_commit_repeats_returns_and_drops_none(
    flow: Flow, database: str, relay_process: Any, eventually: Eventually, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"
    flow.place(10)
    arguments = ("sample", "processor", "--crash-count", "1", "--journal", str(journal))
    first = relay_process(*arguments, env=flow.environment)
    assert first.wait(60) == 137
    assert flow.committed() == 0
    sent = await eventually(flow.returned)
    assert [json.loads(line)["fault"] for line in journal.read_text().splitlines()] == ["crash"]

    second = relay_process(*arguments, env=flow.environment)
    await eventually(lambda: flow.committed() == 10, within_seconds=60)
    assert second.terminate() == 0
    assert second.stdout == (
        "10 events processed, 10 returns sent, 0 events passed over; faults: none\n"
    )
    assert flow.returned() == sent + 10


async def test_what_was_lost_is_told_and_written_down(
    flow: Flow, database: str, relay_process: Any, eventually: Eventually, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"
    orders = flow.place(20)
    process = relay_process(
        *("--json", "sample", "processor", "--lose-order", orders[3], "--lose-count", "2"),
        *("--duplicate-order", orders[4], "--journal", str(journal)),
        env=flow.environment,
    )
    await eventually(lambda: flow.committed() == 20, within_seconds=60)
    assert process.terminate() == 0
    assert json.loads(process.stdout) == {
        "processed": 20,
        "ignored": 0,
        "returns": 18,
        "faults": {"lose": 3, "duplicate": 1},
    }
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    named = {(one["fault"], one["order_id"]) for one in lines if one["by"] == "order"}
    assert named == {("lose", orders[3]), ("duplicate", orders[4])}


async def test_its_port_tells_how_it_is_and_what_it_did(
    flow: Flow, database: str, relay_process: Any, eventually: Eventually
) -> None:
    flow.place(7)
    environment = {**flow.environment, "RELAY_METRICS_PORT": "0"}
    process = relay_process("sample", "processor", "--lose-count", "2", env=environment)
    await eventually(lambda: flow.committed() == 7, within_seconds=60)
    lines = [json.loads(line) for line in process.stderr.splitlines() if line.startswith("{")]
    port = next(line["port"] for line in lines if line["message"] == "listening")

    def asked(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
            return str(answer.read().decode())

    assert json.loads(await asyncio.to_thread(asked, "readyz"))["status"] == "ok"
    metrics = await asyncio.to_thread(asked, "metrics")
    assert "sample_processor_events_total 7.0" in metrics
    assert "sample_processor_returns_total 5.0" in metrics
    assert 'sample_processor_faults_total{fault="lose"} 2.0' in metrics


async def test_a_production_installation_is_refused(
    flow: Flow, database: str, pg: asyncpg.Connection, relay_command: Any
) -> None:
    await pg.execute("UPDATE relay.installation SET kind = 'production'")
    refused = relay_command("sample", "processor", env=flow.environment)
    assert refused.returncode == 1
    assert "this is a production installation" in refused.stderr


def test_without_a_database_it_wants_to_be_told(
    flow: Flow, kafka_bootstrap: str, relay_command: Any
) -> None:
    nowhere = {**flow.environment, "DATABASE_URL": "postgresql://127.0.0.1:1/none"}
    refused = relay_command("sample", "processor", env=nowhere)
    assert refused.returncode == 1
    assert "--without-database" in refused.stderr


async def test_without_a_database_it_can_be_told(
    flow: Flow, kafka_bootstrap: str, relay_process: Any, eventually: Eventually
) -> None:
    flow.place(5)
    nowhere = {**flow.environment, "DATABASE_URL": "postgresql://127.0.0.1:1/none"}
    process = relay_process("sample", "processor", "--without-database", env=nowhere)
    await eventually(lambda: flow.committed() == 5, within_seconds=60)
    assert process.terminate() == 0


@pytest.mark.parametrize(
    "arguments", [("--lose-rate", "2"), ("--reject-above", "lots"), ("--crash-at", "noon"), ("x",)]
)
def test_arguments_that_mean_nothing_are_a_usage_error(
    arguments: tuple[str, ...], relay_command: Any
) -> None:
    assert relay_command("sample", "processor", *arguments).returncode == 2
