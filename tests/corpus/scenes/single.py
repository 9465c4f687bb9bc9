"""Single orders lost beside a healthy loop: by writers, by hands, and by a processor with bugs."""

import json
from collections.abc import Callable
from uuid import uuid4

from relay.outbox import NewOrder, place_order
from tests.corpus.fault import RETURNED, Act, Fault, Orders, Scene, overdue
from tests.corpus.wiring import TEA
from tests.corpus.world import World

DEADLINE_SECONDS = 3.0
# How the sample processor chooses among the ways to break a return: by its key.
BREAKS = ("truncated", "not_json", "no_status", "unknown_status")


def breaks(how: str) -> Callable[[str], bool]:
    """Choose orders whose corrupt return is broken in one way."""
    return lambda order: BREAKS[sum(order.encode()) % len(BREAKS)] == how


def answer(order: str, status: str) -> bytes:
    """Write the least that is a return."""
    return json.dumps({"order_id": order, "status": status}).encode()


# --- hop 1: writers


async def rolled_back(world: World, orders: Orders) -> None:
    """The order service dies before its commit."""
    for one in orders:
        transaction = world.pg.transaction()
        await transaction.start()
        await place_order(world.pg, NewOrder("c-1", TEA.items, "EUR"))
        await transaction.rollback()
        assert one


async def bypassed(world: World, orders: Orders) -> None:
    """Another program inserts orders: an import, a support tool."""
    await world.insert_these(orders)


async def wrong_type(world: World, orders: Orders) -> None:
    """A writer with an old word for the event."""
    await world.insert_these(orders)
    for one in orders:
        await world.insert_event(one, "order.changed")


async def wrong_id(world: World, orders: Orders) -> None:
    """A writer that names the customer where the order belongs."""
    for one in orders:
        async with world.pg.transaction():
            await world.insert_these([one])
            await world.insert_event(f"customer-{one[:8]}", "order.changed")


async def trigger_off(world: World, orders: Orders) -> None:
    """A trigger writes the event; somebody disabled it for a bulk load and forgot."""
    await world.pg.execute(
        """CREATE FUNCTION public.orders_to_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN
               INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
               VALUES ('order', NEW.order_id::text, 'order.placed', '{}');
               RETURN NEW;
           END $$;
           CREATE TRIGGER to_outbox AFTER INSERT ON public.orders
               FOR EACH ROW WHEN (NEW.customer_id = 'c-trigger')
               EXECUTE FUNCTION public.orders_to_outbox();
           ALTER TABLE public.orders DISABLE TRIGGER to_outbox"""
    )
    await world.insert_these(orders, "c-trigger")


async def trigger_dropped(world: World) -> None:
    """The trigger and its function go."""
    await world.pg.execute("DROP FUNCTION public.orders_to_outbox() CASCADE")


# --- hop 2: events that cannot be sent


async def unmapped(world: World, orders: Orders) -> None:
    """An event type of which the flow knows nothing."""
    await world.insert_these(orders)
    for one in orders:
        await world.insert_event(one, "order.vanished")


async def behind_unmapped(world: World, orders: Orders) -> None:
    """The right event, behind one of the same order that cannot be sent."""
    await unmapped(world, orders)
    for one in orders:
        await world.insert_event(one, "order.placed")


async def oversize(world: World, orders: Orders) -> None:
    """A payload larger than the topic takes."""
    await world.insert_these(orders)
    for one in orders:
        await world.insert_event(one, "order.placed", json.dumps({"note": "y" * 1_100_000}))


async def parked(world: World, orders: Orders) -> None:
    """Wait until the relay has set them aside, and they are overdue."""
    await world.until_quarantined(orders)
    await overdue(world, orders)


# --- hops 4 and 5: answers by others than the sample processor (which loses these)


async def by_another(world: World, orders: Orders, status: str) -> None:
    """Place orders; a foreign program answers them on the returns topic."""
    await world.place_these(orders)
    for one in orders:
        world.send(world.returns, one, answer(one, status))


async def only_begun(world: World, orders: Orders) -> None:
    """The processor announced its work and never finished it."""
    await by_another(world, orders, "processing")


async def odd_status(world: World, orders: Orders) -> None:
    """A status that nobody told the flow of."""
    await by_another(world, orders, "shipped")


async def elsewhere(world: World, orders: Orders) -> None:
    """Some answers go to another topic."""
    wrong = world.topics.create("order.replies", 1)
    await world.place_these(orders)
    for one in orders:
        world.send(wrong, one, answer(one, "confirmed"))


async def said(world: World, order: str) -> dict[str, str]:
    """Return what a return says of the event it answers."""
    row = await world.pg.fetchrow(
        "SELECT event_id::text, traceparent FROM relay.outbox WHERE aggregate_id = $1", order
    )
    return {"ce_causationid": row["event_id"], "traceparent": row["traceparent"] or ""}


async def names_nobody(world: World, orders: Orders) -> None:
    """Its return names an order that there is not."""
    await world.place_these(orders)
    for one in orders:
        stranger = answer(str(uuid4()), "confirmed")
        world.send(world.returns, None, stranger, **await said(world, one))


