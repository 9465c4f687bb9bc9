"""`relay sample place` and `relay sample load`: what they place, what they say, how they end."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from opentelemetry.trace import NoOpTracer

from relay.embedded import EmbeddedPostgres
from relay.outbox import Item, NewOrder
from relay.sample.load import Load, LoadPlan, make_load, wait_for_returns
from relay.sample.load_report import hop_times, times_of
from relay.sample.place import Placement, Placing, direct, follow, over_http
from relay.sample.place_http import OrderClient, ServiceUnreachableError, ServiceUrlError

Eventually = Callable[..., Awaitable[Any]]
Command = Callable[..., Any]


@pytest.fixture
async def url(relay_process: Callable[..., Any], database: str, eventually: Eventually) -> str:
    process = relay_process("sample", "serve", "--port", "0")
    line: str = await eventually(lambda: process.stdout)
    return line.rsplit(maxsplit=1)[-1]


async def confirm_all(pg: asyncpg.Connection) -> int:
    """Play the confirmation consumer."""
    done = await pg.execute(
        "UPDATE orders SET status = 'confirmed', returned_at = clock_timestamp()"
        " WHERE status = 'submitted'"
    )
    return int(done.split()[-1])


async def run(command: Command, *arguments: str) -> Any:
    return await asyncio.to_thread(command, *arguments)


async def test_place_prints_the_order_and_its_trace(
    relay_command: Command, database: str, pg: asyncpg.Connection
) -> None:
    done = await run(relay_command, "--json", "sample", "place", "--quantity", "3")
    assert done.returncode == 0, done.stderr
    placed = json.loads(done.stdout)
    event = await pg.fetchrow("SELECT * FROM relay.outbox")
    assert (placed["order_id"], placed["created"]) == (event["aggregate_id"], True)
    assert placed["trace_id"] == event["event_id"].hex
    assert json.loads(event["payload"])["total"] == "29.85"


async def test_place_through_the_service_says_the_same(
    relay_command: Command, url: str, pg: asyncpg.Connection
) -> None:
    done = await run(relay_command, "sample", "place", "--url", url, "--key", "k")
    again = await run(relay_command, "sample", "place", "--url", url, "--key", "k")
    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    order_id = str(await pg.fetchval("SELECT order_id FROM orders"))
    assert f"order  {order_id}" in done.stdout
    assert f"order  {order_id}" in again.stdout
    assert f"known {order_id}" in again.stderr


async def test_place_waits_until_the_return_is_applied(
    relay_process: Callable[..., Any],
    database: str,
    pg: asyncpg.Connection,
    eventually: Eventually,
) -> None:
    process = relay_process("--json", "sample", "place", "--wait", "--timeout", "30")
    await eventually(lambda: "submitted" in process.stderr)
    assert process.is_running()
    await confirm_all(pg)
    assert await asyncio.to_thread(process.wait) == 0
    assert json.loads(process.stdout)["status"] == "confirmed"


async def test_place_without_a_return_in_time_exits_3(
    relay_command: Command, database: str
) -> None:
    done = await run(relay_command, "sample", "place", "--wait", "--timeout", "0.2")
    assert done.returncode == 3
    assert "status submitted" in done.stdout


async def test_a_refused_order_is_an_error_with_its_path(relay_command: Command, url: str) -> None:
    arguments = ("sample", "place", "--url", url, "--price", "9,95")
    done = await run(relay_command, *arguments)
    assert done.returncode == 1
    assert "/items/0/price" in done.stderr
    assert done.stdout == ""


async def test_production_is_refused_by_each_command(
    relay_command: Command, database: str, pg: asyncpg.Connection
) -> None:
    await pg.execute("UPDATE relay.installation SET kind = 'production'")
    for arguments in (("place",), ("load", "--orders", "1"), ("serve", "--port", "0")):
        done = await run(relay_command, "sample", *arguments)
        assert done.returncode == 1
        assert "error[not_sample]" in done.stderr
    assert await pg.fetchval("SELECT count(*) FROM orders") == 0


@pytest.mark.parametrize("through_http", [True, False])
async def test_load_places_waits_and_reports(
    relay_process: Callable[..., Any],
    database: str,
    pg: asyncpg.Connection,
    eventually: Eventually,
    through_http: bool,
) -> None:
    via: tuple[str, ...] = ()
    if through_http:
        service = relay_process("sample", "serve", "--port", "0")
        via = ("--url", (await eventually(lambda: service.stdout)).split()[-1])
    load = relay_process(
        "--json", "sample", "load", "--orders", "40", "--rate", "400", "--connections", "4", *via
    )

    async def all_confirmed() -> bool:
        await confirm_all(pg)
        return bool(await pg.fetchval("SELECT count(*) = 40 FROM orders"))

    await eventually(all_confirmed)
    await confirm_all(pg)
    assert await asyncio.to_thread(load.wait) == 0, load.stderr
    report = json.loads(load.stdout)
    assert (report["placed"], report["failed"], report["unreturned"]) == (40, {}, [])
    assert report["statuses"] == {"confirmed": 40}
    assert set(report["hops"]) == {"place", "placed to returned"}
    assert report["hops"]["place"]["count"] == 40
    assert report["seconds"] >= 39 / 400


async def test_load_exits_3_when_a_return_is_missing(relay_command: Command, database: str) -> None:
    done = await run(relay_command, "sample", "load", "--orders", "3", "--wait", "0.3")
    assert done.returncode == 3
    assert "not returned: 3" in done.stdout


async def test_sigint_ends_a_load_early_and_it_reports(
    relay_process: Callable[..., Any],
    database: str,
    pg: asyncpg.Connection,
    eventually: Eventually,
) -> None:
    load = relay_process("--json", "sample", "load", "--orders", "100000", "--rate", "50")
    await eventually(lambda: pg.fetchval("SELECT count(*) > 5 FROM orders"))
    assert await asyncio.to_thread(load.terminate) == 3
    placed = json.loads(load.stdout)["placed"]
    assert placed == await pg.fetchval("SELECT count(*) FROM orders")


async def test_a_repeated_run_places_nothing_twice(
    relay_command: Command, database: str, pg: asyncpg.Connection
) -> None:
    arguments = ("--json", "sample", "load", "--orders", "10", "--wait", "0", "--run", "r")
    first = json.loads((await run(relay_command, *arguments)).stdout)
    again = json.loads((await run(relay_command, *arguments)).stdout)
    assert (first["repeated"], again["repeated"]) == (0, 10)
    assert await pg.fetchval("SELECT count(*) FROM relay.outbox") == 10


# --- the parts ----------------------------------------------------------------------------------


class Flaky:
    """A way to place orders that loses the answer of each order's first submission."""

    def __init__(self, inner: Placing) -> None:
        self.inner = inner
        self.seen: set[str | None] = set()

    async def place(self, order: NewOrder) -> Placement:
        placed = await self.inner.place(order)
        if order.idempotency_key not in self.seen:
            self.seen.add(order.idempotency_key)
            raise ServiceUnreachableError("the answer was lost")
        return placed

    async def status(self, order_id: str) -> str:
        return await self.inner.status(order_id)


