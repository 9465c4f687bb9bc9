"""Orders lost one by one beside a loop that works: by a processor's bugs, a writer, SQL by hand."""

import asyncio
import json
from dataclasses import dataclass, field, replace
from random import Random

from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from tests.corpus.world import World
from tests.nights.cast import Cast
from tests.nights.causes.cause import Cause
from tests.nights.stage import WAIT_SECONDS, Stage
from tests.nights.truth import Truth, lost, returned

_UNANSWERED = ("return_never_sent", "returns_stopped", "offsets_skipped")
# What the processor's bug does to an order, and what is true of it then. Where many in a row get no
# answer, nothing tells a processor that loses them from one that is put past them.
BUGS: dict[str, Truth] = {
    "lose": lost("processor loses", "return", "no_return", *_UNANSWERED),
    "only_begun": lost("only begun", "return", "return_incomplete", "final_return_missing"),
    "elsewhere": lost("answers elsewhere", "return", "no_return", "answered_elsewhere"),
    "torn": lost("torn return", "confirm", "return_quarantined", "return_malformed"),
    "odd_status": lost("odd status", "confirm", "return_quarantined", "return_unknown_status"),
    "tombstone": lost("tombstone", "confirm", "return_quarantined", "return_malformed"),
    "twice": returned("answered twice"),
    "contradicts": returned("answered twice, the second is refused"),
    "odd_time": returned("return with an early time"),
    "names_nobody": lost("names nobody", "confirm", "return_quarantined", "return_unknown_order"),
}
# A return that is torn or names nobody is this order's where something else of it can be read.
_NAMED_BY_KEY = ("headers", "key", "capitals", "subject")


@dataclass
class Bug(Cause):
    """The processor does something to the orders of one customer."""

    fault: str
    count: int
    customer: str = field(default="", init=False)

    @classmethod
    def draw(cls, luck: Random, cast: Cast) -> "Bug":
        """Draw one that the cast can have."""
        named = cast.style in _NAMED_BY_KEY
        faults = [one for one in BUGS if named or one not in ("torn", "tombstone")]
        return cls(luck.choice(faults), luck.choice((1, 3, 6, 12)))

    def prepare(self, stage: Stage) -> None:
        """Let the processor know whose orders they are."""
        self.customer = stage.customer(self.fault)

    async def make(self, stage: Stage) -> None:
        """Place them; the processor comes past them, and answers others after."""
        orders = stage.ids(self.count)
        await stage.among_others(orders, self.customer, BUGS[self.fault])
        await stage.through(orders)
        await stage.healthy(4)

    def __str__(self) -> str:
        return f"{self.count} orders: processor {self.fault}"


_WRITING: dict[str, Truth] = {
    "bypass": lost("writer bypasses", "place", "no_outbox_row", "outbox_bypassed"),
    "replica role": lost("triggers off in a session", "place", "no_outbox_row", "outbox_bypassed"),
    "trigger disabled": lost(
        "trigger disabled", "place", "no_outbox_row", "trigger_disabled", check="orders.trigger:"
    ),
    "rolled back": lost("rolled back", "place", "no_such_order", "never_committed"),
    "wrong type": lost("wrong type", "place", "no_outbox_row", "wrong_event_type"),
    "wrong id": lost("wrong id", "place", "no_outbox_row", "wrong_aggregate_id"),
    "unmapped": lost("no topic", "publish", "parked", "no_topic_mapped"),
    "too large": lost("too large", "publish", "parked", "too_large"),
}
_TRIGGERS_ONLY = {"trigger disabled", "replica role"}


@dataclass
class Writer(Cause):
    """The order service writes some orders in another way than the rest."""

    how: str
    count: int

    @classmethod
    def draw(cls, luck: Random, cast: Cast) -> "Writer":
        """Draw one that the cast can have."""
        trigger = cast.writer == "trigger"
        fits = [one for one in _WRITING if (one in _TRIGGERS_ONLY) == trigger]
        return cls(luck.choice(fits), luck.choice((1, 3, 6, 12)))

    @property
    def stands_at(self) -> int:  # type: ignore[override]
        """A trigger that is disabled stays so: nothing can be ordered any more."""
        return 1 if self.how == "trigger disabled" else 0

    async def make(self, stage: Stage) -> None:
        """Write them."""
        orders = stage.ids(self.count)
        stage.journal.say(orders, _WRITING[self.how])
        stage.journal.note("written", how=self.how, orders=orders)
        pg = stage.world.pg
        if self.how == "trigger disabled":
            await pg.execute("ALTER TABLE public.orders DISABLE TRIGGER to_outbox")
        for one in orders:
            transaction = pg.transaction()
            await transaction.start()
            if self.how == "replica role":
                await pg.execute("SET LOCAL session_replication_role = replica")
            await stage.write_order(one, "c-0")
            await self._event(stage, one)
            await (transaction.rollback if self.how == "rolled back" else transaction.commit)()
        await stage.clock()
        if not self.stands_at:
            await stage.healthy(2)

    async def _event(self, stage: Stage, order: str) -> None:
        if self.how == "wrong type":
            await stage.write_event(order, "c-0", "order.changed")
        elif self.how == "wrong id":
            await stage.write_event(f"customer-{order[:8]}", "c-0", "order.changed")
        elif self.how == "unmapped":
            await stage.write_event(order, "c-0", "order.vanished")
        elif self.how == "too large":
            await stage.write_event(order, "c-0", note="y" * 1_100_000)
        elif self.how == "rolled back":
            await stage.write_event(order, "c-0")

    async def mend(self, stage: Stage) -> bool:
        """Enable the trigger, map the type, let the topic take more."""
        world = stage.world
        if self.how == "trigger disabled":
            await world.pg.execute("ALTER TABLE public.orders ENABLE TRIGGER to_outbox")
        elif self.how == "unmapped":
            types = json.loads(world.environment["RELAY_FLOW_EVENTS"])
            types["order.vanished"] = types["order.placed"]
            world.environment["RELAY_FLOW_EVENTS"] = json.dumps(types)
            stage.answers.append("order.vanished")
            for one in ("relay", "consumer"):
                await asyncio.to_thread(world.restart, one)
        elif self.how == "too large":
            await asyncio.to_thread(_take_more, world)
            await asyncio.to_thread(world.restart, "relay")
        return True

    async def settle(self, stage: Stage) -> None:
        """What cannot be sent is in quarantine."""
        orders = [one for one, it in stage.journal.truth.items() if it == _WRITING[self.how]]
        if self.how in ("unmapped", "too large"):
            await stage.world.until_quarantined(orders)

    def __str__(self) -> str:
        return f"{self.count} orders: writer, {self.how}"


