"""A transaction of another team's on a topic of the flow, that ends, or does not."""

import asyncio
from dataclasses import dataclass, field
from random import Random

from confluent_kafka import Producer

from tests.nights.cast import Cast
from tests.nights.causes.cause import Cause
from tests.nights.stage import WAIT_SECONDS, Stage
from tests.nights.truth import Truth, lost, returned

_HELD_UP = {
    "events": lost(
        "transaction open on the events", "process", "not_processed", "transaction_open",
        check="kafka.transactions:",
    ),
    "returns": lost(
        "transaction open on the returns", "confirm", "not_confirmed", "transaction_open",
        check="kafka.transactions:",
    ),
}  # fmt: skip


@dataclass
class OpenTransaction(Cause):
    """A foreign producer writes one record to each partition, in one transaction.

    Attributes:
        end: commit, abort, or "" where it stays open.
    """

    which: str
    end: str
    count: int
    producer: Producer | None = field(default=None, init=False)

    @classmethod
    def draw(cls, luck: Random, cast: Cast) -> "OpenTransaction":
        """Draw one."""
        del cast
        end = luck.choice(("", "", "commit", "abort"))
        return cls(luck.choice(("events", "returns")), end, luck.choice((3, 6, 12)))

    @property
    def stands_at(self) -> int:  # type: ignore[override]
        """Of one that stays open."""
        return 0 if self.end else {"events": 3, "returns": 5}[self.which]

    async def make(self, stage: Stage) -> None:
        """Begin it, place orders behind it, end it or not."""
        orders = stage.ids(self.count)
        await asyncio.to_thread(self._begin, stage)
        stage.journal.note("transaction begun", topic=self.which)
        await stage.place(orders, truth=self._truth())
        await stage.published(orders)
        if self.which == "returns":
            # An exactly-once processor's own transactions end; what it wrote stands behind it.
            await stage.through(orders)
        if self.end and self.producer is not None:
            await asyncio.to_thread(getattr(self.producer, f"{self.end}_transaction"), 30)
            stage.journal.note(f"transaction: {self.end}")
            await stage.world.until_returned(orders, WAIT_SECONDS)

    async def mend(self, stage: Stage) -> bool:
        """Let its producer give up."""
        if not self.end and self.producer is not None:
            stage.journal.note("transaction: abort")
            await asyncio.to_thread(self.producer.abort_transaction, 30)
        return True

    def _begin(self, stage: Stage) -> None:
        world = stage.world
        self.producer = Producer(
            {
                "bootstrap.servers": world.bootstrap,
                "transactional.id": f"backfill-{self.which}-{world.topics.suffix}",
                "transaction.timeout.ms": 600_000,
                "log_level": 0,
            }
        )
        self.producer.init_transactions(60)
        self.producer.begin_transaction()
        for number in range(getattr(stage.cast, f"{self.which}_partitions")):
            self.producer.produce(
                getattr(world, self.which), key="backfill", value=b"{}", partition=number
            )
        assert self.producer.flush(30) == 0

    def _truth(self) -> Truth:
        return (
            returned(f"transaction on {self.which}: {self.end}")
            if self.end
            else _HELD_UP[self.which]
        )

    def __str__(self) -> str:
        ending = f"ends with {self.end}" if self.end else "stays open"
        return f"{self.count} orders behind a transaction on the {self.which}, which {ending}"
