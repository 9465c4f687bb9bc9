"""Hop 5: one transaction: offsets, inbox, statuses, what waits, what is refused: all or nothing.

Invariant: the three guards of the design meet here. The offset moves only from where this consumer
believes it to be; an identity enters the inbox once; a status moves forward only, under its order's
lock. Whatever fails, nothing of the batch is written, and it is handled again from its start.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import asyncpg

from consumers.applying import Applier, Decided, Identified
from consumers.books import Books
from consumers.fold import Step
from consumers.handler import Part
from consumers.inbox import sort_out, write_inbox
from consumers.partitions import Partition, Record
from consumers.pending import (
    Pending,
    drop_pending,
    due_pending,
    postpone,
    put_pending,
    waiting_orders,
)
from consumers.quarantine import write_quarantine
from consumers.refusals import Refusal
from consumers.returns import Return, ReturnReader


@dataclass(slots=True)
class Done:
    """What became of a batch, for spans, metrics and logs.

    Attributes:
        steps: decided, whether the status changed or not.
        copies: handled before, and dropped.
        waiting: of locked orders; decided later.
        submitted: when each order was submitted, Unix time, where that is known.
    """

    steps: list[Step] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    copies: list[Return] = field(default_factory=list)
    waiting: list[Return] = field(default_factory=list)
    submitted: dict[str, float | None] = field(default_factory=dict)

    @property
    def decided(self) -> int:
        """How many returns are done with."""
        return len(self.steps) + len(self.refused) + len(self.copies)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Applies returns of one flow on one connection."""

    reader: ReturnReader
    applier: Applier
    books: Books

    async def batch(self, connection: asyncpg.Connection, parts: Sequence[Part]) -> Done:
        """Handle what a poll brought.

        Raises:
            PartitionLostError: another consumer moved an offset.
            InboxRaceError: another consumer handles a copy right now; try again.
        """
        readable, refused = self._read(record for part in parts for record in part.records)
        async with connection.transaction():
            await self.books.advance(connection, parts)
            done = await self._decide(connection, readable, refused, parts[0].topic_id)
            await put_pending(connection, self.books.group, done.waiting)
        self.books.advanced(parts)
        return done

    async def refuse(self, connection: asyncpg.Connection, part: Part, refusal: Refusal) -> Done:
        """Handle a part of one record by quarantining it."""
        async with connection.transaction():
            await self.books.advance(connection, [part])
            await write_quarantine(connection, self.books.group, self.books.topic, [refusal])
        self.books.advanced([part])
        return Done(refused=[refusal])

    async def let_wait(self, connection: asyncpg.Connection, part: Part) -> Done:
        """Handle a part of one record, whose order is locked, by letting it wait."""
        returned = self.reader.read(part.records[0])
        assert isinstance(returned, Return), "only what could be read was tried"
        async with connection.transaction():
            await self.books.advance(connection, [part])
            await put_pending(connection, self.books.group, [returned])
        self.books.advanced([part])
        return Done(waiting=[returned])

    async def due(
        self, connection: asyncpg.Connection, owned: Collection[Partition], limit: int
    ) -> list[Pending]:
        """Return which waiting returns of these partitions are due."""
        return await due_pending(connection, self.books.group, self.books.topic, owned, limit)

    async def retry(
        self,
        connection: asyncpg.Connection,
        owned: Collection[Partition],
        due: Sequence[Pending],
    ) -> Done:
        """Decide waiting returns whose orders are free by now.

        Raises:
            PartitionLostError: another consumer moved an offset.
            InboxRaceError: another consumer handles a copy right now; try again.
        """
        readable, refused = self._read(one.record for one in due)
        async with connection.transaction():
            await self.books.hold(connection, owned)
            done = await self._decide(connection, readable, refused, None, waited=True)
            still = {id(one.record) for one in done.waiting}
            decided = [one.pending_id for one in due if id(one.record) not in still]
            await drop_pending(connection, decided)
            locked = {one.order_id for one in done.waiting}
            await postpone(connection, self.books.group, locked)
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
            await self.books.hold(connection, owned)
            await write_quarantine(connection, self.books.group, self.books.topic, [refusal])
            await drop_pending(connection, [pending.pending_id])
        return Done(refused=[refusal])

    async def keep_waiting(self, connection: asyncpg.Connection, order_id: str) -> Done:
        """Look at an order's waiting returns again later."""
        await postpone(connection, self.books.group, {order_id})
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
        readable: Sequence[Return],
        refused: Sequence[Refusal],
        topic_id: str | None,
        *,
        waited: bool = False,
    ) -> Done:
        done = Done(refused=list(refused))
        if readable:
            ready = list(readable) if waited else await self._in_turn(connection, readable, done)
            found = await sort_out(connection, ready, topic_id)
            done.copies = found.copies
            await self._apply(connection, found.fresh, done)
        group, topic = self.books.group, self.books.topic
        await write_inbox(connection, group, done.steps)
        await write_quarantine(connection, group, topic, done.refused)
        return done

    async def _in_turn(
        self, connection: asyncpg.Connection, readable: Sequence[Return], done: Done
    ) -> list[Return]:
        """Set aside returns whose order has one waiting already: they must not overtake it."""
        waiting = await waiting_orders(connection, self.books.group, readable)
        if not waiting:
            return list(readable)
        done.waiting = [one for one in readable if one.order_id in waiting]
        return [one for one in readable if one.order_id not in waiting]

    async def _apply(
        self, connection: asyncpg.Connection, fresh: Sequence[Identified], done: Done
    ) -> None:
        if not fresh:
            return
        decided: Decided = await self.applier.apply(connection, fresh)
        done.steps += decided.steps
        done.refused += decided.refused
        done.waiting += decided.locked
        done.submitted = decided.submitted