async def names_another(world: World, orders: Orders) -> None:
    """Its return names another order of the same customer, and is applied to that one."""
    await world.place_these(orders)
    others = await world.place(len(orders))
    for one, other in zip(orders, others, strict=True):
        world.send(world.returns, other, answer(other, "confirmed"), **await said(world, one))


async def before_commit(world: World, orders: Orders) -> None:
    """The processor heard of the order by a side way, and answered before it was committed."""
    for one in orders:
        world.send(world.returns, one, answer(one, "confirmed"))
    await world.until_quarantined(orders)
    await world.place_these(orders)


async def without_key(world: World, orders: Orders) -> None:
    """A return without a key, a header or an identity: enough all the same."""
    await world.place_these(orders)
    for one in orders:
        world.send(world.returns, None, answer(one, "confirmed"))


async def another_key(world: World, orders: Orders) -> None:
    """A return under the customer's key, on whatever partition that is."""
    await world.place_these(orders)
    for one in orders:
        world.send(world.returns, "c-1", answer(one, "confirmed"))


async def locked(world: World, orders: Orders) -> None:
    """Somebody's transaction holds the orders' rows."""
    await world.place_these(orders)
    await world.lock("SELECT FROM orders WHERE order_id = ANY ($1::uuid[]) FOR UPDATE", orders)
    for one in orders:
        world.send(world.returns, one, answer(one, "confirmed"))


async def set_aside(world: World, orders: Orders) -> None:
    """Wait until their returns are pending."""
    await world.eventually(
        lambda: world.pg.fetchval(
            "SELECT count(*) = $2 FROM relay.pending_return WHERE aggregate_id = ANY ($1::text[])",
            orders,
            len(orders),
        )
    )
    await overdue(world, orders)


async def reset_by_hand(world: World, orders: Orders) -> None:
    """They came back, and somebody set them to `submitted` again."""
    await world.place_these(orders)
    await world.until_returned(orders)
    await world.pg.execute(
        "UPDATE orders SET status = 'submitted' WHERE order_id = ANY ($1::uuid[])", orders
    )


async def finished_by_hand(world: World, orders: Orders) -> None:
    """Support rejected them; the processor's `confirmed` is refused: the status is final."""
    await world.place_these(orders)
    await world.pg.execute(
        "UPDATE orders SET status = 'rejected' WHERE order_id = ANY ($1::uuid[])", orders
    )
    for one in orders:
        world.send(world.returns, one, answer(one, "confirmed"))


async def unranked(world: World, orders: Orders) -> None:
    """Support gave them a status that the flow has no rank for."""
    await world.pg.execute("ALTER TABLE orders DROP CONSTRAINT orders_status_check")
    await world.place_these(orders)
    await world.pg.execute(
        "UPDATE orders SET status = 'on hold' WHERE order_id = ANY ($1::uuid[])", orders
    )
    for one in orders:
        world.send(world.returns, one, answer(one, "confirmed"))


async def in_the_way(world: World, orders: Orders) -> None:
    """A trigger of the order service's refuses the change of status."""
    await world.pg.execute(
        """CREATE FUNCTION public.frozen_customers() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN
               RAISE EXCEPTION 'customer % is frozen', NEW.customer_id USING ERRCODE = '23514';
           END $$;
           CREATE TRIGGER frozen BEFORE UPDATE ON public.orders FOR EACH ROW
               WHEN (NEW.customer_id = 'c-frozen') EXECUTE FUNCTION public.frozen_customers()"""
    )
    await world.place_these(orders, "c-frozen")


async def deleted(world: World, orders: Orders) -> None:
    """A mistaken DELETE."""
    await world.place_these(orders)
    await world.pg.execute("DELETE FROM orders WHERE order_id = ANY ($1::uuid[])", orders)


# --- the scene


async def opening(world: World) -> None:
    """Everything runs before the first order is placed."""
    world.deadline_seconds = DEADLINE_SECONDS
    world.begin_all()
    await world.until_up()


async def passed(world: World, orders: Orders) -> None:
    """Wait until processor and consumer have come past everything."""
    await world.until_passed(world.group, world.events)
    await world.until_passed(world.confirm_group, world.returns)
    await overdue(world, orders)


async def refused(world: World, orders: Orders) -> None:
    """Wait until the consumer has refused all of them."""
    await world.until_quarantined(orders)
    await overdue(world, orders)


async def returned(world: World, orders: Orders) -> None:
    """Wait until they came back."""
    await world.until_returned(orders)


LOSE, SKIP, CORRUPT = ("--lose-order",), ("--skip-order",), ("--corrupt-order",)
NEVER_SENT = ("return", "no_return", "return_never_sent")
MALFORMED = ("confirm", "return_quarantined", "return_malformed")
UNKNOWN_STATUS = ("confirm", "return_quarantined", "return_unknown_status")

