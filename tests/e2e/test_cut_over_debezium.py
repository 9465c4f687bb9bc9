"""The day of the move, and back: a real Debezium runs at that moment; no gap, no copy, in order."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.corpus.wiring import Wiring
from tests.crash.foreign_publisher import read
from tests.debezium_server import DebeziumServer, server_folder
from tests.e2e.elsewhere import INACTIVE, connector_for

ORDERS = 8
SOME = 40
OURS = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
VALUES ('order', %(order)s, 'order.placed', jsonb_build_object('n', %(n)s::int))
"""
THEIRS = """
INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload)
VALUES (%(kind)s, %(order)s, 'order.placed', jsonb_build_object('n', %(n)s::int))
"""
PROVEN = """
SELECT count(*) FROM relay.delivery_ledger AS l, unnest(l.outbox_ids)
"""


@contextmanager
def writing(url: str, insert: str, kind: str = "") -> Iterator[dict[str, int]]:
    """Write one event after the other, of a few orders in turn; yields how many each has."""
    stop, counts = threading.Event(), dict.fromkeys(map(str, range(ORDERS)), 0)

    def write() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not stop.is_set():
                for order, n in counts.items():
                    connection.execute(insert, {"order": order, "n": n, "kind": kind})
                    counts[order] = n + 1
                stop.wait(0.02)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join()


def stands(bootstrap: str, topic: str) -> dict[str, list[int]]:
    """Return what the topic holds of each order, in its order."""
    found: dict[str, list[int]] = {}
    for one in read(bootstrap, topic):
        found.setdefault(one.key().decode().strip('"'), []).append(json.loads(one.value())["n"])
    return found


def everything(counts: Mapping[str, int]) -> dict[str, list[int]]:
    """Each event once, in order."""
    return {order: list(range(count)) for order, count in counts.items()}


async def complete(wiring: Wiring, topic: str, counts: Mapping[str, int]) -> bool:
    """See that each event stands there once, in its order's order."""
    found = await asyncio.to_thread(stands, wiring.bootstrap, topic)
    wanted = everything(counts)
    wrong = {order: (found.get(order), n) for order, n in wanted.items() if found.get(order) != n}
    assert not wrong, wrong
    return True


async def until_more(wiring: Wiring, topic: str, count: int = SOME) -> None:
    """Wait for so many records more than there are."""

    async def held() -> tuple[int]:
        found = await asyncio.to_thread(stands, wiring.bootstrap, topic)
        return (sum(map(len, found.values())),)

    (before,) = await wiring.eventually(held)

    async def enough() -> bool:
        return (await held())[0] >= before + count

    await wiring.eventually(enough, within_seconds=90)


@pytest.mark.timeout(600)
async def test_the_outbox_is_handed_over_to_debezium_and_taken_back_between_two_rows(
    wiring: Wiring, debezium_names: dict[str, str], tmp_path: Path
) -> None:
    await asyncio.to_thread(server_folder)
    slot, pg = debezium_names["slot"], wiring.pg
    await pg.execute("ALTER PUBLICATION relay_outbox DROP TABLE relay.outbox")
    wiring.topics.make(f"__debezium-heartbeat.{slot}", 1)
    lab = SimpleNamespace(dsn=wiring.database, topic=wiring.events)
    hand_over = ("run", "--hand-over", "relay_outbox")

    async def command(*arguments: str) -> Any:
        return await asyncio.to_thread(wiring.run_command, *arguments, env=wiring.environment)

    with writing(wiring.database, OURS) as counts:
        relay = wiring.relay()
        await until_more(wiring, wiring.events)
        refused = await command(*hand_over)
        assert refused.returncode == 1
        assert "stop it first" in refused.stderr
        assert relay.terminate() == 0
        done = await command(*hand_over)
        assert done.returncode == 0, done.stderr
        assert "all before it is published" in done.stderr
        again = await command(*hand_over)
        assert (again.returncode, "nothing to hand over" in again.stderr) == (0, True)
        server = DebeziumServer(tmp_path, wiring.bootstrap, connector_for(lab, debezium_names))  # type: ignore[arg-type]
        try:
            await until_more(wiring, wiring.events)
            wiring.environment |= {
                "RELAY_PUBLISHER_KIND": "external", "RELAY_PUBLISHER_SLOT": slot,
                "RELAY_PUBLISHER_WITNESS_GROUP": f"witness-{wiring.topics.suffix}",
            }  # fmt: skip
            witness = wiring.start("witness")
            await until_more(wiring, wiring.events)
            await asyncio.to_thread(server.stop)
        finally:
            await asyncio.to_thread(server.kill)
        await wiring.eventually(lambda: pg.fetchval(INACTIVE, slot))

        async def witnessed() -> bool:
            found = await asyncio.to_thread(stands, wiring.bootstrap, wiring.events)
            return sum(map(len, found.values())) == await pg.fetchval(PROVEN)

        await wiring.eventually(witnessed)
        assert witness.terminate() == 0
        wiring.environment["RELAY_PUBLISHER_KIND"] = "relay"
        del wiring.environment["RELAY_PUBLISHER_SLOT"]
        relay = wiring.start("run", "--take-over")
        await until_more(wiring, wiring.events)

    await wiring.eventually(lambda: complete(wiring, wiring.events, counts))
    assert relay.terminate() == 0


