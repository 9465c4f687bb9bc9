"""Databases that were restored, copied or promoted: no row is skipped."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from relay.embedded.folders import run_folder
from relay.runtime.migrations import migrate
from tests.replica import Replicated
from tests.worlds.world import WORLD

SETTINGS = {"wal_level": "logical", "wal_keep_size": "64MB", "fsync": "off"}


@pytest.fixture
def new_server() -> Iterator[Callable[[], Replicated]]:
    """Start servers of this test's own."""
    with ExitStack() as stack:

        def start(make: Callable[[Path], Replicated] | None = None) -> Replicated:
            folder = stack.enter_context(run_folder())
            build = make or (lambda place: Replicated(place, **WORLD.standby_options(SETTINGS)))
            server = build(folder / "postgres")
            server.start()
            stack.callback(server.kill)
            return server

        yield start


def on(dsn: str, database: str) -> str:
    """Return the URL of another database of the same server."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{database}"))


@dataclass
class Place:
    """A database, and the shop as it is seen from there."""

    shop: Any
    dsn: str
    pg: asyncpg.Connection

    async def append(self, order: str, count: int = 1) -> list[str]:
        return [str(await self._append(order)) for _ in range(count)]

    async def _append(self, order: str) -> Any:
        return await self.pg.fetchval(
            "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
            " VALUES ('order', $1, 'order.placed', '{}') RETURNING event_id",
            order,
        )

    def start(self, *arguments: str) -> Any:
        return self.shop.start(*arguments, DATABASE_URL=self.dsn, RELAY_PUBLISH_LEASE_SECONDS="2")

    async def relayed(self, count: int) -> None:
        """Run a relay until the ledger knows so many events, and stop it."""
        relay = self.start("run")
        await self.known(count)
        assert relay.terminate() == 0

    async def known(self, count: int) -> None:
        sql = "SELECT coalesce(sum(record_count), 0) >= $1 FROM relay.delivery_ledger"
        await self.shop.eventually(lambda: self.pg.fetchval(sql, count), 40)

    async def refused(self) -> str:
        """Start a relay, see that it refuses and sends nothing; return what it said."""
        before = len(self.shop.published())
        relay = self.start("run")
        code = await asyncio.to_thread(relay.wait, 40)
        assert code == 1, relay.stderr
        assert len(self.shop.published()) == before
        return str(relay.stderr)

    def command(self, *arguments: str) -> Any:
        return self.shop.command(*arguments, dsn=self.dsn)

    def plan(self) -> dict[str, Any]:
        done = self.command("rebaseline", "--json")
        assert done.returncode in (0, 3), done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        assert found["needed"] == (done.returncode == 3)
        return found

    def execute(self) -> dict[str, Any]:
        done = self.command("rebaseline", "--execute", "--reason", "restored", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
async def at(shop: Any) -> AsyncIterator[Callable[[str], Any]]:
    """Connect to a database: a Place."""
    opened: list[asyncpg.Connection] = []

    async def connect(dsn: str) -> Place:
        connection = await asyncpg.connect(dsn)
        opened.append(connection)
        return Place(shop, dsn, connection)

    yield connect
    for connection in opened:
        connection.terminate()


def by_order(records: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the events of each order, first occurrences, in the order of the log."""
    found: dict[str, list[str]] = {}
    for order, event in records:
        events = found.setdefault(order, [])
        if event not in events:
            events.append(event)
    return found


