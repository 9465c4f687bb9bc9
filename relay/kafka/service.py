"""Hops 2 and 5: the one life of a service that needs the database and the broker.

Invariant: its process record tells of it from its start to why it ended. An outage is noted in
records, metrics and log alike, once, however often it is met. A broker that refuses a service from
its start is no outage: its settings cannot work.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

import structlog

from relay.kafka.refusal import KafkaRefusedError
from relay.runtime.failure_code import failure_code
from relay.runtime.heartbeat import Heartbeat
from relay.runtime.memory import collect_rarely, keep_freed_memory
from relay.runtime.outage import OutageLog, Resource
from relay.runtime.process import ProcessRecord
from relay.telemetry.metrics import Metrics


class RecordedService(ABC):
    """What the relay, the consumer and the witness have in common; they declare the fields.

    Attributes:
        state: starting, ..., waiting (for database or broker), stopped.
    """

    log: ClassVar[structlog.stdlib.BoundLogger]
    dsn: str | None
    stop: asyncio.Event
    process: ProcessRecord
    outages: OutageLog
    metrics: Metrics | None
    state: str
    _waiting_for: str | None
    _failure_code: str | None
    _broker_took_us: bool

    @property
    def waiting_for(self) -> str | None:
        """What it cannot go on without, in words."""
        return self._waiting_for

    @property
    def failure_code(self) -> str | None:
        """The code of what it waits for; None: it does its work."""
        return self._failure_code if self.state == "waiting" else None

    @abstractmethod
    def detail(self) -> Mapping[str, Any]:
        """Return what `relay status` shows of this process."""

    async def _live(self, work: Callable[[], Awaitable[None]]) -> None:
        """Work to the end, with a process record beside it."""
        keep_freed_memory()
        collect_rarely()
        beat = Heartbeat(
            self.dsn,
            self.process,
            self.outages,
            detail=self.detail,
            failure_code=lambda: self.failure_code,
            noticed=self.log.warning,
        )
        await beat.beside(work, self.stop, self._stopped)

    def _stopped(self) -> None:
        self.state, self._waiting_for = "stopped", None

    def broker_away(self, error: BaseException) -> None:
        """Note that the broker cannot be reached.

        Raises:
            KafkaRefusedError: it never took us: settings that never worked.
        """
        if isinstance(error, KafkaRefusedError) and not self._broker_took_us:
            raise error
        self._lost("broker", error)

    def broker_back(self) -> None:
        """Note that the broker answers."""
        self._broker_took_us = True
        self._back("broker")
        self.state, self._waiting_for = "active", None

    def _lost(self, resource: Resource, error: BaseException) -> None:
        words = self._described(error)
        self.state, self._waiting_for = "waiting", f"the {resource}: {words}"
        self._failure_code = failure_code(error, resource)
        if self.metrics is not None:
            self.metrics.dependencies.away(resource)
        if self.outages.began(resource, error):
            self.log.warning("waiting", resource=resource, error=words)

    def _back(self, resource: Resource) -> None:
        seconds = self.outages.ended(resource)
        if self.metrics is not None:
            self.metrics.dependencies.back(resource)
        if seconds is not None:
            self.log.info("back", resource=resource, away_seconds=round(seconds, 3))

    def _described(self, error: BaseException) -> str:
        """Return what a person has to know of the error."""
        return str(error) or repr(error)