SHOP = """
CREATE TABLE public.outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text,
    aggregateid text, type text, payload jsonb);
CREATE PUBLICATION dbz_publication FOR TABLE public.outbox;
GRANT SELECT ON public.outbox TO {login};
"""
# As the page says it.
(LEFT,) = re.findall(
    r"```sql\n *(SELECT count\(DISTINCT xid[^`]*pg_logical_slot_peek[^`]*?);\n *```",
    (Path(__file__).parents[2] / "docs/adopting.md").read_text("utf-8"),
    re.DOTALL,
)


def shops_connector(url: str, names: dict[str, str]) -> dict[str, str]:
    """The connector of a shop that has Debezium: the router's own defaults."""
    database, slot = urlsplit(url), names["slot"]
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": str(database.hostname), "database.port": str(database.port),
        "database.user": names["login"], "database.password": "x",
        "database.dbname": database.path.removeprefix("/"), "topic.prefix": slot,
        "table.include.list": "public\\.outbox", "plugin.name": "pgoutput", "slot.name": slot,
        "slot.drop.on.stop": "false", "publication.name": "dbz_publication",
        "publication.autocreate.mode": "disabled", "snapshot.mode": "no_data",
        "heartbeat.interval.ms": "1000", "poll.interval.ms": "10",
        "tombstones.on.delete": "false", "transforms": "outbox",
        "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
    }  # fmt: skip


@pytest.mark.timeout(600)
async def test_a_shops_outbox_moves_from_debezium_to_the_relay_and_back(
    wiring: Wiring, debezium_names: dict[str, str], tmp_path: Path
) -> None:
    await asyncio.to_thread(server_folder)
    slot, pg = debezium_names["slot"], wiring.pg
    kind = f"order{wiring.topics.suffix}"
    topic = f"outbox.event.{kind}"
    wiring.topics.make(topic, 3)
    wiring.topics.make(f"__debezium-heartbeat.{slot}", 1)
    for statement in SHOP.format(login=debezium_names["login"]).split(";")[:-1]:
        await pg.execute(statement)
    settings = tmp_path / "relay.toml"
    settings.write_text(
        f'[flow.orders]\naggregate_type = "{kind}"\nwire = "debezium"\n'
        f'[flow.orders.events."order.placed"]\ndeadline_seconds = 900\n'
    )
    env = {"RELAY_CONFIG": str(settings), "RELAY_METRICS_ENABLED": "false"}
    config = shops_connector(wiring.database, debezium_names)

    async def move(*arguments: str) -> None:
        mirror = ("trigger", "mirror", "public.outbox")
        printed = await asyncio.to_thread(wiring.run_command, *mirror, *arguments, env=env)
        assert printed.returncode == 0, printed.stderr
        await pg.execute(printed.stdout)

    server = DebeziumServer(tmp_path, wiring.bootstrap, config)
    try:
        with writing(wiring.database, THEIRS, kind) as counts:
            await until_more(wiring, topic)
            await move("--publication", "dbz_publication")
            while True:
                await asyncio.to_thread(server.stop)
                await wiring.eventually(lambda: pg.fetchval(INACTIVE, slot))
                if await pg.fetchval(LEFT.replace("'dbz'", f"'{slot}'")):
                    break
                server = DebeziumServer(tmp_path, wiring.bootstrap, config)
            relay = wiring.start_process("run", env=env)
            await until_more(wiring, topic)
            await move("--back", "dbz_publication")

            async def drained() -> bool:
                state = await asyncio.to_thread(wiring.run_command, "status", "--json", env=env)
                return bool(json.loads(state.stdout)["hops"]["publish"]["waiting"] == 0)

            await wiring.eventually(drained)
            assert relay.terminate() == 0
            server = DebeziumServer(tmp_path, wiring.bootstrap, config)
            await until_more(wiring, topic)
        await wiring.eventually(lambda: complete(wiring, topic, counts), within_seconds=30)
    finally:
        await asyncio.to_thread(server.kill)