async def test_after_dump_and_restore_nothing_is_skipped_and_ghosts_are_named(
    shop: Any, at: Any, new_server: Any
) -> None:
    one, two = new_server(), new_server()
    await migrate(one.dsn(), sample=True)
    old = await at(one.dsn())
    # The old cluster has come further than the new one will for long.
    await old.pg.execute("DO $$ BEGIN FOR n IN 1..3000 LOOP PERFORM pg_current_xact_id();"
                         " COMMIT; END LOOP; END $$")  # fmt: skip
    early = await old.append("o-1", 3)
    await old.relayed(3)
    waiting = await old.append("o-1", 2)
    roles = one.run("pg_dumpall", "-d", one.dsn(), "--roles-only").stdout
    dump = one.run("pg_dump", "-d", one.dsn(), "-Fp").stdout
    # Behind the dump's back: sent and forgotten, and written and forgotten.
    lost = await old.append("o-2", 2)
    await old.relayed(7)
    one.kill()

    own = b"".join(line for line in roles.splitlines(True) if b" postgres" not in line)
    two.run("psql", "-d", two.dsn(), "-q", "-v", "ON_ERROR_STOP=1", input=own + dump)
    new = await at(two.dsn())
    assert "relay rebaseline" in await new.refused()
    fresh = await new.append("o-1", 2)
    other = await new.append("o-3")

    found = new.plan()
    assert "cluster" in found["wrong"][0]
    rows = found["rows"]
    assert (rows["published"], rows["unpublished"], rows["foreign"]) == (3, 5, 3)
    later = found["later_records"]
    assert (later["records"], later["duplicates"], later["ghosts"]) == (4, 2, 2)
    assert {event for _, event, _ in later["some"]} == set(lost)
    assert "ghost" in new.command("rebaseline").stdout
    assert await new.pg.fetchval("SELECT count(*) FROM relay.audit_log") == 0

    done = new.execute()
    assert (done["to_send"], done["set_behind"]) == (5, 3)
    await new.relayed(8)
    newest = await new.append("o-1")
    await new.relayed(9)
    assert by_order(shop.published()) == {
        "o-1": [*early, *waiting, *fresh, *newest], "o-2": lost, "o-3": other,
    }  # fmt: skip
    audits = await new.pg.fetch("SELECT result, why, detail FROM relay.audit_log"
                                " WHERE action = 'rebaseline' ORDER BY audit_id")  # fmt: skip
    assert [row["result"] for row in audits] == ["started", "5 rows to send"]
    detail = json.loads(audits[1]["detail"])
    assert detail["before"]["system_identifier"] != detail["after"]["system_identifier"]
    ghosts = new.command("reconcile", "--json")
    assert ghosts.returncode == 3
    # None of these events has an order: those of two that are there say so, too.
    found = json.loads(ghosts.stdout)["found"]
    assert found == {"record_without_row": 2, "order_gone": 2}
    # The days of the restored rows can be dropped again: all of them count as handed over.
    names = await new.pg.fetch("SELECT c.relname FROM pg_partition_tree('relay.outbox') p"
                               " JOIN pg_class c ON c.oid = p.relid WHERE p.isleaf")  # fmt: skip
    for name in names:
        await new.pg.execute("SET search_path = relay")
        bare = name["relname"]
        assert await new.pg.fetchval("SELECT relay.is_handed_over($1)", bare)


async def test_a_copy_in_the_same_cluster_is_noticed(shop: Any, at: Any, new_server: Any) -> None:
    server = new_server()
    await migrate(server.dsn(), sample=True)
    original = await at(server.dsn())
    first = await original.append("o-1", 2)
    await original.relayed(2)
    waiting = await original.append("o-1")
    original.pg.terminate()
    keeper = await asyncpg.connect(on(server.dsn(), "template1"))
    await keeper.execute("CREATE DATABASE copy TEMPLATE postgres")
    await keeper.close()
    copy = await at(on(server.dsn(), "copy"))
    assert "another database or table" in await copy.refused()
    assert copy.plan()["rows"]["unpublished"] == 1
    assert copy.execute()["to_send"] == 1
    await copy.relayed(3)
    assert shop.published() == [("o-1", event) for event in first + waiting]
    # The original is still its own.
    assert (await at(server.dsn())).plan()["needed"] is False


async def test_an_older_dump_restored_over_the_database_is_noticed(
    shop: Any, at: Any, new_server: Any
) -> None:
    server = new_server()
    await migrate(server.dsn(), sample=True)
    place = await at(server.dsn())
    await place.append("o-1")
    await place.relayed(1)
    await place.append("o-1", 2)
    dump = server.run("pg_dump", "-d", server.dsn(), "-Fp", "--clean").stdout
    await place.relayed(3)
    server.run("psql", "-d", server.dsn(), "-q", input=dump)
    assert "another database or table" in await place.refused()
    found = place.plan()
    assert (found["rows"]["unpublished"], found["later_records"]["duplicates"]) == (2, 2)
    place.execute()
    await place.relayed(3)
    assert len(shop.published()) == 5


