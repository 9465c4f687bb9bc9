"""Plays a scene: makes its faults, waits for the facts, asks once, mends, and asks once more."""

from collections.abc import Sequence

from relay.diagnose.verdicts import Hop
from tests.corpus.fault import LATE, Act, Fault, Scene
from tests.corpus.tally import Tally
from tests.corpus.world import World, new_ids
from tests.one_story import contradictions
from tests.one_story import told as commands_told

_STORY_SECONDS = 25.0
# Scenes over which all commands are held against each other. The others were not played with it to
# their end.
ONE_STORY = frozenset({"skipped", "skipped, elsewhere", "own database", "refused"})

Made = Sequence[tuple[Fault, list[str]]]


async def play(world: World, scene: Scene, tally: Tally) -> None:
    """Play it to its end; what was said stands in the tally."""
    acts = [
        (act, [(fault, new_ids(fault.count, fault.suits)) for fault in act.faults])
        for act in scene.acts
    ]
    for _act, made in acts:
        world.faults += _options(made)
    await scene.opening(world)
    for act, made in acts:
        async with world.doing:
            await _stand(world, act, made, tally)
        for fault, _orders in reversed(made):
            await fault.mend(world)
        if act.come_back:
            await _come_back(world, made, tally)


def _options(made: Made) -> list[str]:
    return [part for fault, orders in made for option in fault.processor
            for one in orders for part in (option, one)]  # fmt: skip


async def _stand(world: World, act: Act, made: Made, tally: Tally) -> None:
    for fault, orders in made:
        await fault.make(world, orders)
    await act.then(world)
    for fault, orders in made:
        await fault.settle(world, orders)
    for fault, orders in made:
        tally.judge(fault, await world.told(orders, **fault.asked_with))
    if tally.scene in ONE_STORY:
        await _one_story(world, [one for fault, orders in made if not fault.asked_with
                                 for one in orders])  # fmt: skip


async def _one_story(world: World, orders: Sequence[str]) -> None:
    """All commands say the same of each order, once the watchdog has seen what they see."""
    if not orders:
        return

    async def alike() -> bool:
        found = contradictions(await commands_told(world, orders), orders)
        assert not found, "\n".join(found)
        return True

    await world.eventually(alike, _STORY_SECONDS)


async def _come_back(world: World, made: Made, tally: Tally) -> None:
    """Nothing was lost: each order returns, late, and is said to have waited where it did."""
    for fault, orders in made:
        await world.until_returned(orders, 60)
        found = await world.told(orders)
        tally.add(f"{fault.name}, mended", fault.family, LATE, found)
        waited = {str(one.delay.hop) for one in found if one.delay is not None}
        assert waited <= _may_wait_at(fault, made), f"{fault.name}: waited at {waited}"


def _may_wait_at(fault: Fault, made: Made) -> set[str]:
    """Where it is broken itself, or further on, at another fault that stood at the same time."""
    first = min(Hop(hop).number for hop in fault.waits_at_hops)
    return {
        hop
        for one, _orders in made
        for hop in one.waits_at_hops
        if one is fault or Hop(hop).number > first
    }
