"""The stage of a night: relay and consumer, beside an order service and a processor of others."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import psutil

from relay.diagnose.evidence.history import STEPS_OF_A_READER
from tests.corpus.world import World
from tests.nights.cast import Cast
from tests.nights.truth import HEALTHY, Journal, Truth
from tests.patience import patience

PROGRAM = Path(__file__).with_name("processor.py")
WAIT_SECONDS = 40
METADATA_MS = 500

_ORDER = """INSERT INTO orders (order_id, customer_id, items, total, currency, submitted_at)
VALUES ($1, $2, '[{"sku": "tea", "quantity": 1, "price": "9.95"}]', 9.95, 'EUR',
        clock_timestamp() + make_interval(hours => $3))"""
_EVENT = """INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
VALUES ('order', $1, $2, $3::json)"""
_TRIGGER = """CREATE FUNCTION public.to_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
    VALUES ('order', NEW.order_id::text, 'order.placed',
            json_build_object('order_id', NEW.order_id, 'customer_id', NEW.customer_id));
    RETURN NEW;
END $$;
CREATE TRIGGER to_outbox AFTER INSERT ON public.orders
    FOR EACH ROW EXECUTE FUNCTION public.to_outbox()"""


class Stage:
    """One night's loop.

    Attributes:
        faults: what the processor does to the orders of a customer.
        answers: the event types that it answers.
        dies: where the next processor that is started ends, at whose order, and how.
        metadata_ms: how often the processor looks for new partitions.
        stands: something is wrong until the end: no order comes back any more.
    """

    def __init__(self, world: World, cast: Cast, journal: Journal, folder: Path) -> None:
        self.world, self.cast, self.journal, self.folder = world, cast, journal, folder
        # Orders of other ids than in the same night with our relay: its topics may still be there,
        # and an answer to one of these would be found on them.
        whose = " elsewhere" if world.is_published_elsewhere else ""
        self.luck = Random(f"orders {journal.seed}{whose}")
        self.faults: dict[str, str] = {}
        self.answers = ["order.placed"]
        self.dies = ("", "", "")
        self.processor: subprocess.Popen[bytes] | None = None
        self.elsewhere = ""
        self.stands = False
        self.metadata_ms = METADATA_MS
        self._customers = 0
        self._processors = 0
        self._beside: list[subprocess.Popen[bytes]] = []
        self._last_at: Any = None

    # --- the loop

    async def open(self) -> None:
        """Start everything, and wait until it is at work."""
        world = self.world
        self.elsewhere = world.topics.create("order.replies", 1)
        types = {"order.placed": {"deadline_seconds": world.deadline_seconds}, "order.changed": {}}
        world.environment["RELAY_FLOW_EVENTS"] = json.dumps(types)
        if self.cast.writer == "trigger":
            await world.pg.execute(_TRIGGER)
        if self.cast.roles:
            await world.least_privilege()
        world.begin("relay"), world.begin("consumer")
        self.start_processor()
        await world.eventually(self._at_work, 60)
        if self.cast.processor == "assign":
            await self._is_seen_to_read()

    async def _is_seen_to_read(self) -> None:
        """Who is in no group is known by its offsets, which move in one position after another."""
        for _ in range(STEPS_OF_A_READER + 1):
            await self.healthy(2 * self.cast.events_partitions)
            await self.left_alone()

    async def _at_work(self) -> bool:
        ready = await self.world.pg.fetchval(
            """SELECT (SELECT epoch > 0 FROM relay.checkpoint) AND
                      (SELECT count(*) = $2 FROM relay.consumer_offset
                        WHERE consumer_group = $1)""",
            self.world.confirm_group,
            self.cast.returns_partitions,
        )
        return bool(ready) and self.has_partitions()

    def start_processor(self, **other: Any) -> None:
        """Start the foreign processor."""
        self.processor = self._program(other)

    def beside(self, **other: Any) -> "subprocess.Popen[bytes]":
        """Start a further processor, which nobody takes for the one that answers."""
        program = self._program({"journal": str(self.folder / "beside.jsonl")} | other)
        self._processors -= 1
        self._beside.append(program)
        return program

    def _program(self, other: dict[str, Any]) -> "subprocess.Popen[bytes]":
        world, cast = self.world, self.cast
        self._processors += 1
        plan = {
            "bootstrap": world.bootstrap,
            "kind": cast.processor,
            "commits": cast.commits,
            "partitioner": cast.partitioner,
            "style": cast.style,
            "group": world.group,
            "events": world.events,
            "returns": world.returns,
            "elsewhere": self.elsewhere,
            "begins": "earliest",
            "metadata_ms": self.metadata_ms,
            "transactional_id": f"processor-{world.topics.suffix}",
            "faults": self.faults,
            "answers": self.answers,
            "dies": self.dies[0],
            "dies_for": self.dies[1],
            "dies_how": self.dies[2],
            "journal": str(self._journal_path(self._processors)),
        } | other
        return subprocess.Popen(
            [sys.executable, str(PROGRAM), json.dumps(plan)], stdin=subprocess.DEVNULL
        )

    def _journal_path(self, number: int) -> Path:
        return self.folder / f"processor-{number}.jsonl"

    def seen(self, what: str, number: int | None = None) -> list[dict[str, Any]]:
        """Return what processors wrote down; by default all of them."""
        numbers = range(1, self._processors + 1) if number is None else [number]
        paths = [self._journal_path(one) for one in numbers]
        text = "".join(path.read_text("utf-8") for path in paths if path.exists())
        # The last line of a process that was killed may be a part.
        lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        return [line for line in lines if line["what"] == what]

    def has_partitions(self) -> bool:
        """Tell whether the newest processor has partitions."""
        return any(line["n"] for line in self.seen("assigned", self._processors))

    async def processor_joined(self) -> None:
        """Wait until the newest processor has partitions."""
        await self.world.eventually(self.has_partitions, WAIT_SECONDS)

    def processor_is_stopped(self) -> bool:
        """Tell whether the processor stands still, as SIGSTOP leaves it."""
        assert self.processor is not None
        return psutil.Process(self.processor.pid).status() == psutil.STATUS_STOPPED

    # --- what processes go through

    async def strike(self, process: str, how: str) -> None:
        """End (`stopped`, `killed`) or freeze a process; wait until nobody has its place."""
        self.journal.note(f"{process} {how}")
        if process != "processor":
            blow = {"stopped": "end", "killed": "kill", "frozen": "freeze"}[how]
            await asyncio.to_thread(getattr(self.world, blow), process)
            return
        assert self.processor is not None
        number = {"stopped": signal.SIGTERM, "killed": signal.SIGKILL, "frozen": signal.SIGSTOP}
        self.processor.send_signal(number[how])
        if how != "frozen":
            await asyncio.to_thread(self.processor.wait, 30 * patience())
            await self.group_is_empty()

    async def strike_gently(self) -> None:
        """End the processor, whatever state it is in."""
        assert self.processor is not None
        self.processor.send_signal(signal.SIGCONT)
        self.processor.terminate()
        await asyncio.to_thread(self.processor.wait, 30 * patience())
        await self.group_is_empty()

    async def group_is_empty(self) -> None:
        """Wait until the broker knows no member of the processor's group."""
        if self.cast.processor != "kip848":
            await self.world.until_group_is_empty(self.world.group)

    async def bring_back(self, process: str, how: str, **env: str) -> None:
        """Start a process that was struck, or let it go on."""
        self.journal.note(f"{process} back", **env)
        if process == "processor":
            assert self.processor is not None
            if how == "frozen":
                self.processor.send_signal(signal.SIGCONT)
            else:
                self.start_processor()
                await self.processor_joined()
        elif how == "frozen":
            self.world.thaw(process)
        else:
            self.world.begin(process, **env)

    def close(self) -> None:
        """End the processors."""
        for one in (self.processor, *self._beside):
            if one is not None:
                one.kill()
                one.wait()

    # --- orders

    def customer(self, fault: str = "none") -> str:
        """Make a customer; the processor treats the orders of each in one way.

        Before the processor is started: it knows its customers from then on.
        """
        self._customers += 1
        name = f"c-{self._customers}"
        self.faults[name] = fault
        return name

    def ids(self, count: int) -> list[str]:
        """Make order ids: the seed's."""
        return [str(UUID(int=self.luck.getrandbits(128), version=4)) for _ in range(count)]

    async def place(
        self, orders: Sequence[str], customer: str = "c-0", truth: Truth = HEALTHY
    ) -> None:
        """Let the order service place orders; say what is true of them."""
        self.journal.note("placed", orders=list(orders), customer=customer)
        self.journal.say(orders, truth)
        pg, writer = self.world.pg, self.cast.writer
        if writer == "batch":
            async with pg.transaction():
                for one in orders:
                    await self.write_order(one, customer)
                for one in orders:
                    await self.write_event(one, customer)
        else:
            for one in orders:
                async with pg.transaction():
                    if writer == "savepoint":
                        async with pg.transaction():
                            await self.write_order(one, customer)
                    else:
                        await self.write_order(one, customer)
                    if writer != "trigger":
                        await self.write_event(one, customer)
        await self.clock()

    async def write_order(self, order: str, customer: str) -> None:
        """Insert an order's row."""
        await self.world.pg.execute(_ORDER, UUID(order), customer, self.cast.clock_hours)

    async def write_event(
        self, aggregate: str, customer: str, event_type: str = "order.placed", note: str = ""
    ) -> None:
        """Insert an outbox row: four columns, as any language does."""
        body = {"order_id": aggregate, "customer_id": customer, "note": note}
        await self.world.pg.execute(_EVENT, aggregate, event_type, json.dumps(body))

    async def clock(self) -> None:
        """Remember when the last order was placed, by the database."""
        self._last_at = await self.world.pg.fetchval("SELECT clock_timestamp()")

    async def healthy(self, count: int | None = None, wait: bool = True) -> list[str]:
        """Place orders that nothing befalls; they come back, unless something stands wrong."""
        if self.stands:
            return []
        orders = self.ids(count or self.luck.randint(1, 4))
        await self.place(orders)
        if wait:
            await self.world.until_returned(orders, WAIT_SECONDS)
        return orders

    async def among_others(self, orders: Sequence[str], customer: str, truth: Truth) -> None:
        """Place orders, each between others that nothing befalls where the cast says so."""
        if not self.cast.mixed:
            await self.place(orders, customer, truth)
            return
        for one in orders:
            await self.place([one], customer, truth)
            await self.place(self.ids(1))

    # --- facts

    async def published(self, orders: Sequence[str]) -> None:
        """Wait until the relay has sent the orders' events."""
        await self.world.until_published(orders, WAIT_SECONDS)

    async def through(self, orders: Iterable[str]) -> None:
        """Wait until the processor is done with orders."""
        wanted = set(orders)

        def done() -> bool:
            return wanted <= {one for line in self.seen("done") for one in line["orders"]}

        await self.world.eventually(done, WAIT_SECONDS)

    async def overdue(self) -> None:
        """Wait until the last order is past its deadline, by the database's clock."""
        await self.world.eventually(
            lambda: self.world.pg.fetchval(
                "SELECT clock_timestamp() > $1::timestamptz + make_interval(secs => $2)",
                self._last_at,
                self.world.deadline_seconds + 0.2,
            ),
            self.world.deadline_seconds + 20,
        )

    async def left_alone(self) -> None:
        """Wait until the watchdog has recorded that nobody is in the group, and where it stands.

        No person types a reset so fast that no position is recorded before and after it.
        """
        world = self.world

        async def recorded() -> bool:
            rows = await world.pg.fetch(
                """SELECT DISTINCT ON (partition) members, committed_offset FROM relay.position
                    WHERE consumer_group = $1 AND topic = $2
                    ORDER BY partition, taken_at DESC, position_id DESC""",
                world.group,
                world.events,
            )
            known = sorted(row["committed_offset"] or 0 for row in rows)
            committed = (
                await asyncio.to_thread(world.committed, world.group, world.events)
            ).values()
            there = sorted([*committed, *[0] * (len(rows) - len(committed))])
            return {row["members"] for row in rows} == {0} and known == there

        await world.eventually(recorded, WAIT_SECONDS)

    async def watched(self) -> None:
        """Wait for two rounds of a watchdog's, where one runs: one that began since is over."""
        rounds: set[Any] = set()

        async def looked() -> bool:
            rounds.add(
                await self.world.pg.fetchval(
                    """SELECT max(completed_at) FROM relay.duty_record
                        WHERE duty = 'watchdog_round' AND completed_at > $1""",
                    self._last_at,
                )
            )
            return len(rounds) > 2

        # It may be that none runs any more: then the commands look for themselves. A round that was
        # dear, on a machine that is busy, is followed by a pause of ten times that.
        recent = await self.world.pg.fetchval(
            """SELECT clock_timestamp() - max(completed_at) < interval '1 minute'
                 FROM relay.duty_record WHERE duty = 'watchdog_round'"""
        )
        with suppress(AssertionError):
            await self.world.eventually(looked, 40 if recent else 4)
