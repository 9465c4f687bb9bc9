"""The processor is deployed with wrong settings, or does not see what was changed on Kafka."""

import asyncio
from dataclasses import dataclass
from random import Random

from aiokafka.partitioner import murmur2
from confluent_kafka.admin import AdminClient, NewPartitions

from tests.nights.cast import Cast
from tests.nights.causes.cause import Cause
from tests.nights.stage import WAIT_SECONDS, Stage
from tests.nights.truth import Truth, lost, returned

_NEVER_MS = 300_000
_LEFT_OUT = lost("group renamed", "process", "not_processed", "group_replaced")


@dataclass
class Redeploy(Cause):
    """The processor is started with another environment's topic.

    Attributes:
        wrong: which topic: `events` or `returns`.
        back: whether the right settings came back.
    """

    wrong: str
    back: bool
    count: int

    @classmethod
    def draw(cls, luck: Random, cast: Cast) -> "Redeploy":
        """Draw one."""
        del cast
        return cls(luck.choice(("events", "returns")), luck.random() < 0.5, luck.choice((3, 6, 12)))

    @property
    def stands_at(self) -> int:  # type: ignore[override]
        """With wrong settings no order comes back any more."""
        return 0 if self.back else 3

    async def make(self, stage: Stage) -> None:
        """Deploy it, place orders, deploy it again."""
        await stage.healthy(2 * stage.cast.events_partitions)
        other = await asyncio.to_thread(
            stage.world.topics.create, f"orders.staging-{self.wrong}", 3
        )
        await stage.strike("processor", "stopped")
        stage.start_processor(**{self.wrong: other})
        await stage.processor_joined()
        orders = stage.ids(self.count)
        await stage.place(orders, truth=self._truth(stage.cast))
        await stage.published(orders)
        if self.wrong == "returns":
            await stage.through(orders)
        if self.back:
            await stage.strike("processor", "stopped")
            await stage.bring_back("processor", "stopped")
            if self.wrong == "events":
                await stage.world.until_returned(orders, WAIT_SECONDS)
            await stage.healthy(2 * stage.cast.events_partitions)

    def _truth(self, cast: Cast) -> Truth:
        if self.wrong == "returns":
            return lost("answers on another topic", "return", "no_return", "answered_elsewhere")
        if self.back:
            return returned("read another topic for a while")
        causes = ["topic_not_consumed"]
        if cast.processor == "assign":
            # Nobody sees what a reader outside of any group reads.
            causes += ["processor_down", "processor_stuck", "processor_lagging"]
        return lost("reads another topic", "process", "not_processed", *causes)

    def __str__(self) -> str:
        ending = "then the right one" if self.back else "and stays so"
        return f"{self.count} orders: processor deployed with another {self.wrong} topic, {ending}"


@dataclass
class PartitionsAdded(Cause):
    """Partitions are added to the events topic; the relay sees them, the processor does not.

    In the groups of KIP-848 the broker assigns: there the processor does.
    """

    added: int
    count: int
    assigned: bool

    @classmethod
    def draw(cls, luck: Random, cast: Cast) -> "PartitionsAdded":
        """Draw one."""
        return cls(luck.choice((1, 2)), luck.choice((3, 6)), cast.processor == "kip848")

    @property
    def stands_at(self) -> int:  # type: ignore[override]
        """Until the processor is restarted nobody reads the new partitions."""
        return 0 if self.assigned else 3

    def prepare(self, stage: Stage) -> None:
        """It asks for the topics' partitions so seldom that it does not in this night."""
        stage.metadata_ms = _NEVER_MS

    async def make(self, stage: Stage) -> None:
        """Add them, and place orders on old ones and on new ones."""
        world, before = stage.world, stage.cast.events_partitions
        await stage.healthy(2 * before)
        after = before + self.added
        admin = AdminClient({"bootstrap.servers": world.bootstrap, "log_level": 0})
        made = admin.create_partitions([NewPartitions(world.events, after)])
        await asyncio.to_thread(made[world.events].result, 20)
        stage.journal.note("partitions added", after=after)
        await asyncio.to_thread(world.restart, "relay")
        await world.eventually(lambda: len(world.ends(world.events)) == after, WAIT_SECONDS)
        new: list[str] = []
        while len(new) < self.count:
            (one,) = stage.ids(1)
            if (murmur2(one.encode()) & 0x7FFFFFFF) % after >= before:
                new.append(one)
        await stage.place(new, truth=self._truth(stage.cast))
        await stage.published(new)
        if stage.cast.processor == "kip848":
            await world.until_returned(new, WAIT_SECONDS)

    def _truth(self, cast: Cast) -> Truth:
        if cast.processor == "kip848":
            return returned("partitions added")
        causes = ["partition_unassigned"]
        if cast.processor == "assign":
            causes.append("processor_lagging")  # while the record is younger than a fetch
        return lost("partitions added", "process", "not_processed", *causes)

    def __str__(self) -> str:
        return f"{self.count} orders on {self.added} partitions that were added"


@dataclass
class Renamed(Cause):
    """The processor comes back under another group's name; nobody tells the flow's settings.

    Attributes:
        reset: where the new group begins: `earliest` or `latest`.
    """

    reset: str
    count: int
    stands_at = 3

    @classmethod
    def draw(cls, luck: Random, cast: Cast) -> "Renamed":
        """Draw one."""
        del cast
        return cls(luck.choice(("earliest", "latest")), luck.choice((3, 6, 12)))

    async def make(self, stage: Stage) -> None:
        """Stop the old one, place orders, start the new one: it answers what comes then."""
        await stage.healthy(2 * stage.cast.events_partitions)
        await stage.strike("processor", "stopped")
        orders = stage.ids(self.count)
        await stage.place(orders, truth=self._truth())
        await stage.published(orders)
        await stage.left_alone()
        stage.start_processor(group=f"{stage.world.group}-green", begins=self.reset)
        await stage.processor_joined()
        await stage.healthy(4 * stage.cast.events_partitions)

    async def mend(self, stage: Stage) -> bool:
        """The new group goes on: who starts the old one again has all done twice."""
        stage.journal.left_running = True
        return True

    def _truth(self) -> Truth:
        return returned("group renamed") if self.reset == "earliest" else _LEFT_OUT

    def __str__(self) -> str:
        return f"{self.count} orders: processor under another group's name, from the {self.reset}"
