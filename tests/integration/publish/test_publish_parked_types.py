"""Customer 42 is not order 42: parked orders are known by aggregate type and aggregate id."""

from typing import Any

import pytest

from relay.publish.reading.parked_orders import LONGEST_ID_BYTES, ParkedOrders, order_name
from relay.publish.reading.parking import Waiting, releasable
from relay.repair.selection import Selection, select


async def put(lab: Any, kind: str, key: str, event_type: str = "order.placed") -> int:
    outbox_id: int = await lab.pg.fetchval(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
        " VALUES ($1, $2, $3, '{}') RETURNING id",
        kind,
        key,
        event_type,
    )
    return outbox_id


async def parked(lab: Any) -> list[tuple[str | None, str, str, str]]:
    return [
        (row["aggregate_type"], row["aggregate_id"], row["reason"], row["state"])
        for row in await lab.quarantine()
    ]


async def until_parked(lab: Any, count: int) -> None:
    async def enough() -> bool:
        return len(await lab.quarantine()) >= count

    await lab.until(enough)


async def test_one_of_another_type_holds_nothing_back(lab: Any) -> None:
    await put(lab, "customer", "42", "customer.renamed")
    await put(lab, "order", "42")
    async with lab.relaying():
        await lab.until_published(1)
        await put(lab, "customer", "42")
        await put(lab, "order", "42")
        await until_parked(lab, 2)
        await lab.until_published(2)
    assert await parked(lab) == [
        ("customer", "42", "no_topic", "held"),
        ("customer", "42", "order_parked", "held"),
    ]
    # After a restart it is the same.
    async with lab.relaying():
        await put(lab, "customer", "42")
        await put(lab, "order", "42")
        await until_parked(lab, 3)
        await lab.until_published(3)


async def test_each_of_two_with_one_id_is_released_alone(lab: Any) -> None:
    for kind in ("customer", "order"):
        await put(lab, kind, "42", f"{kind}.late")
        await put(lab, kind, "42")
    async with lab.relaying():
        await until_parked(lab, 4)
    events = dict.fromkeys(("order.placed", "order.late", "customer.late"), lab.topic)
    async with lab.relaying(events=events):
        await lab.pg.execute(
            "UPDATE relay.quarantine SET state = 'release_requested'"
            " WHERE aggregate_type = 'order' AND reason = 'no_topic'"
        )
        await lab.until_published(2)
        await put(lab, "order", "42")
        await put(lab, "customer", "42")
        await lab.until_published(3)
        await until_parked(lab, 5)
    assert await parked(lab) == [
        ("customer", "42", "no_topic", "held"),
        ("customer", "42", "order_parked", "held"),
        ("order", "42", "no_topic", "released"),
        ("order", "42", "order_parked", "released"),
        ("customer", "42", "order_parked", "held"),
    ]


@pytest.mark.parametrize("gone", [False, True])
async def test_a_row_of_an_older_version_learns_its_type_or_stands_for_any(
    lab: Any, *, gone: bool
) -> None:
    first = await put(lab, "customer", "42", "customer.renamed")
    async with lab.relaying():
        await until_parked(lab, 1)
    await lab.pg.execute("UPDATE relay.quarantine SET aggregate_type = NULL")
    if gone:
        await lab.pg.execute("DELETE FROM relay.outbox WHERE id = $1", first)
    await put(lab, "order", "42")
    async with lab.relaying():
        await (until_parked(lab, 2) if gone else lab.until_published(1))
    types = [row[0] for row in await parked(lab)]
    assert types == ([None, "order"] if gone else ["customer"])


async def test_an_order_by_name_means_the_flows_own(lab: Any) -> None:
    await put(lab, "customer", "42", "customer.renamed")
    await put(lab, "order", "42", "order.unheard_of")
    await put(lab, "customer", "43", "customer.renamed")
    async with lab.relaying():
        await until_parked(lab, 3)
    rows = await lab.quarantine()
    of_order = Selection(orders=("42",), aggregate_type="order")
    assert await select(lab.pg, of_order) == [rows[1]["quarantine_id"]]
    alone = Selection(orders=("43",), aggregate_type="order")
    assert await select(lab.pg, alone) == [rows[2]["quarantine_id"]], "there is no order 43"


async def test_an_id_that_fills_an_index_entry_is_parked_all_the_same(lab: Any) -> None:
    """PostgreSQL takes it into the outbox's index, and not into one with a column more."""
    lab_key = await lab.pg.fetchval(
        "SELECT left(string_agg(encode(sha256(n::text::bytea), 'base64'), ''), 2690)"
        "  FROM generate_series(1, 80) n"
    )
    long = "ü" * 100_000
    for key in (lab_key, long):
        await put(lab, "order", key, "order.unheard_of")
        await put(lab, "order", key)
    await put(lab, "order", "short")
    async with lab.relaying():
        await until_parked(lab, 4)
        await lab.until_published(1)
    async with lab.relaying():
        await put(lab, "order", long)
        await until_parked(lab, 5)
    assert {row["aggregate_id"] for row in await lab.quarantine()} == {
        order_name(key.encode()).decode() for key in (lab_key, long)
    }
    events = dict.fromkeys(("order.placed", "order.unheard_of"), lab.topic)
    async with lab.relaying(events=events):
        await lab.pg.execute("UPDATE relay.quarantine SET state = 'release_requested'")
        await lab.until_published(6)
    keys = [record.key for record in await lab.read()]
    assert (keys.count(lab_key), keys.count(long)) == (2, 3)


def test_a_long_id_keeps_its_beginning_length_and_hash() -> None:
    short = b"x" * LONGEST_ID_BYTES
    assert order_name(short) is short
    name = order_name("ü".encode() * 700)
    assert name.startswith("ü".encode() * 100 + b"... (1400 bytes, sha256 ")
    assert len(name) < 400
    assert order_name("ü".encode() * 699) != name


def test_what_stopped_without_a_type_stops_all_of_that_id() -> None:
    held = Waiting((None, "42"), 1, release_requested=False)
    order = Waiting(("order", "42"), 2, release_requested=True)
    other = Waiting(("order", "43"), 3, release_requested=True)
    assert releasable([held, order, other]) == [3]
    assert releasable([Waiting(("customer", "42"), 1, release_requested=False), order]) == [2]


def test_the_set_of_parked_orders() -> None:
    orders = ParkedOrders.of([("order", b"1"), ("customer", b"1"), (None, b"2")])
    assert orders.holds("order", b"1")
    assert not orders.holds("invoice", b"1")
    assert orders.holds("anything", b"2")
    orders.keep_only([b"1", b"3"], [("order", b"1")])
    assert not orders.holds("customer", b"1")
    assert orders.holds("order", b"1")
    orders.discard([("order", b"1"), ("order", b"9")])
    assert orders.disjoint([b"1"])
    assert orders.ids() == {b"2"}
    orders.discard([(None, b"2")])
    assert not orders