_BY_HAND: dict[str, Truth] = {
    "status reset": lost("status reset", "confirm", "return_skipped", "status_overwritten"),
    "status set": lost("status overwritten", "confirm", "return_skipped", "status_overwritten"),
    "order deleted": lost("order deleted", "place", "no_such_order", "order_deleted", "rows_lost"),
    "event deleted": returned("event deleted"),
    "both deleted": lost("both deleted", "place", "no_such_order", "rows_lost"),
    "ledger deleted": returned("proof of publication deleted"),
}
EVENT_DELETED = "processor loses, event deleted"
PROOF_DELETED = "processor loses, proof of publication deleted"
_LOST_AND_DELETED = {"event deleted": EVENT_DELETED, "ledger deleted": PROOF_DELETED}
_STATEMENTS: dict[str, tuple[str, ...]] = {
    "status reset": ("UPDATE orders SET status = 'submitted' WHERE order_id = ANY ($1::uuid[])",),
    "status set": ("UPDATE orders SET status = 'rejected' WHERE order_id = ANY ($1::uuid[])",),
    "order deleted": ("DELETE FROM orders WHERE order_id = ANY ($1::uuid[])",),
    "event deleted": ("DELETE FROM relay.outbox WHERE aggregate_id = ANY ($1::text[])",),
    "both deleted": (
        "DELETE FROM orders WHERE order_id = ANY ($1::uuid[])",
        "DELETE FROM relay.outbox WHERE aggregate_id = ANY ($1::text[])",
    ),
    "ledger deleted": (
        """DELETE FROM relay.delivery_ledger AS l USING relay.outbox AS o
            WHERE o.id = ANY (l.outbox_ids) AND o.aggregate_id = ANY ($1::text[])""",
    ),
}


def _take_more(world: World) -> None:
    """What `kafka-configs --alter --add-config max.message.bytes=...` does."""
    admin = AdminClient({"bootstrap.servers": world.bootstrap, "log_level": 0})
    entry = ConfigEntry("max.message.bytes", "5000000", incremental_operation=AlterConfigOpType.SET)
    asked = ConfigResource(ResourceType.TOPIC, world.events, incremental_configs=[entry])
    admin.incremental_alter_configs([asked])[asked].result(15)


@dataclass
class ByHand(Cause):
    """Somebody's SQL, on orders that came back, or that the processor lost before."""

    what: str
    count: int
    answered: bool
    customer: str = field(default="", init=False)

    @classmethod
    def draw(cls, luck: Random, cast: Cast) -> "ByHand":
        """Draw one that the cast can have."""
        del cast
        what = luck.choice(list(_STATEMENTS))
        # Orders that were lost before are reset to nothing new.
        answered = what == "status reset" or luck.random() < 0.5
        return cls(what, luck.choice((1, 3, 6, 12)), answered)

    def prepare(self, stage: Stage) -> None:
        """Some of them the processor loses."""
        self.customer = stage.customer("none" if self.answered else "lose")

    async def make(self, stage: Stage) -> None:
        """Place orders, let them go their way, and let somebody loose on them."""
        orders = stage.ids(self.count)
        await stage.among_others(orders, self.customer, self._truth())
        await stage.through(orders)
        if self.answered:
            await stage.world.until_returned(orders, WAIT_SECONDS)
        await stage.healthy(4)
        for statement in _STATEMENTS[self.what]:
            await stage.world.pg.execute(statement, orders)
            stage.journal.note("by hand", statement=statement, orders=orders)

    def _truth(self) -> Truth:
        if self.what in _LOST_AND_DELETED and not self.answered:
            return replace(BUGS["lose"], cause=_LOST_AND_DELETED[self.what])
        if self.what == "status set" and not self.answered:
            return returned("status set by hand, lost before")
        truth = _BY_HAND[self.what]
        if self.answered:
            # Whoever deletes orders that came back loses none of their returns.
            return replace(truth, unproven=self.what.startswith("status"))
        return replace(truth, cause=f"{truth.cause}, lost before")

    def __str__(self) -> str:
        before = "came back" if self.answered else "the processor lost"
        return f"{self.count} orders that {before}: {self.what}"
