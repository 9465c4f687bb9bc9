"""Hop 5: handles batches of returns, whatever the database thinks of them.

Invariant: a return leaves this module applied, waiting, in quarantine, or not handled at all, and
only in the last case does its offset stay. One bad return costs a few more transactions and stops
nobody: what the database does not take into quarantine either is set aside by its place alone, and
where even that is refused, its partition waits. A database that refuses everything stops
everything, and fills no quarantine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import asyncpg
import structlog

from relay.consumers.confirm.failures import (
    Failure,
    about_a_value,
    classify,
    described,
    without_values,
)
from relay.consumers.confirm.halves import count_records, halves
from relay.consumers.confirm.pending import Pending, count_pending
from relay.consumers.confirm.quarantine import place_only, release_requested
from relay.consumers.confirm.transaction import Batch, Confirmation, Done
from relay.consumers.returns.refusals import Reason, Refusal
from relay.kafka.consumer.handler import Part, PartitionBlockedError, PartitionLostError
from relay.kafka.consumer.partitions import Gap, LogBounds, Record, Start
from relay.kafka.partition import Partition

log = structlog.get_logger(__name__)

_RETRIES: Final = 8
_FIRST_RETRY_SECONDS: Final = 0.02
_PENDING_ROUNDS: Final = 20
# So many returns in a row that the database refuses one by one, and none that it takes: it is not
# the returns. Errors of classes 22 and 23 do not count: they name a value or a constraint, and
# never mean that the database is away; as many of them as there are are quarantined.
_REFUSED_IN_A_ROW: Final = 20
_RETRY_PENDING_SECONDS: Final = 0.1
_LOOK_FOR_RELEASES_SECONDS: Final = 2.0


class DatabaseBlockedError(Exception):
    """The database is there and refuses to apply returns; the message says what to mend."""


class Listener(Protocol):
    """Told of what happened, after it is committed."""

    async def done(self, connection: asyncpg.Connection, done: Done, started_ns: int) -> None:
        """Note what became of a batch.

        Args:
            connection: the batch's own, idle.
            done: what became of it.
            started_ns: when it was begun, Unix time.
        """

    def gap(self, partition: Partition, gap: Gap) -> None:
        """Note that records were not seen."""

    def pending(self, count: int) -> None:
        """Note how many returns wait for a locked order."""


@dataclass(slots=True)
class Streak:
    """How many returns in a row the database refused one by one; outlives a connection."""

    refused: int = 0


@dataclass(slots=True)
class Waiting:
    """Whether returns wait for locked orders, and when to look for some; all lanes share it.

    Attributes:
        likely: some may be there: look for them.
        retry_at, look_at: by the monotonic clock.
    """

    likely: bool = True
    retry_at: float = 0.0
    look_at: float = 0.0


class _OneByOneError(Exception):
    """The batch holds a return that the database refuses, or whose order is locked."""

    def __init__(self, error: Exception) -> None:
        super().__init__(without_values(error))
        self.error = error
        self.locked = classify(error) is Failure.LOCKED


@dataclass(slots=True)
class Returns:
    """The handler of the returns topic, on one database connection.

    Attributes:
        batch_records: waiting returns that are tried at once.
    """

    connection: asyncpg.Connection
    confirmation: Confirmation
    listener: Listener
    streak: Streak
    batch_records: int
    waiting: Waiting

    async def positions(
        self, logs: Mapping[Partition, LogBounds], *, truncated: bool
    ) -> Mapping[Partition, Start]:
        """Say where each partition starts."""
        offsets = self.confirmation.offsets
        starts, gaps = await offsets.open(self.connection, logs, truncated=truncated)
        for partition, gap in gaps:
            self.listener.gap(partition, gap)
        self.waiting.likely, self.waiting.retry_at = True, 0.0
        return starts

    async def other_log(self, partition: Partition, log_bounds: LogBounds) -> None:
        """Start a partition anew."""
        gap = await self.confirmation.offsets.restart(self.connection, partition, log_bounds)
        if gap is not None:
            self.listener.gap(partition, gap)

    async def read(self, parts: Sequence[Part]) -> Batch:
        """Read a poll's records, while the database works on those before."""
        return await self.confirmation.read(parts)

    async def handle(self, work: Batch) -> None:
        """Handle what a poll brought: as a whole or, if the database refuses that, by halves.

        Raises:
            PartitionLostError: another consumer moved an offset.
            DatabaseBlockedError: the database refuses everything.
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError: the connection is gone.
        """
        todo = [work]
        while todo:
            batch = todo.pop()
            started_ns = time.time_ns()
            try:
                done = await self._patiently(
                    partial(self.confirmation.batch, self.connection, batch)
                )
                self.streak.refused = 0
            except _OneByOneError as found:
                if count_records(batch.parts) > 1:
                    first, second = halves(batch.parts)
                    todo += [await self.read(second), await self.read(first)]
                    continue
                done = await self._single(batch.parts[0], found)
            await self.listener.done(self.connection, done, started_ns)
            self.waiting.likely = self.waiting.likely or bool(done.waiting)

    async def _single(self, part: Part, found: _OneByOneError) -> Done:
        confirmation, connection = self.confirmation, self.connection
        if found.locked:
            try:
                return await self._patiently(partial(confirmation.let_wait, connection, part))
            except _OneByOneError as refused:
                found = refused
        refusal = self._refusal(part.records[0], found)
        return await self._set_aside(refusal, partial(confirmation.refuse, connection, part))

    def _refusal(self, record: Record, found: _OneByOneError) -> Refusal:
        """Refuse a return that the database refuses, unless it refuses one after the other."""
        read = self.confirmation.reader.read(record)
        if isinstance(read, Refusal):
            return read  # the database had nothing to do with it
        if not about_a_value(found.error):
            if self.streak.refused >= _REFUSED_IN_A_ROW:
                raise DatabaseBlockedError(
                    f"the database refused {self.streak.refused} returns in a row ({found}): fix "
                    "that, or start `relay confirm` again to quarantine as many more"
                )
            self.streak.refused += 1
        log.warning(
            "return_refused_by_database",
            order_id=read.order_id,
            partition=record.partition,
            offset=record.offset,
            error=str(found),
        )
        return Refusal(record, Reason.APPLY_FAILED, str(found), read.order_id)

    async def _set_aside(
        self, refusal: Refusal, write: Callable[[Refusal], Awaitable[Done]]
    ) -> Done:
        """Quarantine a return; its place alone, if the database does not take the record.

        Raises:
            PartitionBlockedError: not even that.
        """
        try:
            return await self._patiently(partial(write, refusal))
        except _OneByOneError as error:
            refused = error
        record = refusal.record
        log.error(
            "refused_return_not_kept",
            partition=record.partition,
            offset=record.offset,
            error=str(refused),
        )
        try:
            return await self._patiently(partial(write, place_only(refusal, str(refused))))
        except _OneByOneError as error:
            raise PartitionBlockedError(
                Partition(record.topic, record.partition),
                f"at offset {record.offset}: the database refuses to note what stands there "
                f"({error})",
            ) from error

    async def idle(self, owned: Collection[Partition]) -> float:
        """Decide waiting returns whose orders are free; return when to be asked again."""
        now = time.monotonic()
        if now >= self.waiting.look_at:
            self.waiting.look_at = now + _LOOK_FOR_RELEASES_SECONDS
            offsets = self.confirmation.offsets
            where = (self.connection, offsets.group, offsets.topic, owned)
            await self.confirmation.room.look_again(self.connection, offsets.group)
            # `relay replay returns` puts some there, too.
            if await release_requested(*where) or await count_pending(*where):
                self.waiting.likely = True
        if not self.waiting.likely:
            return _LOOK_FOR_RELEASES_SECONDS
        if now >= self.waiting.retry_at:
            await self._retry_pending(owned)
            self.waiting.retry_at = time.monotonic() + _RETRY_PENDING_SECONDS
        return _RETRY_PENDING_SECONDS

    async def _retry_pending(self, owned: Collection[Partition]) -> None:
        limit = self.batch_records
        for _ in range(_PENDING_ROUNDS):
            due = await self.confirmation.due(self.connection, owned, limit)
            if not due:
                break
            started_ns = time.time_ns()
            try:
                done = await self._patiently(
                    partial(self.confirmation.retry, self.connection, owned, due)
                )
            except _OneByOneError as found:
                if len(due) > 1:
                    # What is due is asked for again each time: nobody overtakes his own order.
                    limit = len(due) // 2
                    continue
                done = await self._single_pending(owned, due[0], found)
            await self.listener.done(self.connection, done, started_ns)
        offsets = self.confirmation.offsets
        count = await count_pending(self.connection, offsets.group, offsets.topic, owned)
        self.waiting.likely = count > 0
        self.listener.pending(count)

    async def _single_pending(
        self, owned: Collection[Partition], pending: Pending, found: _OneByOneError
    ) -> Done:
        confirmation, connection = self.confirmation, self.connection
        if found.locked:
            return await self._patiently(
                partial(confirmation.keep_waiting, connection, pending.order_id)
            )
        refusal = self._refusal(pending.record, found)
        return await self._set_aside(
            refusal, partial(confirmation.refuse_pending, connection, owned, pending)
        )

    async def _patiently(self, attempt: Callable[[], Awaitable[Done]]) -> Done:
        """Try a transaction until it is clear what it comes to."""
        last: Exception | None = None
        for number in range(_RETRIES):
            try:
                return await attempt()
            except PartitionLostError:
                raise
            except Exception as error:
                last = error
                match classify(error):
                    case Failure.AWAY:
                        raise
                    case Failure.BLOCKED:
                        break
                    case Failure.REFUSED | Failure.LOCKED:
                        raise _OneByOneError(error) from error
                    case Failure.RETRY:
                        log.info("batch_tried_again", error=without_values(error))
                        await asyncio.sleep(_FIRST_RETRY_SECONDS * 2**number)
        if last is None:
            raise ValueError("a transaction is tried once at least")
        raise DatabaseBlockedError(described(last)) from last
