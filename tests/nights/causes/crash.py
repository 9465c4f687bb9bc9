"""A processor dies, or freezes, at one point between taking an event and committing its offset."""

import asyncio
from dataclasses import dataclass, field
from random import Random

from tests.nights.cast import Cast
from tests.nights.causes.cause import Cause
from tests.nights.stage import WAIT_SECONDS, Stage
from tests.nights.truth import lost, returned
from tests.patience import patience

# Where it ends, by how it commits.
_POINTS = {
    "before": ("took", "committed"),
    "after": ("took", "answered"),
    "transactional": ("took", "answered"),
}
_LOST = lost(
    "processor died after its commit", "return", "no_return",
    "processor_crashed", "offsets_skipped", "return_never_sent", "returns_stopped",
)  # fmt: skip
_IN_TRANSACTION = lost(
    "processor froze in its transaction", "confirm", "not_confirmed", "transaction_open",
    check="kafka.transactions:",
)  # fmt: skip


@dataclass
class Crash(Cause):
    """The processor is at one point of its work when it ends.

    Attributes:
        frozen: an exactly-once processor that freezes in its transaction, and is left so; else it
            dies, and a new one takes over.
    """

    point: str
    frozen: bool
    count: int
    customer: str = field(default="", init=False)

    @classmethod
    def draw(cls, luck: Random, cast: Cast) -> "Crash":
        """Draw one that the cast can have."""
        kind = cast.processor if cast.processor == "transactional" else cast.commits
        point = luck.choice(_POINTS[kind])
        frozen = kind == "transactional" and point == "answered" and luck.random() < 0.5
        return cls(point, frozen, luck.choice((3, 6, 12)))

    @property
    def stands_at(self) -> int:  # type: ignore[override]
        """A frozen one holds up everything that is answered."""
        return 5 if self.frozen else 0

    def prepare(self, stage: Stage) -> None:
        """It ends at an order of one customer."""
        self.customer = stage.customer()

    async def make(self, stage: Stage) -> None:
        """Restart the processor with its fate, place orders, let another one take over."""
        await stage.healthy(2 * stage.cast.events_partitions)
        await stage.strike("processor", "stopped")
        stage.dies = (self.point, self.customer, "frozen" if self.frozen else "killed")
        await stage.bring_back("processor", "stopped")
        stage.dies = ("", "", "")
        orders = stage.ids(self.count)
        # All of them come to it at once, or some only to the next.
        await stage.place(orders, self.customer)
        assert stage.processor is not None
        if self.frozen:
            await self._frozen(stage, orders)
            return
        await asyncio.to_thread(stage.processor.wait, WAIT_SECONDS * patience())
        stage.journal.note("processor died", at=self.point)
        await stage.group_is_empty()
        await stage.left_alone()
        await stage.bring_back("processor", "killed")
        await stage.healthy(2 * stage.cast.events_partitions)
        await self._say(stage, orders)

    async def _say(self, stage: Stage, orders: list[str]) -> None:
        """Whoever was never answered is lost: its offset was committed."""
        answered = {line["order"] for line in stage.seen("answered")}
        back = [one for one in orders if one in answered]
        if self.point != "committed":
            await stage.through(orders)
            back = orders
        await stage.world.until_returned(back, WAIT_SECONDS)
        stage.journal.say(back, returned(f"processor died: {self.point}"))
        stage.journal.say(set(orders) - set(back), _LOST)

    async def _frozen(self, stage: Stage, orders: list[str]) -> None:
        """What it wrote stands in a transaction that nobody ends."""
        await stage.world.eventually(
            lambda: stage.seen("ends") and stage.processor_is_stopped(), WAIT_SECONDS
        )
        inside = {line["order"] for line in stage.seen("answered")}
        stage.journal.say(orders, _IN_TRANSACTION)
        outside = [one for one in orders if one not in inside]
        stage.journal.say(
            outside,
            lost("processor frozen", "process", "not_processed", "processor_stuck",
                 "processor_lagging", "processor_down", "processor_rebalancing"),
        )  # fmt: skip

    async def mend(self, stage: Stage) -> bool:
        """What a frozen one has open ends after minutes only."""
        del stage
        return not self.frozen

    def __str__(self) -> str:
        how = "freezes" if self.frozen else "dies, another takes over"
        return f"{self.count} orders: processor {how}: {self.point}"