async def test_a_lost_answer_makes_no_second_order(database: str, pg: asyncpg.Connection) -> None:
    @asynccontextmanager
    async def flaky() -> AsyncIterator[Placing]:
        async with direct(database, NoOpTracer()) as way:
            yield Flaky(way)

    load = Load(LoadPlan(orders=6, connections=2))
    await make_load(load.plan, flaky, load, asyncio.Event())
    assert (len(set(load.order_ids)), load.repeated, sum(load.failed.values())) == (6, 6, 0)
    assert await pg.fetchval("SELECT count(*) FROM relay.outbox") == 6


async def test_a_database_killed_under_load_loses_and_doubles_nothing(
    private_postgres: EmbeddedPostgres, private_database: str, eventually: Eventually
) -> None:
    load = Load(LoadPlan(orders=150, rate=150, connections=4, attempts=60))
    task = asyncio.create_task(
        make_load(load.plan, lambda: direct(private_database, NoOpTracer()), load, asyncio.Event())
    )
    await eventually(lambda: len(load.order_ids) > 30)
    private_postgres.kill()
    before = len(load.order_ids)
    private_postgres.start()
    await task
    assert before < 150
    assert (len(set(load.order_ids)), sum(load.failed.values())) == (150, 0)
    pg = await asyncpg.connect(private_database)
    orders = {str(row[0]) for row in await pg.fetch("SELECT order_id FROM orders")}
    events = [row[0] for row in await pg.fetch("SELECT aggregate_id FROM relay.outbox")]
    await pg.close()
    assert sorted(events) == sorted(orders) == sorted(load.order_ids)


async def test_an_order_that_is_refused_is_counted_and_the_rest_goes_on(url: str) -> None:
    class Refusing(LoadPlan):
        def order(self, number: int) -> NewOrder:
            price = "1" if number % 2 else "x"
            return NewOrder("c", [Item("tea", 1, price)], "EUR", f"k{number}")

    load = Load(Refusing(orders=10, connections=2))
    await make_load(load.plan, lambda: over_http(url, 20), load, asyncio.Event())
    assert len(load.order_ids) == 5
    assert load.failed == {"schema_mismatch": 5}


