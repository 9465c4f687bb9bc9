"""Batches of several partitions at once: side by side, each partition in its lane, errors last."""

import asyncio
from types import SimpleNamespace

import pytest

from consumers.confirm.lanes import Lanes
from consumers.group.handler import Part, PartitionLostError
from consumers.group.partitions import Partition, lane_of


class Lane:
    """A lane that notes what it is given, and does what the test says with it."""

    def __init__(self, handling) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._handling = handling

    async def read(self, parts):
        self.parts += parts
        return SimpleNamespace(parts=parts)

    async def handle(self, _batch) -> None:
        await self._handling()
        self.ended = True


def part(number: int) -> Part:
    return Part(Partition("t", number), 0, [], 1, None, None)


async def nothing() -> None:
    """Be done at once."""


async def test_lanes_work_side_by_side() -> None:
    meeting = asyncio.Barrier(2)

    async def meet() -> None:
        await meeting.wait()

    lanes = Lanes([Lane(meet), Lane(meet)])
    async with asyncio.timeout(10):
        await lanes.handle(await lanes.read([part(0), part(1)]))
    assert all(lane.ended for lane in lanes.lanes)


async def test_a_partition_stays_in_its_lane() -> None:
    lanes = Lanes([Lane(nothing), Lane(nothing), Lane(nothing)])
    for numbers in ([4, 0, 2], [1], [0, 1, 5]):
        await lanes.handle(await lanes.read([part(number) for number in numbers]))
    for number, lane in enumerate(lanes.lanes):
        assert {lane_of(one.partition, 3) for one in lane.parts} == {number}
    assert [one.partition.partition for one in lanes.lanes[0].parts] == [0, 0]


async def test_a_lane_that_fails_lets_the_others_end_first() -> None:
    failed = asyncio.Event()

    async def fail() -> None:
        failed.set()
        raise PartitionLostError("taken")

    async def outlast() -> None:
        await failed.wait()
        for _ in range(5):
            await asyncio.sleep(0)

    lanes = Lanes([Lane(fail), Lane(outlast)])
    work = await lanes.read([part(0), part(1)])
    with pytest.raises(PartitionLostError, match="taken"):
        await lanes.handle(work)
    assert [lane.ended for lane in lanes.lanes] == [False, True]
