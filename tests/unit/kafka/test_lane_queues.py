"""Batches of several lanes at once: in turn within a lane, never waiting for another one."""

import asyncio

import pytest

from relay.kafka.consumer.handler import PartitionLostError
from relay.kafka.consumer.lane_queues import LaneQueues


class Batch:
    """A batch that says when it began, and ends when the test says so."""

    def __init__(self) -> None:
        self.begun, self.may_end, self.ended = asyncio.Event(), asyncio.Event(), False
        self.error: Exception | None = None

    async def handle(self) -> None:
        self.begun.set()
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        self.ended = True

    def end(self, error: Exception | None = None) -> None:
        self.error = error
        self.may_end.set()


def always() -> bool:
    return True


def put(queues: LaneQueues, *lanes: int, stands=always) -> Batch:
    batch = Batch()
    queues.put(lanes, batch.handle, stands)
    return batch


async def turns() -> None:
    """Let everything that can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_batch_of_several_lanes_waits_for_all_of_them_and_all_for_it() -> None:
    queues = LaneQueues()
    first, second = put(queues, 0), put(queues, 1)
    both, after = put(queues, 0, 1), put(queues, 1)
    first.end()
    await turns()
    assert first.ended
    assert not both.begun.is_set()
    second.end()
    await turns()
    assert both.begun.is_set()
    assert not after.begun.is_set()
    assert [queues.has_room(lane) for lane in (0, 1)] == [True, False]
    both.end()
    after.end()
    await queues.settle()
    assert (both.ended, after.ended) == (True, True)


async def test_what_a_batch_of_several_lanes_failed_with_is_raised_once_it_is_asked_for() -> None:
    queues = LaneQueues()
    both, after = put(queues, 0, 1), put(queues, 1)
    both.end(PartitionLostError("gone"))
    after.end()
    with pytest.raises(PartitionLostError):
        await queues.settle()
    assert not after.ended


async def test_a_lane_goes_on_while_another_is_held_up() -> None:
    queues = LaneQueues()
    held = put(queues, 0)
    for _ in range(3):
        batch = put(queues, 1)
        batch.end()
        await queues.room()
        assert queues.has_room(1)
        assert batch.ended
    assert held.begun.is_set()
    assert not held.ended
    held.end()
    await queues.settle()
    assert held.ended


async def test_a_lane_handles_one_batch_at_a_time_in_order() -> None:
    queues = LaneQueues()
    first, second = put(queues, 0), put(queues, 0)
    await turns()
    assert (first.begun.is_set(), second.begun.is_set()) == (True, False)
    assert not queues.has_room(0)
    assert queues.has_room(1)
    first.end()
    await second.begun.wait()
    assert first.ended
    assert queues.has_room(0)
    second.end()
    await queues.settle()
    assert queues.is_empty


async def test_after_a_failure_the_others_end_and_what_waits_is_dropped() -> None:
    queues = LaneQueues()
    failing, other = put(queues, 0), put(queues, 1)
    behind_failing, behind_other = put(queues, 0), put(queues, 1)
    await turns()
    failing.end(PartitionLostError("taken"))
    await turns()
    for batch in (other, behind_failing, behind_other):
        batch.end()
    with pytest.raises(PartitionLostError, match="taken"):
        await queues.settle()
    assert other.ended
    assert not behind_failing.begun.is_set()
    assert not behind_other.begun.is_set()


async def test_a_failure_is_told_to_whoever_has_more_for_the_lane() -> None:
    queues = LaneQueues()
    put(queues, 0).end(PartitionLostError("taken"))
    await queues.room()
    with pytest.raises(PartitionLostError, match="taken"):
        queues.has_room(0)


async def test_what_no_longer_stands_when_its_turn_comes_is_dropped() -> None:
    queues, stands = LaneQueues(), True
    first = put(queues, 0, stands=lambda: stands)
    second = put(queues, 0, stands=lambda: stands)
    await turns()
    stands = False  # a rebalance began
    first.end()
    await queues.settle()
    assert first.ended
    assert not second.begun.is_set()


async def test_drained_means_that_nothing_is_being_handled() -> None:
    queues = LaneQueues()
    assert queues.drained.is_set()
    one, other = put(queues, 0), put(queues, 1)
    await turns()
    one.end()
    await turns()
    assert not queues.drained.is_set()
    other.end()
    await queues.settle()
    assert queues.drained.is_set()
