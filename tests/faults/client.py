"""The order service of the fault suite: places orders and notes on them, and keeps the journal.

It locks an order before it appends to it, as the contract says (here: the order's row of its own
counter). Some transactions are rolled back, some are held open while others go on, some orders get
many events at once from several connections.
"""

import asyncio
import contextlib
import json
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from tests.faults.journal import Intent, Journal, Kind, Outcome

TABLES = """
CREATE TABLE client_counter (order_id text PRIMARY KEY, version int NOT NULL);
CREATE TABLE client_transaction (transaction_id text PRIMARY KEY);
"""
_PLACE = """
INSERT INTO orders (order_id, customer_id, items, total, currency)
SELECT id, 'fault-suite', '[]', t, 'EUR' FROM unnest($1::uuid[], $2::numeric[]) AS o(id, t)
"""
_COUNT = "INSERT INTO client_counter SELECT id, 0 FROM unnest($1::text[]) AS o(id)"
_NEXT = "UPDATE client_counter SET version = version + 1 WHERE order_id = $1 RETURNING version"
_APPEND = """
INSERT INTO relay.outbox
       (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::text[], $6::json[])
"""
_DONE = "INSERT INTO client_transaction VALUES ($1)"
_KNOWN = "SELECT transaction_id FROM client_transaction WHERE transaction_id = ANY ($1::text[])"

EVENT_TYPES: dict[Kind, str] = {
    "placed": "order.placed",
    "noted": "order.noted",
    "too_large": "order.noted",
    "no_topic": "order.unheard_of",
}
TOO_LARGE_BYTES = 300_000
_SLOWLY_SECONDS = 0.3
_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


@dataclass(frozen=True)
class Habits:
    """How the client behaves."""

    orders: int = 500
    hot_orders: int = 6
    writers: int = 6
    seconds: float = 5.0
    rolled_back: float = 0.08
    held: float = 0.02
    held_seconds: float = 1.5
    bad: int = 0


