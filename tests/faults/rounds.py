"""One round: a client places orders while faults hit; then all must drain, and is judged."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from relay.embedded import EmbeddedPostgres
from tests.faults.client import Client, Habits, known_transactions
from tests.faults.journal import Intent
from tests.faults.judge import (
    TERMINAL,
    Violation,
    duplicates,
    judge_epochs,
    judge_events,
    judge_orders,
    parked_events,
)
from tests.faults.kinds import Kind
from tests.faults.stage import RETURNS, Stage, luck_of, until

DRAIN_SECONDS = 90.0
_RECOVERY_SECONDS = 60.0

_STATUSES = "SELECT order_id::text, status FROM orders WHERE order_id = ANY ($1::uuid[])"
_HISTORY = """
SELECT order_id::text, old_status, new_status FROM order_status_history
 WHERE order_id = ANY ($1::uuid[]) ORDER BY history_id
"""
_HANDLED = "SELECT partition, next_offset FROM relay.consumer_offset WHERE topic = $1"
# By time: maintenance joins rows, and the joined one has a new id and the time of its first record.
_EPOCHS = "SELECT epoch FROM relay.delivery_ledger ORDER BY published_at, ledger_id"
_CHECKPOINT = """
SELECT epoch, seq, pg_snapshot_xmax(coalesce(cur, prev))::text::bigint AS xmax
  FROM relay.checkpoint