async def test_a_service_that_is_away_is_said(unused_tcp_port: int) -> None:
    client = OrderClient(f"http://127.0.0.1:{unused_tcp_port}", 5)
    with pytest.raises(ServiceUnreachableError, match=str(unused_tcp_port)):
        await client.get("x")
    with pytest.raises(ServiceUrlError):
        OrderClient("ftp://x", 5)


async def test_a_connection_that_the_server_closed_is_opened_again(
    database: str, relay_process: Callable[..., Any], eventually: Eventually
) -> None:
    first = relay_process("sample", "serve", "--port", "0")
    url = (await eventually(lambda: first.stdout)).split()[-1]
    client = OrderClient(url, 20)
    assert (await client.get("x")).status == 404
    assert await asyncio.to_thread(first.terminate) == 0
    second = relay_process("sample", "serve", "--port", url.rpartition(":")[2])
    await eventually(lambda: second.stdout)
    assert (await client.get("x")).status == 404
    await client.close()


async def test_follow_tells_each_status_once() -> None:
    seen: list[str] = []
    statuses = iter(["submitted", "submitted", "processing", "processing", "rejected"])

    async def look() -> str:
        return next(statuses)

    last = await follow(look, seen.append, timeout_seconds=60, poll_seconds=0)
    assert (last, seen) == ("rejected", ["submitted", "processing", "rejected"])


async def test_waiting_for_returns_ends_with_those_that_are_missing(
    database: str, pg: asyncpg.Connection
) -> None:
    async with direct(database, NoOpTracer()) as way:
        ids = [
            (await way.place(NewOrder("c", [Item("tea", 1, "1")], "EUR", f"k{n}"))).order_id
            for n in range(3)
        ]
    await pg.execute("UPDATE orders SET status = 'rejected' WHERE order_id::text <> $1", ids[1])
    seen: list[int] = []
    missing = await wait_for_returns(pg, ids, 0.3, seen.append, asyncio.Event())
    assert (missing, seen[-1]) == ([ids[1]], 2)


async def test_hop_times_come_from_the_proofs_and_only_from_them(
    database: str, pg: asyncpg.Connection
) -> None:
    async with direct(database, NoOpTracer()) as way:
        ids = [
            (await way.place(NewOrder("c", [Item("tea", 1, "1")], "EUR", f"k{n}"))).order_id
            for n in range(3)
        ]
    # Two published 2 s after they were written; of them one returned 3 s later, applied 4 s later.
    await pg.execute(
        "INSERT INTO relay.delivery_ledger (epoch, topic, partition, base_offset, record_count,"
        " outbox_ids, id_range, published_at)"
        " SELECT 1, 't', 0, 0, 2, array_agg(id), int8range(min(id), max(id), '[]'),"
        "        max(created_at) + interval '2 s'"
        " FROM relay.outbox WHERE aggregate_id = ANY ($1)",
        ids[:2],
    )
    await pg.execute(
        "INSERT INTO relay.inbox (event_id, aggregate_id, status, new_status, outcome,"
        " content_hash, consumer_group, topic, partition, record_offset, recorded_at, received_at)"
        " SELECT 'e', $1, 'confirmed', 'confirmed', 'applied', '', 'g', 'r', 0, 0,"
        "        published_at + interval '3 s', published_at + interval '7 s'"
        " FROM relay.delivery_ledger",
        ids[0],
    )
    await pg.execute(
        "UPDATE orders SET status = 'confirmed', returned_at = submitted_at + interval '9 s'"
        " WHERE order_id::text = $1",
        ids[0],
    )
    times = await hop_times(pg, ids)
    assert {hop: one.count for hop, one in times.items()} == {
        "publish": 2,
        "process, return": 1,
        "confirm": 1,
        "placed to returned": 1,
    }
    assert times["publish"].p50_seconds == pytest.approx(2, abs=0.5)
    assert times["process, return"].max_seconds == pytest.approx(3)
    assert times["confirm"].max_seconds == pytest.approx(4)
    assert times["placed to returned"].max_seconds == pytest.approx(9)


def test_percentiles_are_by_nearest_rank() -> None:
    assert times_of([]) is None
    times = times_of([n / 100 for n in range(100, 0, -1)])
    assert times is not None
    assert (times.count, times.p50_seconds, times.p99_seconds) == (100, 0.5, 0.99)
    assert times.max_seconds == 1.0
