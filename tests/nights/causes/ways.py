"""What is no outage: answers that are swapped, a processor that pauses, a consumer that moved."""

import asyncio
from dataclasses import dataclass, field
from random import Random

from tests.nights.cast import Cast
from tests.nights.causes.cause import Cause
from tests.nights.causes.single import BUGS
from tests.nights.stage import WAIT_SECONDS, Stage
from tests.nights.truth import lost

_SWAPPED = lost("answers swapped", "confirm", "return_quarantined", "return_names_differ")
_PAUSED = lost(
    "processor paused", "process", "not_processed", "processor_stuck", "processor_lagging"
)


@dataclass
class Swapped(Cause):
    """A batch bug: the body of each return names the other order of a pair."""

    pairs: int
    customer: str = field(default="", init=False)

    @classmethod
    def draw(cls, luck: Random, cast: Cast) -> "Swapped":
        """Draw one."""
        del cast
        return cls(luck.choice((1, 2, 4)))

    def prepare(self, stage: Stage) -> None:
        """Let the processor know whose orders they are."""
        self.customer = stage.customer("swaps")

    async def make(self, stage: Stage) -> None:
        """Place pairs; both orders of each are open when their returns come."""
        orders = stage.ids(2 * self.pairs)
        await stage.among_others(orders, self.customer, _SWAPPED)
        await stage.through(orders)
        await stage.healthy(4)

    def __str__(self) -> str:
        return f"{2 * self.pairs} orders: processor swaps neighbours"


@dataclass
class Paused(Cause):
    """The processor stays in its group and pauses its partitions, as back-pressure does."""

    count: int
    stands_at = 3
    customer: str = field(default="", init=False)

    @classmethod
    def draw(cls, luck: Random, cast: Cast) -> "Paused":
        """Draw one."""
        del cast
        return cls(luck.choice((3, 6, 12)))

    def prepare(self, stage: Stage) -> None:
        """It pauses after the order of one customer."""
        self.customer = stage.customer("pauses")

    async def make(self, stage: Stage) -> None:
        """Let it pause, and place orders."""
        await stage.healthy(2 * stage.cast.events_partitions)
        (last,) = stage.ids(1)
        await stage.place([last], self.customer)
        await stage.world.eventually(lambda: bool(stage.seen("paused")), WAIT_SECONDS)
        await stage.world.until_returned([last], WAIT_SECONDS)
        orders = stage.ids(self.count)
        await stage.place(orders, truth=_PAUSED)
        await stage.published(orders)

    def __str__(self) -> str:
        return f"{self.count} orders: processor pauses its partitions"


@dataclass
class Moved(Cause):
    """The consumer runs under another group than the shell's settings say, for good."""

    count: int
    customer: str = field(default="", init=False)

    @classmethod
    def draw(cls, luck: Random, cast: Cast) -> "Moved":
        """Draw one."""
        del cast
        return cls(luck.choice((3, 6)))

    def prepare(self, stage: Stage) -> None:
        """Some orders the processor loses."""
        self.customer = stage.customer("lose")

    async def make(self, stage: Stage) -> None:
        """Start it under the other name; orders come back, and some are lost on the way."""
        await stage.healthy(2 * stage.cast.events_partitions)
        await stage.strike("consumer", "stopped")
        group = f"{stage.world.confirm_group}-blue"
        await asyncio.to_thread(stage.world.begin, "consumer", RELAY_FLOW_CONFIRM_GROUP=group)
        await stage.healthy(4)
        orders = stage.ids(self.count)
        await stage.among_others(orders, self.customer, BUGS["lose"])
        await stage.through(orders)
        await stage.healthy(4)

    def __str__(self) -> str:
        return f"{self.count} orders that the processor lost: consumer under another group's name"
