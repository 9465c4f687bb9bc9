"""Hop 5: notes what the consumer group says about whose partitions are whose.

Invariant: a callback never seeks and never fails in silence. aiokafka delivers records while a
slow callback still runs, and only logs what one raises (seen: two records skipped), so callbacks
note what happened, and whoever polls compares notes before handling anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

import structlog
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.structs import TopicPartition

from relay.kafka.partition import Partition

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]
    """The notes.

    Attributes:
        drained: set while no batch is being handled.
        drain_seconds: how long a rebalance waits for that.
        generation: raised by every change; what was polled before the last one was polled in vain.
        assigned: None before the first assignment and while a rebalance is under way.
        error: what a callback failed with; the session must end.
    """

    drained: asyncio.Event
    drain_seconds: float
    generation: int = 0
    assigned: frozenset[Partition] | None = None
    error: BaseException | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Let the batch in hand be finished; otherwise the next owner makes its work void."""
        self.assigned, self.generation = None, self.generation + 1
        try:
            async with asyncio.timeout(self.drain_seconds):
                await self.drained.wait()
        except TimeoutError:
            log.info("rebalance_did_not_wait", revoked=len(revoked))
        except Exception as error:  # noqa: BLE001 - aiokafka would log it and go on
            self.error = error

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Note what is ours now."""
        self.generation += 1
        self.assigned = frozenset(Partition(tp.topic, tp.partition) for tp in assigned)
        self.changed.set()

    async def wait(self) -> frozenset[Partition]:
        """Wait until partitions (perhaps none) are assigned, and return them."""
        while self.assigned is None:
            self.changed.clear()
            await self.changed.wait()
        return self.assigned