@dataclass
class Client:
    """Writes through `dsn` until all is placed, whatever happens to its connections."""

    dsn: str
    journal: Journal
    habits: Habits
    luck: random.Random
    placed: list[str] = field(default_factory=list)
    hot: list[str] = field(default_factory=list)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    committed_at: dict[str, float] = field(default_factory=dict)
    _left: int = 0

    async def run(self) -> None:
        """Place `habits.orders` orders in about `habits.seconds`, and then a few until `enough`."""
        self._left = self.habits.orders
        writers = [
            asyncio.create_task(self._writer(random.Random(self.luck.random())))
            for _ in range(self.habits.writers)
        ]
        bad = [
            asyncio.create_task(self._bad_order(kind))
            for kind in self.luck.choices(["too_large", "no_topic"], k=self.habits.bad)
        ]
        await asyncio.gather(*writers, *bad)

    async def _writer(self, luck: random.Random) -> None:
        pause_seconds = self.habits.seconds * self.habits.writers / self.habits.orders
        connection = await self._connect()
        try:
            while self._left > 0 or not self.enough.is_set():
                self._left -= 1
                if self._left < 0:
                    await asyncio.sleep(_SLOWLY_SECONDS)
                try:
                    await self._one(connection, luck)
                except _AWAY:
                    connection.terminate()
                    connection = await self._connect()
                await asyncio.sleep(pause_seconds * 1.4 * luck.random())
        finally:
            connection.terminate()

    async def _connect(self) -> asyncpg.Connection:
        while True:
            with contextlib.suppress(*_AWAY, TimeoutError):
                return await asyncpg.connect(self.dsn, timeout=5, command_timeout=20)
            await asyncio.sleep(0.2)

    async def _one(self, connection: asyncpg.Connection, luck: random.Random) -> None:
        order_id = str(uuid.uuid4())
        await self._transaction(connection, luck, [(order_id, "placed")], new=True)
        if len(self.hot) < self.habits.hot_orders:
            self.hot.append(order_id)
        if luck.random() < 0.3:
            await self._transaction(connection, luck, [(order_id, "noted")] * luck.randint(1, 3))
        if luck.random() < 0.5:
            await self._transaction(connection, luck, [(luck.choice(self.hot), "noted")])

    async def _bad_order(self, kind: Kind) -> None:
        """Place an order whose second event cannot be sent: it and what follows must wait."""
        order_id = str(uuid.uuid4())
        calm = random.Random(0)
        for new, kinds in ((True, ["placed"]), (False, [kind]), (False, ["noted", "noted"])):
            events = [(order_id, one) for one in kinds]
            while not await self._surely(calm, events, new=new):  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    async def _surely(
        self, luck: random.Random, events: Sequence[tuple[str, Kind]], *, new: bool
    ) -> bool:
        connection = await self._connect()
        try:
            return await self._transaction(connection, luck, events, new=new, calm=True)
        except _AWAY:
            return False
        finally:
            connection.terminate()

    async def _transaction(
        self,
        connection: asyncpg.Connection,
        luck: random.Random,
        events: Sequence[tuple[str, Kind]],
        *,
        new: bool = False,
        calm: bool = False,
    ) -> bool:
        """Run one transaction; whether it is known to have committed."""
        transaction_id = str(uuid.uuid4())
        transaction = connection.transaction()
        await transaction.start()
        try:
            intents = await self._append(connection, luck, events, new=new)
            if not intents:
                await transaction.rollback()
                return False
            await connection.execute(_DONE, transaction_id)
            await self.journal.intend(transaction_id, intents)
        except _AWAY:
            with contextlib.suppress(*_AWAY):
                await transaction.rollback()
            raise
        if not calm and luck.random() < self.habits.held:
            await asyncio.sleep(self.habits.held_seconds * luck.random())
        if not calm and luck.random() < self.habits.rolled_back:
            await self.journal.outcome(transaction_id, "rolled_back")
            await transaction.rollback()
            return False
        committed = await self._commit(transaction, transaction_id, events, new=new)
        self.committed_at |= dict.fromkeys((one.event_id for one in intents), time.monotonic())
        return committed

    async def _commit(
        self,
        transaction: asyncpg.transaction.Transaction,
        transaction_id: str,
        events: Sequence[tuple[str, Kind]],
        *,
        new: bool,
    ) -> bool:
        outcome: Outcome = "unknown"
        try:
            await transaction.commit()
            outcome = "committed"
        finally:
            await self.journal.outcome(transaction_id, outcome)
        if new:
            self.placed += [order_id for order_id, _ in events]
        return True

    async def _append(
        self,
        connection: asyncpg.Connection,
        luck: random.Random,
        events: Sequence[tuple[str, Kind]],
        *,
        new: bool,
    ) -> list[Intent]:
        total = luck.choice([5, 50, 500, 20_000])
        if new:
            order_ids = [order_id for order_id, _ in events]
            await connection.execute(_PLACE, order_ids, [total] * len(order_ids))
            await connection.execute(_COUNT, order_ids)
        intents = []
        for order_id, kind in events:
            version = await connection.fetchval(_NEXT, order_id)
            if version is not None:
                intents.append(Intent(str(uuid.uuid4()), order_id, version, kind))
        payloads = [json.dumps(_payload(one, total)) for one in intents]
        await connection.execute(
            _APPEND,
            [one.event_id for one in intents],
            ["order"] * len(intents),
            [one.order_id for one in intents],
            [one.version for one in intents],
            [EVENT_TYPES[one.kind] for one in intents],
            payloads,
        )
        return intents


def _payload(intent: Intent, total: int) -> dict[str, object]:
    said: dict[str, object] = {
        "order_id": intent.order_id,
        "version": intent.version,
        "customer_id": "fault-suite",
        "items": [],
        "total": str(total),
        "currency": "EUR",
    }
    if intent.kind == "too_large":
        said["note"] = "x" * TOO_LARGE_BYTES
    return said


async def known_transactions(dsn: str, asked: Sequence[str]) -> set[str]:
    """Ask the client's own table which transactions of unknown outcome were committed."""
    connection = await asyncpg.connect(dsn)
    try:
        return {row[0] for row in await connection.fetch(_KNOWN, list(asked))}
    finally:
        await connection.close()