async def test_a_logical_copy_without_its_sequences(shop: Any, at: Any, new_server: Any) -> None:
    one, two = new_server(), new_server()
    for server in (one, two):
        await migrate(server.dsn(), sample=True)
    old, new = await at(one.dsn()), await at(two.dsn())
    early = await old.append("o-1", 3)
    await old.relayed(3)
    waiting = await old.append("o-1", 1)
    await old.pg.execute("CREATE PUBLICATION copy FOR TABLES IN SCHEMA relay, public"
                         " WITH (publish_via_partition_root = true)")  # fmt: skip
    tables = await new.pg.fetch(
        """SELECT c.oid::regclass::text AS name FROM pg_class c
            WHERE relnamespace IN ('relay'::regnamespace, 'public'::regnamespace)
              AND relkind IN ('r', 'p') AND NOT relispartition"""
    )
    names = ", ".join(row["name"] for row in tables)
    await new.pg.execute(f"TRUNCATE {names}")
    await new.pg.execute(f"CREATE SUBSCRIPTION copy CONNECTION '{one.dsn()}' PUBLICATION copy")
    await shop.eventually(
        lambda: new.pg.fetchval(
            "SELECT count(*) > 0 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel"
        ),
        60,
    )
    await new.pg.execute("DROP SUBSCRIPTION copy")
    one.kill()

    assert "relay rebaseline" in await new.refused()
    # The copy begins at id 1 again.
    fresh = await new.append("o-2", 2)
    ids = await new.pg.fetch("SELECT id FROM relay.outbox WHERE aggregate_id = 'o-2' ORDER BY id")
    assert [row["id"] for row in ids] == [1, 2]
    found = new.plan()["rows"]
    assert (found["published"], found["unpublished"], found["issued_twice"]) == (3, 3, 2)
    done = new.execute()
    assert done["to_send"] == 3
    assert done["sequences"] >= 1
    await new.relayed(6)
    newest = await new.append("o-1")
    assert await new.pg.fetchval("SELECT max(id) FROM relay.outbox") == 5
    await new.relayed(7)
    assert by_order(shop.published()) == {"o-1": [*early, *waiting, *newest], "o-2": fresh}


async def test_a_standby_promoted_with_a_lag_needs_nothing_and_its_ghosts_are_named(
    shop: Any, at: Any, new_server: Any
) -> None:
    primary = new_server()
    await migrate(primary.dsn(), sample=True)
    old = await at(primary.dsn())
    early = await old.append("o-1", 2)
    await old.relayed(2)
    standby = new_server(primary.standby)
    watch = await asyncpg.connect(standby.dsn())
    waiting = await old.append("o-1", 1)
    await shop.eventually(lambda: watch.fetchval("SELECT count(*) = 3 FROM relay.outbox"), 30)
    # The stream is cut: what is written from here on never comes to the standby.
    await watch.execute("ALTER SYSTEM SET primary_conninfo = ''")
    await watch.execute("SELECT pg_reload_conf()")
    await shop.eventually(lambda: watch.fetchval("SELECT count(*) = 0 FROM pg_stat_wal_receiver"))
    # The lag: written, published, and gone with the primary.
    lost = await old.append("o-2", 2)
    await old.relayed(5)
    primary.kill()
    await watch.close()

    # Whoever waits for the old primary finds a standby first, and no relay trusts one.
    new_dsn = standby.dsn()
    relay = shop.start("run", DATABASE_URL=new_dsn)
    await shop.eventually(lambda: "standby" in relay.stderr, 30)
    keeper = await asyncpg.connect(new_dsn)
    assert await keeper.fetchval("SELECT pg_promote()")
    await keeper.close()
    new = await at(new_dsn)
    # The ids of what was lost are given out again, and so are their transactions' numbers.
    fresh = await new.append("o-1", 1)
    other = await new.append("o-3", 1)
    await new.known(5)
    assert relay.terminate() == 0

    assert new.plan()["needed"] is False
    found = by_order(shop.published())
    assert found["o-1"] == [*early, *waiting, *fresh]
    assert (found["o-2"], found["o-3"]) == (lost, other)
    noted = await new.pg.fetchrow("SELECT * FROM relay.audit_log WHERE action = 'timeline_changed'")
    assert noted is not None
    ghosts = json.loads(new.command("reconcile", "--json").stdout)
    # None of these events has an order: those of two that are there say so, too.
    assert ghosts["found"] == {"record_without_row": 2, "order_gone": 2}
    details = {
        one["detail"] for one in ghosts["findings"] if one["difference"] == "record_without_row"
    }
    assert details == {f"event {event}" for event in lost}


