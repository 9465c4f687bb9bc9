"""Hop 5: what aiokafka was seen to do in a rebalance, made to happen at will.

The consumer here is a fake: records that are delivered between a rebalance and the seek, or a
rebalance callback that fails, cannot be ordered from a real broker.
"""

import asyncio
from typing import NamedTuple

import pytest
from aiokafka.structs import TopicPartition

from relay.kafka.consumer import session as session_module
from relay.kafka.consumer import topic_log
from relay.kafka.consumer.handler import PartitionLostError
from relay.kafka.consumer.options import SessionOptions
from relay.kafka.consumer.partitions import DiscontinuityError, Start
from relay.kafka.consumer.session import Session
from relay.kafka.consumer.stoppable_calls import BrokerError, StalledError, StoppableCalls
from relay.kafka.partition import Partition
from relay.runtime.kafka_connection import KafkaConnection

TP = TopicPartition("t", 0)


class Record(NamedTuple):
    offset: int
    topic: str = "t"
    partition: int = 0
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = b"v"
    headers: tuple = ()


class FakeConsumer:
    """Delivers what a test's script says; each step of it may do anything first."""

    script = ()
    _client = None

    def __init__(self, **_options):
        self.steps = iter(self.script)
        self.sought = []
        self.at = 0

    def subscribe(self, topics, listener):
        self.listener = listener

    async def start(self):
        await self.listener.on_partitions_assigned({TP})

    async def stop(self):
        pass

    async def end_offsets(self, tps):
        return dict.fromkeys(tps, 100)

    async def beginning_offsets(self, tps):
        return dict.fromkeys(tps, 0)

    def seek(self, _tp, offset):
        self.sought.append(offset)
        self.at = offset

    async def position(self, _tp):
        return self.at

    def last_poll_timestamp(self, _tp):
        return None

    async def commit(self, offsets):
        pass

    async def getmany(self, *_partitions, timeout_ms, max_records):
        step = next(self.steps, None)
        if step is None:
            await asyncio.sleep(0.01)
            return {}
        offsets = await step(self)
        self.at = max(self.at, *[offset + 1 for offset in offsets]) if offsets else self.at
        return {TP: [Record(offset) for offset in offsets]} if offsets else {}


class Books:
    """A handler whose books stand where they stand."""

    def __init__(self, next_offset):
        self.next_offset = next_offset
        self.handled = []
        self.error = None

    def trim(self, record):
        return record

    async def positions(self, logs, *, truncated):
        return {partition: Start(self.next_offset) for partition in logs}

    async def other_log(self, partition, log_bounds):
        raise AssertionError

    async def read(self, _lane, parts):
        return parts

    async def handle(self, _lane, parts):
        if self.error is not None:
            raise self.error
        for part in parts:
            assert part.start_offset == self.next_offset
            self.handled += [record.offset for record in part.records]
            self.next_offset = part.next_offset

    async def idle(self, owned):
        return 60.0


@pytest.fixture
def run(monkeypatch):
    async def run_session(books, *script, stall_seconds=60.0):
        stop = asyncio.Event()

        async def end(_consumer):
            stop.set()
            return []

        async def same_topic(_client, topics):
            return dict.fromkeys(topics, "id")

        monkeypatch.setattr(FakeConsumer, "script", (*script, end))
        monkeypatch.setattr(session_module, "AIOKafkaConsumer", FakeConsumer)
        monkeypatch.setattr(topic_log, "topic_ids", same_topic)
        options = SessionOptions(poll_seconds=0.01, start_seconds=2, drain_seconds=0.2)
        calls = StoppableCalls(stop)
        session = Session(KafkaConnection(), "t", "g", options, books, calls, stall_seconds)
        async with asyncio.timeout(10):
            await session.run()
        return session._consumer

    return run_session


def gives(*offsets):
    async def step(_consumer):
        return offsets

    return step


async def rebalance(consumer):
    await consumer.listener.on_partitions_revoked({TP})
    await consumer.listener.on_partitions_assigned({TP})


async def test_records_are_handled_from_where_the_books_stand(run):
    books = Books(5)
    consumer = await run(books, gives(5, 6), gives(), gives(7))
    assert (books.handled, consumer.sought) == ([5, 6, 7], [5])


