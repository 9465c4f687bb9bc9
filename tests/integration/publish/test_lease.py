"""One active relay: takeover, fencing, and what a relay that lost its lease can no longer do."""

import asyncio
from typing import Any

import asyncpg
import pytest

from relay.publish.errors import CheckpointConflictError, LeaseLostError, RestoredDatabaseError
from relay.publish.ownership.lease import WRITER_NAME, Lease, Taken
from relay.publish.ownership.server_identity import refuse_two_servers, server_state
from relay.publish.reading.checkpoint import CheckpointWriter, Delivery, Parked
from relay.publish.reading.window import Position, Snapshot
from relay.runtime.database import connect


async def lease_of(lab: Any, owner: str, seconds: float = 5.0) -> Lease:
    connection = await connect(lab.dsn, WRITER_NAME)
    lab.connections.append(connection)
    return Lease(connection, 0, owner, seconds)


async def take(lease: Lease) -> Taken | None:
    return await lease.take()


@pytest.fixture
async def lab(lab: Any) -> Any:
    lab.connections = []
    yield lab
    for connection in lab.connections:
        connection.terminate()


async def expire(lab: Any) -> None:
    await lab.pg.execute("UPDATE relay.lease SET expires_at = clock_timestamp() - interval '1 s'")


async def test_one_holds_it_and_the_other_waits(lab: Any) -> None:
    first, second = await lease_of(lab, "first"), await lease_of(lab, "second")
    assert await take(first) is not None
    assert await take(second) is None
    await first.renew()
    await first.release()
    taken = await take(second)
    assert taken is not None
    assert taken.checkpoint.epoch == second.epoch == first.epoch + 1
    with pytest.raises(LeaseLostError):
        await first.renew()


async def test_two_that_ask_at_once_do_not_both_get_it(lab: Any) -> None:
    leases = [await lease_of(lab, f"relay-{n}") for n in range(5)]
    for _ in range(5):
        await expire(lab)
        taken = await asyncio.gather(*(take(lease) for lease in leases))
        assert sum(one is not None for one in taken) == 1


async def test_its_owner_takes_it_again_under_a_new_epoch(lab: Any) -> None:
    before, after = await lease_of(lab, "same"), await lease_of(lab, "same")
    await take(before)
    assert await take(after) is not None
    assert after.epoch == before.epoch + 1


async def test_a_checkpoint_of_an_older_epoch_writes_nothing_at_all(lab: Any) -> None:
    first, second = await lease_of(lab, "first"), await lease_of(lab, "second")
    taken = await take(first)
    assert taken is not None
    await expire(lab)
    await take(second)
    zombie = CheckpointWriter(first.connection, taken.checkpoint)
    parked = Parked(7, bytes(16), "o", "no_topic", None, None, None)
    with pytest.raises(CheckpointConflictError):
        await zombie.advance(Position(Snapshot(9, 9)), [Delivery("t", 0, 5, [1, 2])], [parked], [3])
    assert await lab.published() == 0
    assert await lab.quarantine() == []
    assert await lab.pg.fetchval("SELECT prev::text FROM relay.checkpoint") == "3:3:"


async def test_a_checkpoint_is_not_written_twice(lab: Any) -> None:
    lease = await lease_of(lab, "one")
    taken = await take(lease)
    assert taken is not None
    writer = CheckpointWriter(lease.connection, taken.checkpoint)
    again = CheckpointWriter(lease.connection, taken.checkpoint)
    delivery = Delivery("t", 0, None, [1, 2])
    await writer.advance(Position(Snapshot(9, 9)), [delivery], [])
    with pytest.raises(CheckpointConflictError):
        await again.advance(Position(Snapshot(9, 9)), [delivery], [])
    await writer.advance(Position(Snapshot(9, 12), Snapshot(12, 14, (12,)), -5), [], [])
    row = await lab.pg.fetchrow(
        "SELECT prev::text, cur::text, last_id, high_id FROM relay.checkpoint"
    )
    assert tuple(row) == ("9:12:", "12:14:12", -5, 2)
    assert await lab.pg.fetchval("SELECT base_offset IS NULL FROM relay.delivery_ledger")