"""


@dataclass
class Result:
    """What came of a round."""

    number: int
    kinds: list[str]
    orders: int = 0
    events: int = 0
    duplicates: int = 0
    seconds: float = 0.0
    recovery: dict[str, float] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)


@dataclass
class Round:
    """One round on a stage."""

    stage: Stage
    seed: int
    number: int
    kinds: Sequence[Kind]
    habits: Habits
    _violations: list[Violation] = field(default_factory=list)

    async def play(self) -> Result:
        began = time.monotonic()
        luck = luck_of(self.seed, self.number)
        result = Result(self.number, [kind.name for kind in self.kinds])
        watching = asyncio.create_task(Watch(self.stage, self._violations).run())
        client = Client(self.stage.client_dsn, self.stage.journal, self.habits, luck)
        placing = asyncio.create_task(client.run())
        try:
            # One that breaks takes the others with it: they would start programs after the end.
            async with asyncio.TaskGroup() as faults:
                for kind in self.kinds:
                    faults.create_task(self._fault(kind, result))
            client.enough.set()
            await self._placed(placing)
            await self.stage.everybody_up()
            await self._drain(result)
        finally:
            for task in (watching, placing):
                task.cancel()
            await asyncio.gather(watching, placing, return_exceptions=True)
        result.violations += self._violations
        result.seconds = time.monotonic() - began
        return result

    async def _placed(self, placing: "asyncio.Task[None]") -> None:
        """Wait until the client has placed everything; a slow machine needs its time."""
        patience = self.habits.seconds + 60 + 0.1 * self.habits.orders
        _, late = await asyncio.wait([placing], timeout=patience)
        if late:
            self._violations.append(Violation("no recovery", f"the client, in {patience:.0f} s"))
        else:
            placing.result()

    async def _fault(self, kind: Kind, result: Result) -> None:
        luck = luck_of(self.seed, f"{self.number}/{kind.name}")
        await asyncio.sleep(luck.uniform(0.5, self.habits.seconds * 0.6))
        await kind.act(self.stage, luck)
        counted_from = time.monotonic()
        # Two faults may have killed both of a kind, to be started again at the round's end only.
        await self.stage.somebody_up()
        self.stage.truth.read(self.stage.journal.path)
        known = len(self.stage.truth.outcomes)
        # An order committed after the fault, and all before it, must have come through.
        if not await until(lambda: self._news(known), _RECOVERY_SECONDS):
            self._violations.append(Violation("no recovery", f"{kind.name}: the client's own"))
        before = await self._committed_until_now()
        passed = await until(lambda: self._passed(kind.hop, before), _RECOVERY_SECONDS)
        seconds = time.monotonic() - counted_from
        if passed is None:
            self._violations.append(
                Violation("no recovery", f"{kind.name}: not in {seconds:.0f} s")
            )
        # With another fault at the same time it is not this one's recovery that was measured.
        if len(self.kinds) == 1:
            result.recovery[kind.name] = seconds

    async def _news(self, known: int) -> bool:
        """Whether the client was told of a commit meanwhile."""
        truth = self.stage.truth
        truth.read(self.stage.journal.path)
        return "committed" in list(truth.outcomes.values())[known:]

    async def _committed_until_now(self) -> list[Intent]:
        self.stage.truth.read(self.stage.journal.path)
        committed = list(self.stage.truth.committed())
        parked = parked_events(committed)
        return [one for one in committed[-5000:] if one.event_id not in parked]

    async def _passed(self, hop: int, events: Sequence[Intent]) -> bool:
        published = self.stage.events.ids()
        if any(one.event_id not in published for one in events):
            return False
        if hop == 2:
            return True
        orders = [one.order_id for one in events if one.kind == "placed"]
        rows = await self.stage.fetch(_STATUSES, orders)
        return len(rows) == len(orders) and all(row["status"] in TERMINAL for row in rows)

    async def judged(self) -> Result:
        """Wait until all that was placed before is through, and judge it."""
        result = Result(self.number, [])
        await self._drain(result)
        result.violations += self._violations
        return result

    # --- the end of a round

    async def _drain(self, result: Result) -> None:
        stage = self.stage
        await until(lambda: stage.fetch("SELECT 1"), DRAIN_SECONDS)
        events = await self._resolved()
        drained = await until(lambda: self._passed(5, events), DRAIN_SECONDS)
        handled = await until(self._returns_handled, DRAIN_SECONDS)
        if drained is None or handled is None:
            self._violations.append(Violation("not drained", f"within {DRAIN_SECONDS:g} s"))
        await self._judge(result)

    async def _resolved(self) -> list[Intent]:
        stage = self.stage
        stage.truth.read(stage.journal.path)
        asked = stage.truth.unresolved()
        stage.truth.resolve(await known_transactions(stage.dsn, asked), asked)
        return await self._committed_until_now()

    async def _returns_handled(self) -> bool:
        """Whether the system has handled all returns, and the foreign reader has read them."""
        rows = await self.stage.fetch(_HANDLED, RETURNS)
        handled = {row["partition"]: row["next_offset"] for row in rows if row["next_offset"]}
        read = {number: end for number, end in self.stage.returns.next_offsets.items() if end}
        return handled == read and not await self.stage.fetch(
            "SELECT 1 FROM relay.pending_return LIMIT 1"
        )

    async def _judge(self, result: Result) -> None:
        stage = self.stage
        committed = list(stage.truth.committed())
        records = list(stage.events.records)
        placed = [one.order_id for one in committed if one.kind == "placed"]
        rows = await stage.fetch(_STATUSES, placed)
        history: dict[str, list[tuple[str, str]]] = {}
        for row in await stage.fetch(_HISTORY, placed):
            steps = history.setdefault(row["order_id"], [])
            steps.append((row["old_status"], row["new_status"]))
        epochs = [row["epoch"] for row in await stage.fetch(_EPOCHS)]
        lost = stage.truth.lost_events()
        rolled_back = stage.truth.rolled_back()
        found = judge_events(committed, rolled_back, records, lost_by_failover=lost)
        found += judge_orders(placed, list(stage.returns.records), dict(rows), history)
        found += judge_epochs(epochs)
        found += [Violation("the reader met an error", text) for text in stage.reader.errors]
        self._violations += found
        result.orders, result.events = len(placed), len(committed)
        result.duplicates = duplicates(records)


@dataclass
class Watch:
    """Looks many times a second whether the checkpoint or an offset ever moves backwards."""

    stage: Stage
    violations: list[Violation]
    _checkpoint: tuple[int, ...] = ()
    _offsets: dict[int, int] = field(default_factory=dict)
    _crashes: int = 0
    _server: EmbeddedPostgres | None = None

    async def run(self) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError,
                                     asyncpg.InterfaceError):  # fmt: skip
                connection = await asyncpg.connect(self.stage.dsn, timeout=5, command_timeout=10)
                try:
                    await self._look(connection)
                finally:
                    connection.terminate()
            await asyncio.sleep(0.2)

    async def _look(self, connection: asyncpg.Connection) -> None:
        if self._server is not self.stage.postgres:
            # A standby that lagged: what it lacks was never so.
            self._server, self._checkpoint, self._offsets = self.stage.postgres, (), {}
        crashes = self.stage.postgres_crashes
        if crashes != self._crashes:
            # Written with synchronous_commit=off: a crash of PostgreSQL may take the last of it.
            self._crashes, self._checkpoint = crashes, ()
        while True:
            self._judge_checkpoint(tuple(await connection.fetchrow(_CHECKPOINT)))
            for number, at in await connection.fetch(_HANDLED, RETURNS):
                if at < self._offsets.get(number, 0):
                    what = f"partition {number}: {self._offsets[number]}, then {at}"
                    self.violations.append(Violation("an offset went backwards", what))
                self._offsets[number] = at
            await asyncio.sleep(0.05)

    def _judge_checkpoint(self, now: tuple[int, ...]) -> None:
        before, self._checkpoint = self._checkpoint, now
        if any(new < old for old, new in zip(before, now, strict=False)):
            what = f"(epoch, seq, xmax) {before}, then {now}"
            self.violations.append(Violation("the checkpoint went backwards", what))