async def test_what_is_delivered_between_a_rebalance_and_the_seek_is_not_handled(run):
    books = Books(5)

    async def rebalanced_meanwhile(consumer):
        await rebalance(consumer)
        return (20, 21)  # from Kafka's committed offset, not from ours

    consumer = await run(books, rebalanced_meanwhile, gives(5), gives(6))
    assert (books.handled, consumer.sought) == ([5, 6], [5, 5])


async def test_what_is_delivered_after_partitions_were_taken_away_is_not_handled(run):
    books = Books(5)

    async def revoked_meanwhile(consumer):
        await consumer.listener.on_partitions_revoked({TP})
        asyncio.get_running_loop().call_later(
            0.05, lambda: asyncio.ensure_future(consumer.listener.on_partitions_assigned({TP}))
        )
        return (5, 6)

    await run(books, revoked_meanwhile, gives(5))
    assert books.handled == [5]


async def test_records_from_before_the_position_end_the_session(run):
    books = Books(5)
    with pytest.raises(DiscontinuityError, match="asked for 5, got 4"):
        await run(books, gives(4, 5))
    assert books.handled == []


async def test_a_rebalance_waits_for_the_batch_in_hand_but_not_for_ever(run):
    books, waited = Books(5), []
    begun, release = asyncio.Event(), asyncio.Event()
    handle = books.handle

    async def slow(lane, parts):
        begun.set()
        await release.wait()
        await handle(lane, parts)

    books.handle = slow

    async def rebalances(consumer):
        await begun.wait()
        loop = asyncio.get_running_loop()
        since = loop.time()
        await consumer.listener.on_partitions_revoked({TP})
        waited.append(loop.time() - since)
        release.set()
        await consumer.listener.on_partitions_revoked({TP})
        await consumer.listener.on_partitions_assigned({TP})
        return ()

    consumer = await run(books, gives(), gives(5), rebalances, gives(6))
    assert waited[0] >= 0.2
    assert books.handled == [5, 6]
    assert consumer.sought == [5, 6]


async def test_a_rebalance_callback_that_fails_ends_the_session(run):
    async def broken(consumer):
        consumer.listener.drained = None
        await consumer.listener.on_partitions_revoked({TP})
        await consumer.listener.on_partitions_assigned({TP})
        return ()

    with pytest.raises(BrokerError, match="a rebalance failed"):
        await run(Books(5), broken, gives(5))


async def test_what_the_handler_raises_ends_the_session(run):
    books = Books(5)
    books.error = PartitionLostError("somebody else's")
    with pytest.raises(PartitionLostError):
        await run(books, gives(5), gives(6), gives(7))


async def test_a_batch_that_waits_when_a_rebalance_begins_is_not_handled(run):
    books, read = Books(5), asyncio.Event()
    rebalanced, tasks = asyncio.Event(), []

    async def slow(_lane, parts):
        await rebalanced.wait()
        await Books.handle(books, 0, parts)

    async def noted(lane, parts):
        if parts[0].start_offset == 6:
            read.set()
        return await Books.read(books, lane, parts)

    books.handle, books.read = slow, noted

    async def rebalances(consumer):
        await read.wait()
        for _ in range(10):
            await asyncio.sleep(0)  # it waits in its lane now
        await consumer.listener.on_partitions_revoked({TP})
        rebalanced.set()
        await consumer.listener.on_partitions_assigned({TP})

    async def rebalanced_soon(consumer):
        tasks.append(asyncio.create_task(rebalances(consumer)))
        return (6,)

    consumer = await run(books, gives(), gives(5), rebalanced_soon, gives(6))
    assert books.handled == [5, 6]
    assert consumer.sought == [5, 6]


async def test_a_consumer_whose_fetches_get_no_answer_is_given_up(run):
    async def nothing(_consumer):
        await asyncio.sleep(0.02)
        return ()

    with pytest.raises(StalledError, match="no fetch was answered"):
        await run(Books(5), *[nothing] * 100, stall_seconds=0.2)


def test_partitions_compare_with_aiokafkas():
    assert Partition("t", 0) == TP
    assert {Partition("t", 0): 1}[TP] == 1
