"""Writes the process record and the outage records, on a connection of its own.

Invariant: it never gives up and never disturbs the service: the database away only means that the
records come later. Its own view of the database is an outage like any other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from relay.runtime.backoff import Backoff
from relay.runtime.database import DATABASE_FAILURES, connect
from relay.runtime.failure_code import failure_code
from relay.runtime.liveness import HEARTBEAT_SECONDS
from relay.runtime.outage import OutageLog
from relay.runtime.process import ProcessRecord
from relay.runtime.shutdown import StopEvent, stopped_within
from relay.runtime.tasks import background, end, failures

FAREWELL_SECONDS = 3.0
_COMMAND_TIMEOUT_SECONDS = 5.0


@dataclass(slots=True)
class Heartbeat:
    """Beats until told to stop, then says goodbye.

    Attributes:
        detail: asked at every beat for what `relay status` shows of this process.
        failure_code: asked at every beat for the code of what the process waits for.
        noticed: told of each change, for the log: an event, and its fields.
    """

    dsn: str | None
    record: ProcessRecord
    outages: OutageLog
    detail: Callable[[], Mapping[str, Any]] = dict
    failure_code: Callable[[], str | None] = lambda: None
    every_seconds: float = HEARTBEAT_SECONDS
    noticed: Callable[..., None] = lambda _event, **_fields: None
    _connection: asyncpg.Connection | None = None

    async def beside(
        self,
        work: Callable[[], Awaitable[None]],
        stop: asyncio.Event,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """Beat for as long as the work lasts; the last record says why it ended.

        Args:
            work: what the process is there for; it ends after `stop`, or raises.
            stop: asks for the end.
            ended: called before the last record is written.
        """
        beating = background(self.run(stop), "heartbeat")
        reason, ended_by = "asked", None
        try:
            await work()
            reason = stop_reason(stop)
        except BaseException as error:
            reason, ended_by = type(error).__name__, error
            raise
        finally:
            ended()
            await end(beating)
            self.record.detail = self.detail()
            await self.farewell(reason, ended_by)

    async def run(self, stop: asyncio.Event) -> None:
        """Beat until `stop` is set; the row then says that the process ended in good order."""
        attempt, backoff = 0, Backoff(min(0.2, self.every_seconds), self.every_seconds)
        while not stop.is_set():
            wait_seconds = self.every_seconds
            if await self._try_beat():
                attempt = 0
            else:
                wait_seconds, attempt = backoff.delay_seconds(attempt), attempt + 1
            await stopped_within(stop, wait_seconds)

    async def farewell(self, reason: str, ended_by: BaseException | None = None) -> None:
        """Write the last record within a few seconds; the database away, it stays unsaid.

        Args:
            reason: for people.
            ended_by: what ended the process; None: it was asked to end.
        """
        code = None if ended_by is None else failure_code(ended_by, "relay")
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                connection = await self._connected()
                await self.outages.write(connection)
                await self.record.stop(connection, reason, code)
                await connection.close()
        except DATABASE_FAILURES as error:
            self.noticed("process_record_not_closed", error=str(error) or type(error).__name__)
        finally:
            self._drop()

    async def _try_beat(self) -> bool:
        try:
            connection = await self._connected()
            detail = {**self.detail(), **({"failed_tasks": dict(failures)} if failures else {})}
            await self.record.heartbeat(connection, detail, self.failure_code())
            if self.outages.ended("database", "heartbeat") is not None:
                self.noticed("heartbeat_is_back")
            await self.outages.write(connection)
        except DATABASE_FAILURES as error:
            self._drop()
            if self.outages.began("database", error, "heartbeat"):
                self.noticed("heartbeat_not_written", error=str(error) or type(error).__name__)
            return False
        except Exception as error:  # noqa: BLE001 - a process that lives must not look dead
            self._drop()
            self.noticed("heartbeat_failed", error=repr(error))
            return False
        return True

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(
                self.dsn,
                f"relay-{self.record.kind}-heartbeat",
                command_timeout_seconds=_COMMAND_TIMEOUT_SECONDS,
            )
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def stop_reason(stop: asyncio.Event) -> str:
    """Return why the process was asked to stop."""
    return (stop.reason if isinstance(stop, StopEvent) else None) or "asked"