async def test_a_row_copied_in_from_a_cluster_further_on_stops_the_relay(
    shop: Any, at: Any
) -> None:
    place = await at(shop.database)
    await place.append("o-1")
    await place.relayed(1)
    copied = await place.append("o-2")
    await place.pg.execute(
        "UPDATE relay.outbox SET txid = '99999999999' WHERE aggregate_id = 'o-2'"
    )
    assert "has not come to" in await place.refused()
    assert place.execute()["to_send"] == 1
    await place.relayed(2)
    assert ("o-2", copied[0]) in shop.published()


async def test_it_is_refused_while_a_relay_is_active(shop: Any, at: Any) -> None:
    place = await at(shop.database)
    await place.append("o-1")
    relay = place.start("run")
    await place.known(1)
    refused = place.command("rebaseline", "--execute", "--reason", "x")
    assert refused.returncode == 1
    assert "a relay is active" in refused.stderr
    assert "stop every" in place.command("rebaseline").stdout
    assert relay.is_running()
    assert place.command("rebaseline", "--execute").returncode == 2
    assert await place.pg.fetchval("SELECT count(*) FROM relay.audit_log") == 0


async def test_parked_and_discarded_events_stay_where_they_are(shop: Any, at: Any) -> None:
    place = await at(shop.database)
    await shop.append("o-1", "order.unheard_of")
    await place.append("o-1")
    await shop.append("o-2", "order.unheard_of")
    relay = place.start("run")
    await shop.until_quarantined(3)
    relay.terminate()
    shop.data("quarantine", "discard", "--order", "o-2", "--reason", "x")
    await place.pg.execute("UPDATE relay.checkpoint SET system_identifier = 1")
    found = place.plan()["rows"]
    assert (found["settled"], found["unpublished"]) == (3, 0)
    assert place.execute()["to_send"] == 0
    fresh = await place.append("o-3")
    await place.relayed(1)
    assert shop.published() == [("o-3", fresh[0])]
    assert (
        await place.pg.fetchval("SELECT count(*) FROM relay.quarantine WHERE state = 'held'") == 2
    )


async def test_the_operator_role_suffices_and_the_observer_role_does_not(
    shop: Any, at: Any
) -> None:
    place = await at(shop.database)
    await place.append("o-1", 2)
    await place.relayed(2)
    await place.pg.execute("UPDATE relay.checkpoint SET system_identifier = 1")
    observer = replace(place, dsn=await shop.login("relay_observer"))
    assert observer.plan()["needed"] is True
    refused = observer.command("rebaseline", "--execute", "--reason", "x")
    assert refused.returncode == 1
    assert "relay_operator" in refused.stderr
    assert place.plan()["needed"] is True
    operator = replace(place, dsn=await shop.login("relay_operator"))
    assert operator.execute()["to_send"] == 0
    assert place.plan()["needed"] is False


@asynccontextmanager
async def transaction(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        yield connection
    await connection.close()


async def test_rows_that_are_being_written_meanwhile_are_sent_too(shop: Any, at: Any) -> None:
    place = await at(shop.database)
    await place.append("o-1", 3)
    await place.relayed(3)
    await place.pg.execute("UPDATE relay.checkpoint SET system_identifier = 1")
    async with transaction(place.dsn) as writer:
        early = Place(shop, place.dsn, writer)
        open_event = await early.append("o-2")
        await place.append("o-3")
        place.execute()
    await place.relayed(5)
    assert ("o-2", open_event[0]) in shop.published()
    assert len(shop.published()) == 5
