"""Hops 3-4 against a real broker: foreign clients produce the events and read the returns."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from relay.embedded import EmbeddedKafka
from relay.runtime.flow import EventRoute, Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.sample.processor.faults import Fault, FaultRule
from relay.sample.processor.options import FaultOptions, ProcessorOptions
from relay.sample.processor.report import ProcessorReport
from relay.sample.processor.service import run_processor
from relay.telemetry.tracing import configure
from tests.group_offsets import committed_offsets

Eventually = Callable[..., Awaitable[Any]]
PARTITIONS, RETURN_PARTITIONS = 3, 4
NOT_YET_KNOWN = (
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
)
NO_TRACING = configure(
    "processor", {"OTEL_TRACES_EXPORTER": "none"}, version="0", instance_id="test", install=False
)


class Bench:
    """One flow on topics of its own, with a foreign producer and a foreign consumer."""

    def __init__(self, bootstrap: str, events: str, returns: str) -> None:
        self.bootstrap, self.events, self.returns = bootstrap, events, returns
        self.group = f"processor-{uuid4().hex[:8]}"
        self.flow = Flow(
            events={"order.placed": EventRoute(events, 900.0), "order.seen": EventRoute(events)},
            events_topic=events,
            returns_topic=returns,
            processor_groups=(self.group,),
        )
        servers = {"bootstrap.servers": bootstrap}
        self._producer = Producer({**servers, "partitioner": "murmur2_random"})
        self._books = Consumer({**servers, "group.id": self.group})
        self._reader = Consumer({**servers, "group.id": f"reader-{uuid4().hex[:8]}"})
        self._next = dict.fromkeys(range(RETURN_PARTITIONS), 0)
        self._reader.assign([TopicPartition(returns, number, 0) for number in self._next])
        self._read: list[Message] = []

    def close(self) -> None:
        self._reader.close()
        self._books.close()

    def place(self, number: int, **headers: bytes) -> list[str]:
        """Send an event for each of `number` new orders; return the orders."""
        orders = [str(uuid4()) for _ in range(number)]
        for order in orders:
            self.send(order, **headers)
        self._producer.flush(30)
        return orders

    def send(self, order: str, total: str = "10.00", **headers: bytes) -> str:
        event_id = str(uuid4())
        attributes = {"ce_id": event_id.encode(), "ce_type": b"order.placed", **headers}
        value = orjson.dumps({"order_id": order, "total": total})
        self._producer.produce(self.events, value, order, headers=list(attributes.items()))
        self._producer.poll(0)
        return event_id

    def flush(self) -> None:
        self._producer.flush(30)

    def returned(self) -> list[Message]:
        """Everything that stands on the returns topic so far."""
        ends = {number: self._end(number) for number in self._next}
        while any(self._next[number] < end for number, end in ends.items()):
            for one in self._reader.consume(1000, timeout=0.1):
                assert one.error() is None, one.error()
                self._read.append(one)
                self._next[one.partition()] = one.offset() + 1
        return self._read

    def _end(self, number: int) -> int:
        """Where a partition ends; a topic just made is not known to every client at once."""
        deadline = time.monotonic() + 10
        while True:
            try:
                part = TopicPartition(self.returns, number)
                end: int = self._reader.get_watermark_offsets(part, timeout=10)[1]
            except KafkaException as error:
                if error.args[0].code() not in NOT_YET_KNOWN or time.monotonic() > deadline:
                    raise
            else:
                return end

    def orders(self) -> Counter[str]:
        return Counter(one.key().decode() for one in self.returned())

    def statuses(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for one in self.returned():
            found.setdefault(one.key().decode(), []).append(orjson.loads(one.value())["status"])
        return found

    def committed(self) -> int:
        """How many events the group has committed."""
        parts = [TopicPartition(self.events, number) for number in range(PARTITIONS)]
        return sum(committed_offsets(self._books, parts).values())

    def options(self, journal: Path | None = None, **rules: FaultRule) -> ProcessorOptions:
        by_fault = {Fault(name): rule for name, rule in rules.items()}
        faults = FaultOptions(by_fault, delay_seconds=60.0, journal=journal)
        return ProcessorOptions(group=self.group, faults=faults)

    @asynccontextmanager
    async def processor(
        self, options: ProcessorOptions | None = None
    ) -> AsyncIterator[asyncio.Task[ProcessorReport]]:
        stop = asyncio.Event()
        task = asyncio.create_task(
            run_processor(
                KafkaConnection(self.bootstrap),
                self.flow,
                options or ProcessorOptions(group=self.group),
                NO_TRACING,
                stop,
            )
        )
        try:
            yield task
        finally:
            stop.set()
            await asyncio.wait_for(task, 30)


@pytest.fixture
def bench(kafka_bootstrap: str, topics: Any) -> Iterator[Bench]:
    events = topics.create("orders.events", partitions=PARTITIONS)
    made = Bench(
        kafka_bootstrap, events, topics.create("orders.returns", partitions=RETURN_PARTITIONS)
    )
    yield made
    made.close()


async def all_returned(
    bench: Bench, orders: list[str], eventually: Eventually, within_seconds: float = 30
) -> None:
    def returned() -> bool:
        missing = set(orders) - set(bench.orders())
        assert not missing, f"{len(missing)} of {len(orders)} orders have no return"
        return True

    await eventually(lambda: asyncio.to_thread(returned), within_seconds=within_seconds)


async def all_committed(bench: Bench, number: int, eventually: Eventually) -> None:
    def committed() -> bool:
        assert bench.committed() == number
        return True

    await eventually(lambda: asyncio.to_thread(committed), within_seconds=30)


async def test_every_order_gets_one_return_where_java_looks_for_it(
    bench: Bench, eventually: Eventually
) -> None:
    orders = bench.place(500)
    async with bench.processor() as task:
        await all_returned(bench, orders, eventually)
        await all_committed(bench, 500, eventually)
    assert task.result().as_dict() == {
        "processed": 500,
        "ignored": 0,
        "returns": 500,
        "faults": {},
    }
    assert set(bench.orders().values()) == {1}
    # librdkafka's murmur2 is Java's: the same key sent to that topic by it lands beside the return.
    landed: dict[str, int] = {}
    foreign = Producer({"bootstrap.servers": bench.bootstrap, "partitioner": "murmur2_random"})
    for order in orders:
        foreign.produce(
            bench.returns,
            b"{}",
            order,
            on_delivery=lambda _, one: landed.update({one.key().decode(): one.partition()}),
        )
    foreign.flush(30)
    ours = {one.key().decode(): one.partition() for one in bench.returned() if one.headers()}
    assert ours == landed


async def test_a_return_answers_its_event(bench: Bench, eventually: Eventually) -> None:
    order, header = str(uuid4()), b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    event_id = bench.send(order, traceparent=header, tracestate=b"vendor=1")
    bench.send(order, total="10000.01")
    bench.flush()
    async with bench.processor():
        await all_committed(bench, 2, eventually)
    first, second = await asyncio.to_thread(bench.returned)
    headers = dict(first.headers())
    assert headers["ce_causationid"] == event_id.encode()
    assert headers["traceparent"] == header, "nothing is recorded here: the event's own goes on"
    assert headers["tracestate"] == b"vendor=1"
    assert [orjson.loads(one.value())["status"] for one in (first, second)] == [
        "confirmed",
        "rejected",
    ]


async def test_returns_of_an_order_keep_the_order_of_its_events(
    bench: Bench, eventually: Eventually
) -> None:
    orders = [str(uuid4()) for _ in range(20)]
    sent: dict[str, list[str]] = {order: [] for order in orders}
    for _ in range(50):
        for order in orders:
            sent[order].append(bench.send(order))
    bench.flush()
    async with bench.processor(ProcessorOptions(group=bench.group, batch_records=64)):
        await all_committed(bench, 1000, eventually)
    answered: dict[str, list[str]] = {order: [] for order in orders}
    for one in await asyncio.to_thread(bench.returned):
        cause = dict(one.headers())["ce_causationid"].decode()
        answered[one.key().decode()].append(cause)
    assert answered == sent


async def test_processing_goes_before_the_terminal_return(
    bench: Bench, eventually: Eventually
) -> None:
    orders = bench.place(50)
    options = ProcessorOptions(group=bench.group, processing_first=True)
    async with bench.processor(options):
        await all_committed(bench, 50, eventually)
    assert await asyncio.to_thread(bench.statuses) == {
        order: ["processing", "confirmed"] for order in orders
    }


async def test_events_that_expect_no_return_are_passed_over(
    bench: Bench, eventually: Eventually
) -> None:
    bench.place(5, ce_type=b"order.seen")
    orders = bench.place(5)
    async with bench.processor() as task:
        await all_committed(bench, 10, eventually)
    assert set(await asyncio.to_thread(bench.orders)) == set(orders)
    assert task.result().ignored == 5


async def test_lost_and_skipped_orders_are_committed_and_named_in_the_journal(
    bench: Bench, eventually: Eventually, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"
    orders = bench.place(100)
    rules = {
        "lose": FaultRule(count=3, orders=frozenset(orders[:2])),
        "skip": FaultRule(count=2),
        "duplicate": FaultRule(orders=frozenset(orders[90:])),
    }
    async with bench.processor(bench.options(journal, **rules)) as task:
        await all_committed(bench, 100, eventually)
    lines = [orjson.loads(line) for line in journal.read_bytes().splitlines()]
    by_fault: dict[str, set[str]] = {}
    for line in lines:
        by_fault.setdefault(line["fault"], set()).add(line["order_id"])
    lost = by_fault["lose"] | by_fault["skip"]
    assert len(by_fault["lose"]) == 5
    assert {*orders[:2]} < by_fault["lose"]
    assert len(by_fault["skip"]) == 2
    returned = await asyncio.to_thread(bench.orders)
    assert set(returned) == set(orders) - lost
    assert {order for order, number in returned.items() if number == 2} == set(orders[90:])
    assert task.result().faults == {Fault.LOSE: 5, Fault.SKIP: 2, Fault.DUPLICATE: 10}


async def test_a_delayed_return_leaves_after_its_offset_was_committed(
    bench: Bench, eventually: Eventually
) -> None:
    orders = bench.place(10)
    options = bench.options(delay=FaultRule(orders=frozenset(orders[:3])))
    async with bench.processor(options):
        await all_committed(bench, 10, eventually)
        await all_returned(bench, orders[3:], eventually)
        assert not set(orders[:3]) & set(await asyncio.to_thread(bench.orders))
    # A processor that ends sends what it holds back.
    assert set(await asyncio.to_thread(bench.orders)) == set(orders)


async def test_a_delayed_return_leaves_when_it_is_due(bench: Bench, eventually: Eventually) -> None:
    faults = FaultOptions({Fault.DELAY: FaultRule(rate=1.0)}, delay_seconds=1.5)
    async with bench.processor(ProcessorOptions(group=bench.group, faults=faults)):
        orders = bench.place(4)
        placed_at = time.time()
        await all_returned(bench, orders, eventually)
        returned = await asyncio.to_thread(bench.returned)
    # By the times of the records: not before it is due, and not only because the processor ends.
    waited = [one.timestamp()[1] / 1000 - placed_at for one in returned]
    assert min(waited) > 1.4


async def test_a_processor_that_dies_before_its_commit_leaves_its_events_to_the_next(
    bench: Bench, eventually: Eventually
) -> None:
    orders = bench.place(200)
    async with bench.processor():
        await all_committed(bench, 200, eventually)
    orders += bench.place(200)
    # Returned to where the first 200 ended, as a crash before the commit would leave it.
    parts = [TopicPartition(bench.events, number, 0) for number in range(PARTITIONS)]
    bench._books.commit(offsets=parts, asynchronous=False)
    async with bench.processor():
        await all_committed(bench, 400, eventually)
    returned = await asyncio.to_thread(bench.orders)
    assert {order: returned[order] for order in orders} == {
        order: 2 if index < 200 else 1 for index, order in enumerate(orders)
    }


async def test_two_processors_share_the_work_and_one_leaves(
    bench: Bench, eventually: Eventually
) -> None:
    orders = bench.place(300)
    async with bench.processor() as first:
        async with bench.processor() as second:
            orders += bench.place(300)
            await all_returned(bench, orders, eventually, within_seconds=60)
        orders += bench.place(300)
        await all_returned(bench, orders, eventually, within_seconds=60)
        await all_committed(bench, 900, eventually)
    assert first.result().processed + second.result().processed >= 900


async def test_a_broker_that_is_killed_and_comes_back_costs_no_return(
    private_kafka: EmbeddedKafka, eventually: Eventually
) -> None:
    admin = AdminClient({"bootstrap.servers": private_kafka.bootstrap_servers})
    topics = [NewTopic("events", PARTITIONS, 1), NewTopic("returns", RETURN_PARTITIONS, 1)]
    for made in admin.create_topics(topics).values():
        made.result(30)
    bench = Bench(private_kafka.bootstrap_servers, "events", "returns")
    options = ProcessorOptions(group=bench.group, request_seconds=5.0, idle_check_seconds=2.0)
    try:
        orders = bench.place(200)
        async with bench.processor(options):
            await all_returned(bench, orders, eventually)
            await asyncio.to_thread(private_kafka.kill)
            await asyncio.to_thread(private_kafka.start)
            orders += await asyncio.to_thread(bench.place, 200)
            await all_returned(bench, orders, eventually, within_seconds=60)
            await all_committed(bench, 400, eventually)
    finally:
        bench.close()
