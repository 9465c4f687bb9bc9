"""The sender's gate and what it makes of each answer; the broker is a script here.

A real broker refuses on order only for size (see the integration tests); its other answers, and
their timing, are made here.
"""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import TopicPartition

from relay.publish.errors import ProducerBrokenError, RecordRefusedError
from relay.publish.sending import publisher as publisher_module
from relay.publish.sending.batch import Batch
from relay.publish.sending.publisher import Publisher
from relay.publish.sending.record import records_of

Acknowledgement = asyncio.Future[int | None]

OK, NOT_LEADER, TOO_LARGE, FORBIDDEN, OUT_OF_ORDER, DUPLICATE = 0, 6, 10, 29, 45, 46


class Cluster:
    leader: int | None = 1

    def leader_for_partition(self, _place: TopicPartition) -> int | None:
        return self.leader


class Broker:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.asked: list[tuple[bytes, asyncio.Future[Any]]] = []
        self.refreshed = 0
        self.news = asyncio.Event()

    async def send(self, _node: int, request: Any) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.asked.append((request.encode(), future))
        self.news.set()
        return await future

    def force_metadata_update(self) -> None:
        self.refreshed += 1

    async def close(self) -> None:
        await asyncio.sleep(0)

    def answer(self, number: int, answers: dict[tuple[str, int], tuple[int, int]]) -> None:
        self.asked[number][1].set_result(answers)

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(5):
            while len(self.asked) < times:
                self.news.clear()
                await self.news.wait()


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    monkeypatch.setattr(publisher_module, "_RETRY_SECONDS", 0.001)
    return Broker()


@pytest.fixture
def troubles() -> list[BaseException | None]:
    return []


class Sender(Publisher):
    """A publisher that is asked for futures."""

    def __init__(self, broker: Broker, troubles: list[BaseException | None]) -> None:
        super().__init__(broker, 1.0, 5.0, troubles.append)  # type: ignore[arg-type]
        self.waiting: list[Acknowledgement] = []
        self.broken = self._all_failed

    def _all_failed(self, error: ProducerBrokenError) -> None:
        for future in self.waiting:
            if not future.done():
                future.set_exception(error)


@pytest.fixture
def publisher(broker: Broker, troubles: list[BaseException | None]) -> Sender:
    one = Sender(broker, troubles)
    one._producer_id, one._producer_epoch = 7, 0
    return one


def hand_over(publisher: Sender, *ids: int, partition: int = 0) -> Acknowledgement:
    """Hand a batch over; the future ends with its base offset, or with what ended the publisher."""
    records = records_of([b"x"] * len(ids))
    batch = Batch("t", partition, range(len(ids)), list(ids), 100, records, timestamp_ms=1)
    future: Acknowledgement = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda one: one.cancelled() or one.exception())  # not all ask for it
    publisher.waiting.append(future)
    publisher.hand_over(batch, lambda _batch, offset: future.set_result(offset))
    return future


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_partitions_next_batch_waits_for_the_one_before(
    publisher: Sender, broker: Broker
) -> None:
    first, second = hand_over(publisher, 1, 2), hand_over(publisher, 3)
    await broker.until_asked(1)
    await settle()
    assert len(broker.asked) == 1
    broker.answer(0, {("t", 0): (OK, 40)})
    assert await first == 40
    await broker.until_asked(2)
    broker.answer(1, {("t", 0): (OK, 42)})
    assert await second == 42


async def test_batches_of_several_partitions_leave_in_one_request(
    publisher: Sender, broker: Broker
) -> None:
    futures = [hand_over(publisher, number, partition=number) for number in range(4)]
    await broker.until_asked(1)
    await settle()
    assert len(broker.asked) == 1
    broker.answer(0, {("t", number): (OK, number) for number in range(4)})
    assert [await one for one in futures] == [0, 1, 2, 3]


async def test_a_retry_is_the_same_bytes(
    publisher: Sender, broker: Broker, troubles: list[BaseException | None]
) -> None:
    future = hand_over(publisher, 1)
    await broker.until_asked(1)
    broker.answer(0, {("t", 0): (NOT_LEADER, -1)})
    await broker.until_asked(2)
    broker.asked[1][1].set_exception(KafkaConnectionError("cut"))
    await broker.until_asked(3)
    broker.answer(2, {})  # an answer that leaves the partition out
    await broker.until_asked(4)
    assert len({body for body, _ in broker.asked}) == 1
    broker.answer(3, {("t", 0): (OK, 5)})
    assert await future == 5
    assert broker.refreshed == 3
    assert troubles[-1] is None
    assert len(troubles) == 4


async def test_a_partition_without_a_leader_burns_no_sequence(
    publisher: Sender, broker: Broker
) -> None:
    broker.cluster.leader = -1
    future = hand_over(publisher, 1)
    await settle()
    assert not broker.asked
    broker.cluster.leader = 1
    await broker.until_asked(1)
    assert broker.asked[0][0].count((0).to_bytes(4, "big")) > 0
    broker.answer(0, {("t", 0): (OK, 0)})
    await future
    assert publisher._sequences == {("t", 0): 1}