@pytest.mark.parametrize("parked", [[], [Parked(9, bytes(16), "o", "no_topic", None, None, None)]])
async def test_the_proof_is_the_same_with_and_without_parked_rows(
    lab: Any, parked: list[Parked]
) -> None:
    lease = await lease_of(lab, "one")
    taken = await take(lease)
    assert taken is not None
    sent = [
        Delivery("orders.events", 3, 40, [7, 5, 6]),
        Delivery("NULL", 0, None, [8]),  # Kafka takes such a name
    ]
    await CheckpointWriter(lease.connection, taken.checkpoint).advance(
        Position(Snapshot(9, 9)), sent, parked
    )
    rows = await lab.pg.fetch(
        "SELECT topic, partition, base_offset, record_count, outbox_ids, id_range::text, replay_id"
        " FROM relay.delivery_ledger ORDER BY partition DESC"
    )
    assert [tuple(row) for row in rows] == [
        ("orders.events", 3, 40, 3, [7, 5, 6], "[5,8)", None),
        ("NULL", 0, None, 1, [8], "[8,9)", None),
    ]
    assert len(await lab.quarantine()) == len(parked)


async def test_a_stale_backend_that_holds_the_checkpoint_is_ended(lab: Any) -> None:
    frozen = await lease_of(lab, "frozen")
    await take(frozen)
    await frozen.connection.execute("BEGIN")
    await frozen.connection.execute("UPDATE relay.checkpoint SET last_id = last_id")
    await expire(lab)
    heir = await lease_of(lab, "heir")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await take(heir)
    assert await take(heir) is not None
    gone = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
    with pytest.raises(gone):
        await frozen.connection.execute("COMMIT")


async def test_a_foreign_backend_that_got_the_pid_is_left_alone(lab: Any) -> None:
    heir = await lease_of(lab, "heir")
    pid = lab.pg.get_server_pid()
    await lab.pg.execute(
        "UPDATE relay.lease SET owner = 'gone', backend_pid = $1,"
        " expires_at = clock_timestamp() - interval '1 s' WHERE duty = 'relay'",
        pid,
    )
    async with lab.pg.transaction():
        await lab.pg.execute("UPDATE relay.checkpoint SET last_id = last_id")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await take(heir)
    assert await take(heir) is not None


async def test_a_standby_takes_over_when_the_active_relay_dies(lab: Any) -> None:
    await lab.fill(300)
    active = lab.relay(lease_seconds=1.0)
    await lab.until_published(300)
    standby = lab.relay(lease_seconds=1.0)
    await lab.until(lambda: standby.service.state == "standby")
    assert standby.service.ready
    await active.kill()
    await lab.fill(600, start=300)
    await lab.until_published(600)
    assert standby.service.epoch == 2
    await standby.stop()
    await lab.assert_published(600)


async def test_a_standby_takes_over_at_once_when_the_active_relay_is_stopped(lab: Any) -> None:
    active = lab.relay(lease_seconds=60.0)
    await lab.until(lambda: active.service.state == "active")
    standby = lab.relay(lease_seconds=60.0)
    await lab.until(lambda: standby.service.state == "standby")
    await active.stop()
    await lab.until(lambda: standby.service.state == "active", 5)
    await standby.stop()


async def test_a_relay_that_cannot_renew_stops_before_the_lease_lapses(lab: Any) -> None:
    relay = lab.relay(lease_seconds=4.0)
    await lab.fill(100)
    await lab.until_published(100)
    blocker = await asyncpg.connect(lab.dsn)
    lab.connections.append(blocker)
    async with blocker.transaction():
        await blocker.execute("SELECT FROM relay.lease WHERE duty = 'relay' FOR UPDATE")
        await lab.until(lambda: relay.service.state != "active")
        # By its own clock: the database would have let nobody else in yet (half a second is for
        # whoever looks; renewing takes place a second after the renewal before).
        assert await lab.pg.fetchval(
            "SELECT expires_at > clock_timestamp() - interval '0.5 s' FROM relay.lease"
            " WHERE duty = 'relay'"
        )
    await lab.until(lambda: relay.service.state == "active")
    assert relay.service.epoch > 1
    await relay.stop()