WRITERS = (
    Fault("nothing is wrong", "none", RETURNED, settle=returned, count=40),
    Fault(
        "submission rolled back",
        "system",
        ("place", "no_such_order", "never_committed"),
        rolled_back,
        passed,
    ),
    Fault(
        "writer bypasses the outbox",
        "code",
        ("place", "no_outbox_row", "outbox_bypassed"),
        bypassed,
    ),
    Fault(
        "writer's event type is wrong",
        "code",
        ("place", "no_outbox_row", "wrong_event_type"),
        wrong_type,
    ),
    Fault(
        "writer's aggregate id is wrong",
        "code",
        ("place", "no_outbox_row", "wrong_aggregate_id"),
        wrong_id,
    ),
    Fault(
        "order deleted by mistake",
        "people",
        ("place", "no_such_order", "order_deleted"),
        deleted,
        passed,
        processor=LOSE,
    ),
    Fault(
        "event type without a topic",
        "configuration",
        ("publish", "parked", "no_topic_mapped"),
        unmapped,
        parked,
    ),
    Fault(
        "behind an event without a topic",
        "configuration",
        ("publish", "parked", "parked_behind"),
        behind_unmapped,
        parked,
    ),
    Fault(
        "payload too large", "code", ("publish", "parked", "too_large"), oversize, parked, count=4
    ),
)
BUGS = (
    Fault("processor loses some", "code", NEVER_SENT, settle=passed, processor=LOSE),
    Fault("processor skips some", "code", NEVER_SENT, settle=passed, processor=SKIP),
    Fault(
        "return torn", "code", MALFORMED, settle=refused, processor=CORRUPT,
        suits=breaks("truncated"),
    ),
    Fault(
        "return is no JSON", "code", MALFORMED, settle=refused, processor=CORRUPT,
        suits=breaks("not_json"),
    ),
    Fault(
        "return without a status", "code", MALFORMED, settle=refused, processor=CORRUPT,
        suits=breaks("no_status"),
    ),
    Fault(
        "status misspelt", "code", UNKNOWN_STATUS, settle=refused, processor=CORRUPT,
        suits=breaks("unknown_status"),
    ),
    Fault("returns twice", "code", RETURNED, settle=returned, processor=("--duplicate-order",)),
    Fault(
        "returns in wrong order", "code", RETURNED, settle=returned,
        processor=("--reorder-order",),
    ),
    Fault("returns contradict", "code", RETURNED, settle=returned, processor=("--conflict-order",)),
    Fault(
        "return late", "code", (None, "returned", "late"), settle=returned,
        processor=("--delay-order",),
    ),
)  # fmt: skip
OTHERS = (
    Fault(
        "only `processing` came", "code", ("return", "return_incomplete", "final_return_missing"),
        only_begun, passed, processor=LOSE,
    ),
    Fault(
        "status nobody knows", "configuration", UNKNOWN_STATUS, odd_status, refused,
        processor=LOSE,
    ),
    Fault(
        "some answers on a wrong topic", "code", ("return", "no_return", "answered_elsewhere"),
        elsewhere, passed, processor=LOSE,
    ),
    Fault(
        "return names no order", "code", ("confirm", "return_quarantined", "return_unknown_order"),
        names_nobody, passed, processor=LOSE,
    ),
    Fault(
        "return names another order", "code", ("confirm", "return_skipped", "return_misnamed"),
        names_another, passed, processor=LOSE,
    ),
    Fault(
        "return before the commit", "code", ("confirm", "return_quarantined", "order_hidden"),
        before_commit, passed, processor=LOSE,
    ),
    Fault("return without a key", "code", RETURNED, without_key, returned, processor=LOSE),
    Fault("return under another key", "code", RETURNED, another_key, returned, processor=LOSE),
    Fault(
        "status set back by hand", "people", ("confirm", "return_skipped", "status_overwritten"),
        reset_by_hand,
    ),
    Fault(
        "finished by hand", "people", ("confirm", "return_quarantined", "return_conflicts"),
        finished_by_hand, refused, processor=LOSE,
    ),
    Fault(
        "status without a rank", "people",
        ("confirm", "return_quarantined", "order_status_unknown"), unranked, refused,
        processor=LOSE,
    ),
    Fault(
        "a trigger in the way", "configuration", ("confirm", "return_quarantined", "apply_failed"),
        in_the_way, refused,
    ),
    # Last: what changes the table would wait for whoever holds its rows.
    Fault(
        "order row locked", "people", ("confirm", "not_confirmed", "order_row_locked"), locked,
        set_aside, processor=LOSE,
    ),
)  # fmt: skip
TRIGGER = Fault(
    "trigger disabled", "people", ("place", "no_outbox_row", "trigger_disabled"), trigger_off,
    mend=trigger_dropped,
)  # fmt: skip

SCENE = Scene(
    "single",
    acts=(Act((*WRITERS, *BUGS, *OTHERS)), Act((TRIGGER,))),
    opening=opening,
    environment={
        "RELAY_FLOW_EVENTS": json.dumps(
            {"order.placed": {"deadline_seconds": DEADLINE_SECONDS}, "order.changed": {}}
        )
    },
)
