"""Single orders lost beside a healthy loop, each by another fault: every one is named."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
import pytest

from relay.outbox import Item, NewOrder, place_order

pytestmark = pytest.mark.timeout(240)

Triple = tuple[str | None, str, str]


@dataclass
class Corpus:
    """Orders with the label that a diagnosis must give them."""

    labels: dict[str, Triple] = field(default_factory=dict)

    def expect(self, orders: list[str], hop: str | None, verdict: str, cause: str) -> list[str]:
        self.labels |= dict.fromkeys(orders, (hop, verdict, cause))
        return orders


async def insert_order(wiring) -> str:
    """An order as a foreign writer inserts it, without its event."""
    order_id = str(uuid.uuid4())
    await wiring.pg.execute(
        """INSERT INTO orders (order_id, customer_id, items, total, currency)
           VALUES ($1::uuid, 'c-2', '[]', 1, 'EUR')""",
        order_id,
    )
    return order_id


async def insert_event(wiring, aggregate_id: str, event_type: str, payload: str = "{}") -> None:
    await wiring.pg.execute(
        """INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
           VALUES ('order', $1, $2, $3::json)""",
        aggregate_id,
        event_type,
        payload,
    )


async def event_of(wiring, order: str) -> asyncpg.Record:
    return await wiring.pg.fetchrow(
        "SELECT event_id::text, traceparent FROM relay.outbox WHERE aggregate_id = $1", order
    )


def answer(order: str, status: str) -> bytes:
    return json.dumps({"order_id": order, "status": status}).encode()


async def lost_by_the_processor(wiring, corpus: Corpus) -> list[str]:
    """Orders that the processor passes without a final return; some are answered by others."""
    lost = corpus.expect(await wiring.place(3), "return", "no_return", "return_never_sent")
    skipped = corpus.expect(await wiring.place(2), "return", "no_return", "return_never_sent")
    corrupt = corpus.expect(
        await wiring.place(2), "confirm", "return_quarantined", "return_malformed"
    )
    return [
        *(part for one in lost for part in ("--lose-order", one)),
        *(part for one in skipped for part in ("--skip-order", one)),
        *(part for one in corrupt for part in ("--corrupt-order", one)),
    ]


async def answered_by_others(wiring, corpus: Corpus) -> list[str]:
    """Orders that a foreign producer answers, each in another wrong way."""
    partial = corpus.expect(
        await wiring.place(2), "return", "return_incomplete", "final_return_missing"
    )
    for one in partial:
        wiring.send(wiring.returns, one, answer(one, "processing"))
    misnamed = corpus.expect(
        await wiring.place(2), "confirm", "return_quarantined", "return_unknown_order"
    )
    for one in misnamed:
        event = await event_of(wiring, one)
        said = {"ce_causationid": event["event_id"], "traceparent": event["traceparent"] or ""}
        wiring.send(wiring.returns, None, answer(str(uuid.uuid4()), "confirmed"), **said)
    oddly = corpus.expect(
        await wiring.place(1), "confirm", "return_quarantined", "return_unknown_status"
    )
    wiring.send(wiring.returns, oddly[0], answer(oddly[0], "shipped"))
    elsewhere = corpus.expect(await wiring.place(2), "return", "no_return", "answered_elsewhere")
    wrong = wiring.topics.create("order.replies", 1)
    for one in elsewhere:
        wiring.send(wrong, one, answer(one, "confirmed"))
    silent = partial + misnamed + oddly + elsewhere
    return [part for one in silent for part in ("--lose-order", one)]


async def written_wrongly(wiring, corpus: Corpus) -> None:
    """Hop 1, by writers that do it wrong."""
    bypassed = [await insert_order(wiring) for _ in range(3)]
    corpus.expect(bypassed, "place", "no_outbox_row", "outbox_bypassed")
    changed = await insert_order(wiring)
    await insert_event(wiring, changed, "order.changed")
    corpus.expect([changed], "place", "no_outbox_row", "wrong_event_type")
    async with wiring.pg.transaction():
        astray = await insert_order(wiring)
        await insert_event(wiring, f"customer-{astray[:8]}", "order.changed")
    corpus.expect([astray], "place", "no_outbox_row", "wrong_aggregate_id")
    unmapped = await insert_order(wiring)
    await insert_event(wiring, unmapped, "order.vanished")
    corpus.expect([unmapped], "publish", "parked", "no_topic_mapped")
    behind = await insert_order(wiring)
    await insert_event(wiring, behind, "order.vanished")
    await insert_event(wiring, behind, "order.placed")
    corpus.expect([behind], "publish", "parked", "parked_behind")
    large = await insert_order(wiring)
    await insert_event(wiring, large, "order.placed", json.dumps({"x": "y" * 2_000_000}))
    corpus.expect([large], "publish", "parked", "too_large")
    corpus.expect([str(uuid.uuid4())], "place", "no_such_order", "never_committed")


async def test_every_single_loss_is_named(wiring) -> None:
    wiring.environment["RELAY_FLOW_EVENTS"] = json.dumps(
        {"order.placed": {"deadline_seconds": 2.0}, "order.changed": {}}
    )
    corpus = Corpus()
    wiring.relay(), wiring.consumer()
    fine = await wiring.place_everywhere()
    faults = await lost_by_the_processor(wiring, corpus)
    faults += await answered_by_others(wiring, corpus)
    locked = corpus.expect(await wiring.place(1), "confirm", "not_confirmed", "order_row_locked")
    deleted = corpus.expect(await wiring.place(1), "place", "no_such_order", "order_deleted")
    reset = corpus.expect(await wiring.place(1), "confirm", "return_skipped", "status_overwritten")
    fine += await wiring.place_everywhere()
    async with row_lock(wiring.database, locked[0]):
        await wiring.pg.execute("DELETE FROM orders WHERE order_id = $1::uuid", deleted[0])
        wiring.processor(*faults, "--lose-order", deleted[0], "--corruption", "truncated")
        await written_wrongly(wiring, corpus)
        await wiring.until_returned(fine + reset)
        await wiring.pg.execute(
            "UPDATE orders SET status = 'submitted' WHERE order_id = $1::uuid", reset[0]
        )
        await wiring.until_passed(wiring.group, wiring.events)
        await wiring.until_passed(wiring.confirm_group, wiring.returns)
        existing = [one for one in corpus.labels if await exists(wiring, one)]
        await wiring.until_overdue(existing)
        asked = [*corpus.labels, *fine]
        found = dict(zip(asked, wiring.named(asked), strict=True))
    wrong = {one: (found[one], it) for one, it in corpus.labels.items() if found[one] != it}
    assert not wrong
    assert {found[one][:2] for one in fine} == {(None, "returned")}


@asynccontextmanager
async def row_lock(database: str, order: str) -> AsyncIterator[None]:
    """Somebody else's transaction holds the order's row."""
    locker = await asyncpg.connect(database)
    try:
        async with locker.transaction():
            await locker.execute("SELECT FROM orders WHERE order_id = $1::uuid FOR UPDATE", order)
            yield
    finally:
        await locker.close()


async def exists(wiring, order: str) -> bool:
    found: bool = await wiring.pg.fetchval(
        "SELECT EXISTS (SELECT FROM orders WHERE order_id = $1::uuid)", order
    )
    return found


async def test_a_submission_that_is_known_under_its_key(wiring) -> None:
    wiring.relay(), wiring.processor(), wiring.consumer()
    order = NewOrder("c-9", [Item("tea", 1, "9.95")], "EUR", idempotency_key="k-1")
    async with wiring.pg.transaction():
        placed = await place_order(wiring.pg, order)
    first = str(placed.order_id)
    await wiring.until_returned([first])
    found = wiring.diagnose([], "--customer", "c-9", "--key", "k-1")
    assert [(one["order_id"], one["verdict"]) for one in found] == [(first, "returned")]
    missing = wiring.diagnose([], "--customer", "c-9", "--key", "k-2")
    assert [one["verdict"] for one in missing] == ["no_such_order"]
    (by_event,) = wiring.diagnose([], "--event", str(placed.event_id))
    assert (by_event["order_id"], by_event["event_id"]) == (first, str(placed.event_id))


async def test_the_missing_row_is_printed_as_an_insert_that_mends(wiring) -> None:
    wiring.relay(), wiring.processor(), wiring.consumer()
    order = await insert_order(wiring)
    (found,) = wiring.diagnose([order])
    mend = next(one["found"] for one in found["evidence"] if one["what"] == "mend")
    await wiring.pg.execute(mend)
    await wiring.until_returned([order])


async def test_ids_come_from_stdin_and_many_fit_a_screen(wiring) -> None:
    orders = [await insert_order(wiring) for _ in range(60)]
    done = wiring.command("diagnose", *orders)
    assert done.returncode == 3
    assert done.stdout.splitlines()[0].startswith("60 orders: 60 lost")
    assert len(done.stdout.splitlines()) <= 24
