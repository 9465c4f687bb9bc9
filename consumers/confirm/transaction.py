"""Hop 5: one transaction: offsets, inbox, statuses, what waits, what is refused: all or nothing.

Invariant: the three guards of the design meet here. The offset moves only from where this consumer
believes it to be; an identity enters the inbox once; a status moves forward only, under its order's
lock. Whatever fails, nothing of the batch is written, and it is handled again from its start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from relay.consumers.apply.applying import Applier, Decided, Identified
from relay.consumers.apply.columns import StatusNotKeptError
from relay.consumers.apply.inbox import look_up
from relay.consumers.confirm.names import held_for_names, naming_others
from relay.consumers.confirm.pending import (
    Pending,
    drop_pending,
    due_pending,
    postpone,
    put_pending,
    waiting_orders,
)
from relay.consumers.confirm.quarantine import write_quarantine
from relay.consumers.confirm.quarantine_room import QuarantineRoom
from relay.consumers.returns.fold import Step, refusal
from relay.consumers.returns.identity import sort_copies
from relay.consumers.returns.reader import Return, ReturnReader
from relay.consumers.returns.refusals import Reason, Refusal
from relay.kafka.consumer.handler import Part
from relay.kafka.consumer.offset_store import OffsetStore
from relay.kafka.consumer.partitions import Record
from relay.kafka.partition import Partition
from relay.runtime.flow import NamesDiffer

_CAUTIOUS_BATCHES: Final = 50
# A statement's answer waits at most so long for the next one to leave: 1-2 ms.
_READ_AT_ONCE: Final = 200


@dataclass(slots=True)
class Done:
    """What became of a batch, for spans, metrics and logs.

    Attributes:
        steps: decided, whether the status changed or not.
        copies: handled before, and dropped.
        waiting: of locked orders; decided later.
        misnamed: applied, though their key or ce_subject names another open order.
        submitted: when each order was submitted, Unix time, where that is known.
    """

    steps: list[Step] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    copies: list[Return] = field(default_factory=list)
    waiting: list[Return] = field(default_factory=list)
    misnamed: list[Return] = field(default_factory=list)
    submitted: dict[str, float | None] = field(default_factory=dict)

    def add(self, decided: Decided) -> None:
        """Add what was decided."""
        self.steps += decided.steps + decided.canaries
        self.refused += decided.refused
        self.waiting += decided.locked
        self.submitted |= decided.submitted


@dataclass(frozen=True, slots=True)
class Batch:
    """What a poll brought, read."""

    parts: Sequence[Part]
    readable: Sequence[Return]
    refused: Sequence[Refusal]


Unkept = dict[str, str]
"""Orders whose status does not stand once it is written, and what does, in words."""


class _DoubtError(Exception):
    """A return would be refused, or is in the inbox: look copies up before deciding."""


@dataclass(slots=True)
class Caution:
    """Whether copies are looked up first: after one was met, for the next batches."""

    batches: int = 0

    def met_copy(self) -> None:
        """Look copies up in the next batches."""
        self.batches = _CAUTIOUS_BATCHES

    def next(self) -> bool:
        """Say whether the next batch looks copies up."""
        if self.batches:
            self.batches -= 1
            return True
        return False


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Applies returns of one flow.

    Attributes:
        trim: makes a record small that was just read.
        room: how much the quarantine takes.
        names_differ: what becomes of a return that names several open orders.
    """

    reader: ReturnReader
    applier: Applier
    offsets: OffsetStore
    trim: Callable[[Any], Any]
    room: QuarantineRoom = field(default_factory=QuarantineRoom)
    names_differ: NamesDiffer = "hold"
    caution: Caution = field(default_factory=Caution)

    async def read(self, parts: Sequence[Part]) -> Batch:
        """Read the records of a poll, leaving the event loop to others now and then.

        Raises:
            DecoderUnavailableError: they cannot be read now.
        """
        records = [record for part in parts for record in part.records]
        readable: list[Return] = []
        refused: list[Refusal] = []
        for first in range(0, len(records), _READ_AT_ONCE):
            chunk = records[first : first + _READ_AT_ONCE]
            await self.reader.prepare(chunk)
            some, wrong = self._read(chunk)
            readable += some
            refused += wrong
            await asyncio.sleep(0)
        return Batch(parts, readable, refused)

    async def batch(self, connection: asyncpg.Connection, batch: Batch) -> Done:
        """Handle what a poll brought.

        Raises:
            PartitionLostError: another consumer moved an offset.
        """
        careful, unkept = self.caution.next(), Unkept()
        while True:
            try:
                done = await self._batch(connection, batch, careful=careful, unkept=unkept)
            except StatusNotKeptError as error:
                # Each time of other orders: those that are known are not tried again.
                unkept |= error.orders
            except (_DoubtError, asyncpg.UniqueViolationError):
                if careful:
                    raise
                self.caution.met_copy()
            else:
                break
            careful = True
        if done.copies:
            self.caution.met_copy()
        return done

    async def _batch(
        self, connection: asyncpg.Connection, batch: Batch, *, careful: bool, unkept: Unkept
    ) -> Done:
        parts = batch.parts
        async with connection.transaction():
            await self.offsets.advance(connection, parts)
            done = await self._decide(
                connection, batch, parts[0].topic_id, careful=careful, unkept=unkept
            )
            await put_pending(connection, self.offsets.group, done.waiting)
        self.offsets.advanced(parts)
        return done

    async def refuse(self, connection: asyncpg.Connection, part: Part, refusal: Refusal) -> Done:
        """Handle a part of one record by quarantining it."""
        async with connection.transaction():
            await self.offsets.advance(connection, [part])
            await write_quarantine(
                connection, self.offsets.group, self.offsets.topic, [refusal], self.room
            )
        self.offsets.advanced([part])
        return Done(refused=[refusal])

    async def let_wait(self, connection: asyncpg.Connection, part: Part) -> Done:
        """Handle a part of one record, whose order is locked, by letting it wait."""
        returned = self.reader.read(part.records[0])
        assert isinstance(returned, Return), "only what could be read was tried"
        async with connection.transaction():
            await self.offsets.advance(connection, [part])
            await put_pending(connection, self.offsets.group, [returned])
        self.offsets.advanced([part])
        return Done(waiting=[returned])

    async def due(
        self, connection: asyncpg.Connection, owned: Collection[Partition], limit: int
    ) -> list[Pending]:
        """Return which waiting returns of these partitions are due."""
        return await due_pending(connection, self.offsets.group, self.offsets.topic, owned, limit)

    async def retry(
        self,
        connection: asyncpg.Connection,
        owned: Collection[Partition],
        due: Sequence[Pending],
    ) -> Done:
        """Decide waiting returns whose orders are free by now.

        Raises:
            PartitionLostError: another consumer moved an offset.
        """
        await self.reader.prepare(one.record for one in due)
        batch, unkept = Batch((), *self._read(one.record for one in due)), Unkept()
        while True:
            try:
                return await self._retry(connection, owned, due, batch, unkept)
            except StatusNotKeptError as error:
                unkept |= error.orders

    async def _retry(
        self,
        connection: asyncpg.Connection,
        owned: Collection[Partition],
        due: Sequence[Pending],
        batch: Batch,
        unkept: Unkept,
    ) -> Done:
        async with connection.transaction():
            await self.offsets.hold(connection, owned)
            done = await self._decide(
                connection, batch, None, careful=True, unkept=unkept, waited=True
            )
            still = {id(one.record) for one in done.waiting}
            decided = [one.pending_id for one in due if id(one.record) not in still]
            await drop_pending(connection, decided)
            locked = {one.order_id for one in done.waiting}
            await postpone(connection, self.offsets.group, locked)
        return done

    async def refuse_pending(
        self,
        connection: asyncpg.Connection,
        owned: Collection[Partition],
        pending: Pending,
        refusal: Refusal,
    ) -> Done:
        """Quarantine a waiting return that the database refuses."""
        async with connection.transaction():
            await self.offsets.hold(connection, owned)
            await write_quarantine(
                connection, self.offsets.group, self.offsets.topic, [refusal], self.room
            )
            await drop_pending(connection, [pending.pending_id])
        return Done(refused=[refusal])

    async def keep_waiting(self, connection: asyncpg.Connection, order_id: str) -> Done:
        """Look at an order's waiting returns again later."""
        await postpone(connection, self.offsets.group, {order_id})
        return Done()

    def _read(self, records: Iterable[Record]) -> tuple[list[Return], list[Refusal]]:
        readable: list[Return] = []
        refused: list[Refusal] = []
        for record in records:
            found = self.reader.read(record)
            if isinstance(found, Return):
                readable.append(found)
            else:
                refused.append(found)
        return readable, refused

    async def _decide(
        self,
        connection: asyncpg.Connection,
        batch: Batch,
        topic_id: str | None,
        *,
        careful: bool,
        unkept: Unkept,
        waited: bool = False,
    ) -> Done:
        done, decided = Done(refused=list(batch.refused)), Decided()
        if batch.readable:
            ready = batch.readable if waited else await self._in_turn(connection, batch, done)
            if careful:
                found = await look_up(connection, ready, topic_id)
            else:
                found = sort_copies(ready, {}, topic_id)
            done.copies = found.copies
            fresh = [one for one in found.fresh if one[1].order_id not in unkept]
            fresh = await self._named_alike(connection, fresh, done, careful=careful)
            done.refused += [
                refusal(one, name, Reason.STATUS_NOT_KEPT, unkept[one.order_id])
                for name, one in found.fresh
                if one.order_id in unkept
            ]
            if fresh:
                decided = await self.applier.decide(connection, fresh)
            if decided.refused and not careful:
                raise _DoubtError
        await self.applier.write(connection, self.offsets.group, decided)
        done.add(decided)
        await write_quarantine(
            connection, self.offsets.group, self.offsets.topic, done.refused, self.room
        )
        return done

    async def _named_alike(
        self, connection: asyncpg.Connection, fresh: list[Identified], done: Done, *, careful: bool
    ) -> list[Identified]:
        """Set aside returns that name several open orders, or count them where they are applied."""
        if self.names_differ == "ignore":
            return fresh
        group = self.offsets.group
        others = await naming_others(connection, self.applier, group, fresh)
        if self.names_differ == "apply":
            done.misnamed += [one for _, one in others]
            return fresh
        if others and not careful:
            raise _DoubtError
        done.refused += [held_for_names(name, one) for name, one in others]
        held = {id(one) for _, one in others}
        return [one for one in fresh if id(one[1]) not in held]

    async def _in_turn(
        self, connection: asyncpg.Connection, batch: Batch, done: Done
    ) -> Sequence[Return]:
        """Set aside returns whose order has one waiting already: they must not overtake it."""
        waiting = await waiting_orders(connection, self.offsets.group, batch.readable)
        if not waiting:
            return batch.readable
        done.waiting = [one for one in batch.readable if one.order_id in waiting]
        return [one for one in batch.readable if one.order_id not in waiting]
