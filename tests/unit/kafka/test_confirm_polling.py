"""A poll takes of the wanted partitions only, and every lane gets what is there for it."""

import asyncio

from relay.kafka.consumer.options import SessionOptions
from relay.kafka.consumer.partitions import lane_of
from relay.kafka.consumer.polling import Polling
from relay.kafka.consumer.stoppable_calls import StoppableCalls
from relay.kafka.partition import Partition


class OneAtATime:
    """Gives what it has of the first partition asked for, as a full buffer makes aiokafka do."""

    def __init__(self, *numbers: int) -> None:
        self.buffers = {Partition("t", number): [f"record of {number}"] for number in numbers}

    async def getmany(self, *partitions, timeout_ms, max_records):
        found = next((one for one in partitions if one in self.buffers), None)
        return {} if found is None else {found: self.buffers.pop(found)}


def polling(consumer: OneAtATime, lanes: int) -> Polling:
    options = SessionOptions(connections=lanes)
    return Polling(consumer, StoppableCalls(asyncio.Event()), options, stall_seconds=60)


async def test_each_lane_gets_a_partition_of_its_own() -> None:
    consumer = OneAtATime(0, 1, 2, 3)
    wanted = list(consumer.buffers)
    polled = await polling(consumer, 3).poll(wanted, 0.01)
    assert {lane_of(one, 3) for one in polled} == {0, 1, 2}
    assert len(polled) == 3


async def test_what_is_not_wanted_stays_where_it_is() -> None:
    consumer = OneAtATime(0, 1, 2)
    polled = await polling(consumer, 3).poll([Partition("t", 1)], 0.01)
    assert set(polled) == {Partition("t", 1)}
    assert set(consumer.buffers) == {Partition("t", 0), Partition("t", 2)}


def test_a_partition_is_always_in_the_same_lane() -> None:
    assert [lane_of(Partition("t", number), 3) for number in (4, 0, 2, 1, 5, 0)] == [
        1,
        0,
        2,
        1,
        2,
        0,
    ]
