"""Hop 5: the poll-handle-commit loop: session after session, until the process is asked to stop.

Invariant: it never gives up on the broker: it says what it waits for, notes the outage, and tries
again with a new consumer. What the handler raises (the database is away) ends the loop instead:
whoever called it knows how to come back from that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from aiokafka.errors import UnknownTopicOrPartitionError

from relay.kafka.consumer.blocked import BlockedPartitions
from relay.kafka.consumer.handler import Handler, PartitionBlockedError, PartitionLostError, WorkT
from relay.kafka.consumer.options import SessionOptions
from relay.kafka.consumer.partitions import DiscontinuityError
from relay.kafka.consumer.session import Session
from relay.kafka.consumer.stoppable_calls import BrokerError, StalledError, StoppableCalls
from relay.kafka.refusal import refusal
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.tasks import background

log = structlog.get_logger(__name__)

_LONGEST_STALL_SECONDS = 300.0


class BrokerWatch(Protocol):
    """Whoever wants to know whether the broker is there."""

    def broker_away(self, error: Exception) -> None:
        """Note that it is not; told with every failed attempt."""

    def broker_back(self) -> None:
        """Note that it answers; told once in each session."""


@dataclass(frozen=True, slots=True)
class Loop:
    """Consumes one topic in one group.

    Attributes:
        blocked: partitions that wait while the others go on.
        progressed: called at each turn of the loop.
    """

    kafka: KafkaConnection
    topic: str
    group: str
    options: SessionOptions
    watch: BrokerWatch
    blocked: BlockedPartitions = field(default_factory=BlockedPartitions)
    progressed: Callable[[], None] = lambda: None

    async def run(self, handler: Handler[WorkT], stop: asyncio.Event) -> None:
        """Consume until `stop` is set; errors of the handler's own are passed on."""
        broker, failures, stall_seconds = StoppableCalls(stop), 0, self.options.stall_seconds
        while not stop.is_set():
            self.progressed()
            session = Session(
                self.kafka,
                self.topic,
                self.group,
                self.options,
                handler,
                broker,
                stall_seconds,
                self.blocked,
                self.progressed,
            )
            try:
                await self._watched(session)
            except (PartitionLostError, DiscontinuityError) as error:
                log.warning("rejoining_group", group=self.group, error=str(error))
                failures = 0 if session.alive.is_set() else failures + 1
            except PartitionBlockedError as error:
                seconds = self.blocked.block(error.partition, str(error))
                log.error("partition_waits", error=str(error), seconds=seconds)  # noqa: TRY400 - it says all
                failures = 0
            except BrokerError as error:
                self.watch.broker_away(await self._explained(error, session))
                failures = 0 if session.alive.is_set() else failures + 1
                if isinstance(error, StalledError):
                    # One partition without a leader must not cost the others a rejoin every time.
                    stall_seconds = min(2 * stall_seconds, _LONGEST_STALL_SECONDS)
            if not stop.is_set():
                await broker.pause(self.options.backoff.delay_seconds(failures))

    async def _explained(self, error: BrokerError, session: Session[WorkT]) -> Exception:
        """Ask why the broker does not take us, if it never answered in this session."""
        if isinstance(error.__cause__, UnknownTopicOrPartitionError):
            missing = BrokerError(
                f"topic {self.topic} does not exist: create it, or correct the flow"
            )
            missing.__cause__ = error.__cause__  # its code is Kafka's own
            return missing
        if session.alive.is_set():
            return error
        return await refusal(self.kafka) or error

    async def _watched(self, session: Session[WorkT]) -> None:
        back = background(self._tell_when_back(session), "broker back")
        try:
            await session.run()
        finally:
            back.cancel()

    async def _tell_when_back(self, session: Session[WorkT]) -> None:
        await session.alive.wait()
        self.watch.broker_back()