async def test_a_duplicate_is_a_success_without_an_offset(
    publisher: Sender, broker: Broker
) -> None:
    future = hand_over(publisher, 1)
    await broker.until_asked(1)
    broker.answer(0, {("t", 0): (DUPLICATE, -1)})
    assert await future is None


@pytest.mark.parametrize("code", [OUT_OF_ORDER, 47, 59, 87])
async def test_after_a_failure_nothing_that_was_queued_leaves(
    publisher: Sender, broker: Broker, code: int
) -> None:
    first, queued = hand_over(publisher, 1), hand_over(publisher, 2)
    other = hand_over(publisher, 3, partition=1)
    queued_there = hand_over(publisher, 4, partition=1)
    await broker.until_asked(1)
    broker.answer(0, {("t", 0): (code, -1), ("t", 1): (OK, 9)})
    for future in (first, queued, queued_there):
        with pytest.raises(ProducerBrokenError):
            await future
    with pytest.raises(ProducerBrokenError):
        await other  # whatever the broker said: the page it belongs to is sent again
    with pytest.raises(ProducerBrokenError):
        hand_over(publisher, 5)
    await settle()
    assert len(broker.asked) == 1


async def test_a_refusal_for_size_names_the_rows(publisher: Sender, broker: Broker) -> None:
    future = hand_over(publisher, 11, 12)
    await broker.until_asked(1)
    broker.answer(0, {("t", 0): (TOO_LARGE, -1)})
    with pytest.raises(RecordRefusedError, match=r"max\.message\.bytes") as raised:
        await future
    assert raised.value.outbox_ids == (11, 12)


async def test_a_missing_permission_is_waited_for_and_named(
    publisher: Sender, broker: Broker, troubles: list[BaseException | None]
) -> None:
    future = hand_over(publisher, 1)
    await broker.until_asked(1)
    broker.answer(0, {("t", 0): (FORBIDDEN, -1)})
    await broker.until_asked(2)
    assert "grant Write on topic t" in str(troubles[0])
    broker.answer(1, {("t", 0): (OK, 0)})
    await future


async def test_it_gives_up_in_time(
    publisher: Sender, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.ack_timeout_seconds = 0.0
    future = hand_over(publisher, 1)
    await broker.until_asked(1)
    broker.answer(0, {("t", 0): (NOT_LEADER, -1)})
    with pytest.raises(ProducerBrokenError, match="no acknowledgement from t-0"):
        await future


async def test_closed_while_a_batch_is_on_its_way(publisher: Sender, broker: Broker) -> None:
    future = hand_over(publisher, 1)
    await broker.until_asked(1)
    await publisher.close(1.0)
    with pytest.raises(ProducerBrokenError):
        await future


@pytest.mark.parametrize(
    ("before", "count", "after"), [(0, 5, 5), (2**31 - 2, 1, 2**31 - 1), (2**31 - 1, 1, 0)]
)
async def test_sequences_wrap_as_javas_do(
    publisher: Sender, broker: Broker, before: int, count: int, after: int
) -> None:
    publisher._sequences["t", 0] = before
    future = hand_over(publisher, *range(count))
    await broker.until_asked(1)
    broker.answer(0, {("t", 0): (OK, 0)})
    await future
    assert publisher._sequences["t", 0] == after


async def test_an_unexpected_error_ends_it_and_no_batch_is_forgotten(
    publisher: Sender, broker: Broker
) -> None:
    future = hand_over(publisher, 1)
    await broker.until_asked(1)
    broker.asked[0][1].set_exception(RuntimeError("a bug"))
    with pytest.raises(ProducerBrokenError, match="a bug"):
        await future


async def test_an_idle_producer_asks_whether_the_cluster_is_there(
    publisher: Sender,
    broker: Broker,
    troubles: list[BaseException | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher_module, "LOOK_SECONDS", 0.02)
    there: list[bool | None] = [True, False, None, False, True, True]

    async def answer() -> bool:
        found = there.pop(0) if len(there) > 1 else there[0]
        if found is None:
            await asyncio.sleep(10)  # a frozen broker
        return bool(found)

    monkeypatch.setattr(broker, "force_metadata_update", answer)
    told_all = asyncio.Event()

    def told(error: BaseException | None) -> None:
        troubles.append(error)
        if len(troubles) == 4:
            told_all.set()

    publisher.troubled = told
    looking = asyncio.create_task(publisher.look())
    await asyncio.wait_for(told_all.wait(), 5)
    looking.cancel()
    kinds = [None if one is None else type(one).__name__ for one in troubles]
    assert kinds == ["KafkaConnectionError", "TimeoutError", "KafkaConnectionError", None]


async def test_while_something_is_sent_nobody_asks(
    publisher: Sender, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "LOOK_SECONDS", 0.001)
    hand_over(publisher, 1)
    await broker.until_asked(1)
    looking = asyncio.create_task(publisher.look())
    await asyncio.sleep(0.02)
    looking.cancel()
    assert broker.refreshed == 0
    await publisher.close(1.0)