@pytest.mark.parametrize("point", ["before_send", "after_send_before_checkpoint"])
async def test_a_relay_that_froze_can_only_repeat(lab: Any, point: str) -> None:
    frozen, thaw = asyncio.Event(), asyncio.Event()

    async def freeze(reached: str) -> None:
        if reached == point and not frozen.is_set():
            frozen.set()
            await thaw.wait()

    await lab.fill(500)
    zombie = lab.relay(test_point=freeze, page_rows=50, lease_seconds=1.0)
    await frozen.wait()
    # A frozen process renews nothing either.
    zombie_lease_loop_off(zombie)
    await expire(lab)
    heir = lab.relay(page_rows=50, lease_seconds=30.0)
    await lab.until_published(500)
    await lab.fill(800, start=500)
    await lab.until_published(800)
    thaw.set()
    await lab.until(lambda: zombie.service.state == "standby")
    await lab.fill(1000, start=800)
    await lab.until_published(1000)
    await heir.stop()
    await zombie.stop()
    records = await lab.assert_published(1000)
    assert len(records) <= 1000 + 150  # three pages


def zombie_lease_loop_off(zombie: Any) -> None:
    """The test freezes one coroutine; a SIGSTOP would freeze the renewals as well."""
    for task in asyncio.all_tasks():
        if "Tenure._renew" in repr(task.get_coro()):
            task.cancel()


async def test_another_clusters_checkpoint_is_refused(lab: Any) -> None:
    async with lab.relaying():
        await lab.fill(10)
        await lab.until_published(10)
    await lab.pg.execute("UPDATE relay.checkpoint SET system_identifier = 1")
    relay = lab.relay()
    with pytest.raises(RestoredDatabaseError, match="relay rebaseline"):
        await relay.task
    assert await lab.pg.fetchval("SELECT epoch FROM relay.checkpoint") == 1
    reason = await lab.pg.fetchval(
        "SELECT stop_reason FROM relay.process_record ORDER BY started_at DESC LIMIT 1"
    )
    assert reason == "RestoredDatabaseError"


@pytest.mark.parametrize(
    ("prev", "cur", "last_id"),
    [("99999999999:99999999999:", None, None), ("3:3:", "99999999999:99999999999:", 0)],
)
async def test_a_checkpoint_ahead_of_the_database_is_refused(
    lab: Any, prev: str, cur: str | None, last_id: int | None
) -> None:
    await lab.pg.execute(
        "UPDATE relay.checkpoint SET prev = $1::text::pg_snapshot, cur = $2::text::pg_snapshot,"
        " last_id = $3",
        prev,
        cur,
        last_id,
    )
    await lab.fill(10)
    with pytest.raises(RestoredDatabaseError, match="99999999999"):
        await lab.relay().task
    assert await lab.published() == 0


async def test_a_new_timeline_is_an_ordinary_failover_and_is_recorded(lab: Any) -> None:
    async with lab.relaying():
        await lab.until(lambda: lab.running[0].service.state == "active")
    await lab.pg.execute("UPDATE relay.checkpoint SET timeline = '00000000'")
    async with lab.relaying():
        await lab.fill(10)
        await lab.until_published(10)
    row = await lab.pg.fetchrow("SELECT * FROM relay.audit_log")
    assert row["action"] == "timeline_changed"
    assert "00000000" in row["detail"]


async def test_reader_and_writer_on_two_servers_are_refused(lab: Any) -> None:
    state = await server_state(lab.pg)
    refuse_two_servers(state, state)
    with pytest.raises(Exception, match="two servers"):
        refuse_two_servers(
            state, type(state)(state.system_identifier, "00000009", state.instance, 1)
        )


async def test_a_database_that_was_never_migrated_is_a_typed_error(
    lab: Any, empty_database: str
) -> None:
    lab.dsn = empty_database
    with pytest.raises(Exception, match="relay migrate"):
        await lab.relay().task
