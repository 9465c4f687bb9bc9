"""Somebody else beside the loop: a second processor group, a shell with other settings."""

import asyncio
import json
import signal
import subprocess
from dataclasses import dataclass, field
from random import Random

from tests.nights.cast import Cast
from tests.nights.causes.cause import Cause
from tests.nights.causes.single import BUGS
from tests.nights.stage import WAIT_SECONDS, Stage
from tests.patience import patience


@dataclass
class TwoGroups(Cause):
    """The flow names two processor groups; the second reads everything and answers nothing.

    Attributes:
        leaves: the second one comes for these orders alone, and is gone before anybody looks.
    """

    leaves: bool
    count: int
    customer: str = field(default="", init=False)
    second: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @classmethod
    def draw(cls, luck: Random, cast: Cast) -> "TwoGroups":
        """Draw one."""
        del cast
        return cls(luck.random() < 0.5, luck.choice((1, 3, 6)))

    def prepare(self, stage: Stage) -> None:
        """Name both groups; the first processor loses the orders of one customer."""
        world = stage.world
        world.environment["RELAY_FLOW_PROCESSOR_GROUPS"] = f"{world.group},{world.group}-second"
        self.customer = stage.customer("lose")

    async def make(self, stage: Stage) -> None:
        """Let both read orders that the first one loses."""
        await stage.healthy(2 * stage.cast.events_partitions)
        if not self.leaves:
            await self._begin(stage)
        orders = stage.ids(self.count)
        await stage.among_others(orders, self.customer, BUGS["lose"])
        await stage.through(orders)
        if self.leaves:
            await self._begin(stage)
        await stage.world.eventually(lambda: self._has_passed(stage), WAIT_SECONDS)
        if self.leaves:
            await asyncio.to_thread(self._end)
        await stage.healthy(4)

    async def _begin(self, stage: Stage) -> None:
        faults = dict.fromkeys(["c-0", *stage.faults], "lose")
        self.second = stage.beside(
            kind="subscribe", group=f"{stage.world.group}-second", faults=faults, commits="after"
        )
        stage.journal.note("a second group reads, and answers nothing", leaves=self.leaves)

    async def _has_passed(self, stage: Stage) -> bool:
        world = stage.world
        ends = await asyncio.to_thread(world.ends, world.events)
        committed = await asyncio.to_thread(world.committed, f"{world.group}-second", world.events)
        return all(committed.get(number, 0) >= end for number, end in ends.items() if end)

    def _end(self) -> None:
        assert self.second is not None
        self.second.send_signal(signal.SIGTERM)
        self.second.wait(30 * patience())

    async def mend(self, stage: Stage) -> bool:
        """The second group stays."""
        del stage
        return True

    def __str__(self) -> str:
        ending = "comes for them and leaves" if self.leaves else "reads along"
        return f"{self.count} orders that the processor lost: a second group {ending}"


@dataclass
class Drift(Cause):
    """Whoever asks has a file of settings that the processes do not run with.

    Attributes:
        setting: what differs in it.
    """

    setting: str
    count: int
    customer: str = field(default="", init=False)

    @classmethod
    def draw(cls, luck: Random, cast: Cast) -> "Drift":
        """Draw one."""
        del cast
        return cls(luck.choice(("events_topic", "returns_topic", "deadline")), luck.choice((3, 6)))

    def prepare(self, stage: Stage) -> None:
        """Some orders the processor loses."""
        self.customer = stage.customer("lose")

    async def make(self, stage: Stage) -> None:
        """Orders come back, and some are lost; then somebody asks who has another file."""
        world = stage.world
        orders = stage.ids(self.count)
        await stage.among_others(orders, self.customer, BUGS["lose"])
        await stage.through(orders)
        await stage.healthy(4)
        await stage.overdue()
        await stage.watched()
        if self.setting == "deadline":
            types = json.loads(world.environment["RELAY_FLOW_EVENTS"])
            types["order.placed"]["deadline_seconds"] = 86_400
            world.environment["RELAY_FLOW_EVENTS"] = json.dumps(types)
        else:
            made = await asyncio.to_thread(world.topics.create, f"staging.{self.setting}", 3)
            world.environment[f"RELAY_FLOW_{self.setting.upper()}"] = made
        stage.journal.note("somebody asks with other settings", setting=self.setting)

    def __str__(self) -> str:
        return (
            f"{self.count} orders that the processor lost; whoever asks has another {self.setting}"
        )
