"""What goes wrong: each fault happens for a while, and says from when on recovery is counted.

Times are drawn by the round's own dice, so that a seed names a run; what the machine does with them
is its own business.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import asyncpg
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from relay.embedded.server import EmbeddedServer
from tests.faults.programs import Program
from tests.faults.proxy import is_checkpoint, is_commit, is_commit_offsets, is_produce
from tests.faults.stage import EVENTS, RETURNS, Stage, until

# Returns when it is over: recovery counts from then.
Fault = Callable[[Stage, random.Random], Awaitable[None]]


@dataclass(frozen=True)
class Kind:
    """A fault by name.

    Attributes:
        act: does it.
        hop: recovered is whatever was committed before and has passed this hop.
        goal_seconds: for the 99th percentile of recovery; None: none is set.
        brokers: how many it needs.
        small_disks: whether it needs disks that can be filled.
        alone: whether no other fault happens in its round: it needs what they take away.
        weight: how often it is drawn.
    """

    name: str
    act: Fault
    hop: int = 5
    goal_seconds: float | None = None
    brokers: int = 1
    small_disks: bool = False
    alone: bool = False
    weight: int = 2


async def _sleep(luck: random.Random, low: float, high: float) -> None:
    await asyncio.sleep(luck.uniform(low, high))


async def _active(stage: Stage, luck: random.Random) -> Program:
    """Return the active relay; any running one while nobody is."""
    found: Program | None = None

    async def somebody() -> bool:
        nonlocal found
        found = await stage.active_relay()
        return found is not None

    await until(somebody, 10)
    return found or luck.choice(stage.of_role("relay"))


# --- processes


async def relay_killed(stage: Stage, luck: random.Random) -> None:
    program = await _active(stage, luck)
    program.kill()
    if luck.random() < 0.5:
        program.start()


async def relay_stopped(stage: Stage, luck: random.Random) -> None:
    """What follows is placed while it ends: its collector may keep it for seconds."""
    (await _active(stage, luck)).tell_to_end()


async def relay_dies_at_point(stage: Stage, luck: random.Random) -> None:
    victim, other = stage.of_role("relay")
    for program in (victim, other):
        program.kill()
    points = ["after_read", "before_send", "after_send_before_checkpoint", "after_checkpoint"]
    victim.start(dies_at=(luck.choice(points), luck.randint(1, 8)))
    await asyncio.to_thread(victim.wait, 12)
    other.start()


async def confirm_killed(stage: Stage, luck: random.Random) -> None:
    program = luck.choice(stage.of_role("confirm"))
    program.kill()
    if luck.random() < 0.5:
        program.start()


async def confirm_dies_at_point(stage: Stage, luck: random.Random) -> None:
    program = luck.choice(stage.of_role("confirm"))
    program.kill()
    program.start(dies_at=("after_commit", luck.randint(1, 5)))
    await asyncio.to_thread(program.wait, 15)


async def processor_killed(stage: Stage, luck: random.Random) -> None:
    program = luck.choice(stage.of_role("processor"))
    program.kill()
    program.start()


async def relay_frozen(stage: Stage, luck: random.Random) -> None:
    """Past the lease; then the zombie wakes up with a batch in its hands."""
    program = await _active(stage, luck)
    program.freeze()
    await _sleep(luck, 4.0, 6.0)
    program.thaw()


async def confirm_frozen(stage: Stage, luck: random.Random) -> None:
    """Past its session; then the zombie wakes up with a batch in its hands."""
    program = luck.choice(stage.of_role("confirm"))
    program.freeze()
    await _sleep(luck, 9.0, 12.0)
    program.thaw()


async def rebalance_storm(stage: Stage, luck: random.Random) -> None:
    program = luck.choice(stage.of_role("confirm"))
    for _ in range(3):
        await asyncio.to_thread(program.stop)
        program.start()
        await _sleep(luck, 0.5, 2.0)


# --- networks


async def database_cut(stage: Stage, luck: random.Random) -> None:
    proxy = stage.database[luck.choice(["relay", "confirm", "client"])]
    for _ in range(luck.randint(1, 3)):
        proxy.cut()
        await _sleep(luck, 0.0, 0.5)


async def database_refused(stage: Stage, luck: random.Random) -> None:
    proxy = stage.database[luck.choice(["relay", "confirm"])]
    proxy.refuse()
    await _sleep(luck, 0.5, 3.0)
    proxy.heal()


async def database_stalled(stage: Stage, luck: random.Random) -> None:
    proxy = stage.database[luck.choice(["relay", "confirm"])]
    proxy.stall(**_directions(luck))
    await _sleep(luck, 1.0, 5.0)
    proxy.heal()


async def commit_reply_lost(stage: Stage, luck: random.Random) -> None:
    role = luck.choice(["relay", "confirm", "client"])
    proxy = stage.database[role]
    before = proxy.swallowed
    proxy.swallow_reply(is_checkpoint if role == "relay" else is_commit)
    await until(lambda: proxy.swallowed > before, 5)


async def kafka_cut(stage: Stage, luck: random.Random) -> None:
    for proxy in stage.proxies(luck.choice(["relay", "confirm", "processor"])):
        proxy.cut()


async def kafka_stalled(stage: Stage, luck: random.Random) -> None:
    proxies = stage.proxies(luck.choice(["relay", "confirm", "processor"]))
    directions = _directions(luck)
    for proxy in proxies:
        proxy.stall(**directions)
    await _sleep(luck, 1.0, 5.0)
    for proxy in proxies:
        proxy.heal()


async def acknowledgement_lost(stage: Stage, luck: random.Random) -> None:
    role = luck.choice(["relay", "confirm", "processor"])
    matches = is_commit_offsets if role == "confirm" else is_produce
    before = sum(proxy.swallowed for proxy in stage.proxies(role))
    for proxy in stage.proxies(role):
        proxy.swallow_reply(matches)
    await until(lambda: sum(one.swallowed for one in stage.proxies(role)) > before, 5)


def _directions(luck: random.Random) -> dict[str, bool]:
    up, down = luck.choice([(True, True), (True, False), (False, True)])
    return {"up": up, "down": down}


# --- servers


async def postgres_restarted(stage: Stage, luck: random.Random) -> None:
    async with stage.in_hands(stage.postgres):
        await _restarted(stage.postgres, luck)


async def broker_restarted(stage: Stage, luck: random.Random) -> None:
    broker = luck.choice(stage.brokers)
    async with stage.in_hands(broker):
        await _restarted(broker, luck)


async def _restarted(server: EmbeddedServer, luck: random.Random) -> None:
    await asyncio.to_thread(server.kill if luck.random() < 0.5 else server.stop)
    await _sleep(luck, 0.2, 3.0)
    await asyncio.to_thread(server.start)


async def broker_frozen(stage: Stage, luck: random.Random) -> None:
    broker = luck.choice(stage.brokers)
    async with stage.in_hands(broker):
        broker.pause()
        await _sleep(luck, 1.0, 5.0)
        broker.resume()


async def failover(stage: Stage, luck: random.Random) -> None:
    """The server dies, and a standby that lagged takes its place.

    What was committed in the lag is gone, ids and transaction numbers are given out again, and some
    of it was published: nothing else may be lost or skipped.
    """
    old = stage.postgres
    standby = await stage.new_standby()
    connection = await asyncpg.connect(standby.dsn(), timeout=10)
    try:
        streams = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"
        await until(lambda: connection.fetchval(streams), 20)
        await _sleep(luck, 0.3, 1.0)
        await connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
        await connection.execute("SELECT pg_reload_conf()")
        await _sleep(luck, 0.2, 1.5)
        await asyncio.to_thread(old.kill)
        await connection.fetchval("SELECT pg_promote()")
    finally:
        connection.terminate()
    await stage.fail_over_to(standby)


async def postgres_disk_full(stage: Stage, luck: random.Random) -> None:
    """Tables cannot grow; where it switches to a new WAL file, PostgreSQL itself crashes."""
    disk = stage.disks[stage.postgres.folder]
    async with stage.in_hands(stage.postgres):
        disk.fill()
        if luck.random() < 0.5:
            await _switch_wal(stage)
        await _sleep(luck, 1.0, 4.0)
        disk.free()
        await _started_again(stage.postgres)


async def _switch_wal(stage: Stage) -> None:
    """Ask for new WAL files until the ready ones are used up, and PostgreSQL gives in."""
    with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection = await asyncpg.connect(stage.dsn, timeout=5, command_timeout=5)
        try:
            for _ in range(50):
                await connection.execute("SELECT pg_logical_emit_message(false, 'fault-suite', '')")
                await connection.execute("SELECT pg_switch_wal()")
        finally:
            connection.terminate()


async def broker_disk_full(stage: Stage, luck: random.Random) -> None:
    """A broker that cannot write its log ends; somebody makes room and starts it again."""
    broker = luck.choice(stage.brokers)
    disk = stage.disks[broker.folder]
    async with stage.in_hands(broker):
        disk.fill()
        await until(lambda: not broker.is_running(), luck.uniform(2.0, 6.0))
        disk.free()
        await _started_again(broker)


async def _started_again(server: EmbeddedServer) -> None:
    """Start a server that ended, or is about to: what it wrote last decides."""
    await until(lambda: not server.is_running(), 1.0)
    if not server.is_running():
        await asyncio.to_thread(server.start)


async def connections_exhausted(stage: Stage, luck: random.Random) -> None:
    """Somebody takes every connection, and ours are cut meanwhile."""
    taken: list[asyncpg.Connection] = []
    with contextlib.suppress(asyncpg.PostgresError, OSError, TimeoutError):
        while len(taken) < 100:
            taken.append(await asyncpg.connect(stage.dsn, timeout=3))
    for role in ("relay", "confirm"):
        stage.database[role].cut()
    await _sleep(luck, 1.0, 3.0)
    for connection in taken:
        connection.terminate()


async def order_rows_locked(stage: Stage, luck: random.Random) -> None:
    connection = await asyncpg.connect(stage.dsn)
    try:
        async with connection.transaction():
            await connection.execute(
                "SELECT FROM orders WHERE status = 'submitted' LIMIT 5 FOR UPDATE SKIP LOCKED"
            )
            await _sleep(luck, 1.0, 4.0)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        pass  # another fault of the round took the database away: the locks went with it
    finally:
        connection.terminate()


async def foreign_transaction(stage: Stage, luck: random.Random) -> None:
    """Somebody's transaction, with a number of its own, stays open."""
    connection = await asyncpg.connect(stage.dsn)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_current_xact_id()")
            await _sleep(luck, 3.0, 6.0)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        pass  # as above
    finally:
        connection.terminate()


async def partitions_added(stage: Stage, luck: random.Random) -> None:
    if len(stage.events.next_offsets) >= 9:
        return
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})
    count = len(stage.events.next_offsets) + 1
    for done in admin.create_partitions([NewPartitions(EVENTS, count)]).values():
        with contextlib.suppress(Exception):  # the broker may be away, by another fault
            await asyncio.to_thread(done.result, 10)


# --- bad input


async def bad_returns(stage: Stage, luck: random.Random) -> None:
    """What other people's processors send: broken, twice, late, contradicting, of nobody."""
    producer = Producer({"bootstrap.servers": stage.bootstrap, "log_level": 0})
    orders = [one.key for one in stage.returns.records[-400:]] or ["nobody"]
    for number in range(40):
        key = luck.choice(orders)
        for value in _bad_values(luck, key):
            producer.produce(RETURNS, key=key, value=value, headers=_headers(luck, number))
    await asyncio.to_thread(producer.flush, 15)


def _bad_values(luck: random.Random, key: str) -> list[bytes]:
    said = [{"order_id": key, "status": one} for one in ("processing", "confirmed", "rejected")]
    good = [json.dumps(one).encode() for one in said]
    return luck.choice(
        [
            [b"not JSON"],
            [b'{"order_id": "\xff"}'],
            [b"[" * 5000],
            [json.dumps({"order_id": key, "status": "unheard of"}).encode()],
            [json.dumps({"order_id": key, "status": "confirmed\u0000"}).encode()],
            [good[1], good[1]],
            [good[1], good[2]],
            [good[2], good[0]],
            [good[0]],
        ]
    )


def _headers(luck: random.Random, number: int) -> list[tuple[str, bytes]]:
    return luck.choice([[], [("ce_source", b"/foreign"), ("ce_id", str(number % 7).encode())]])


# --- three brokers


async def leader_moved(stage: Stage, luck: random.Random) -> None:
    """One of three brokers dies; the others lead what it led."""
    broker = luck.choice(stage.brokers)
    async with stage.in_hands(broker):
        await asyncio.to_thread(broker.kill)
        await _sleep(luck, 4.0, 8.0)
        await asyncio.to_thread(broker.start)


async def min_isr_lost(stage: Stage, luck: random.Random) -> None:
    """Two of three brokers freeze: nothing can be acknowledged."""
    frozen = luck.sample(stage.brokers, 2)
    async with stage.in_hands(*frozen):
        for broker in frozen:
            broker.pause()
        await _sleep(luck, 4.0, 8.0)
        for broker in frozen:
            broker.resume()


_ALL = (
    Kind("relay killed", relay_killed, hop=2, goal_seconds=5.0, weight=5),
    Kind("relay stopped", relay_stopped, hop=2, goal_seconds=1.0),
    Kind("relay dies at a point", relay_dies_at_point, hop=2, weight=4),
    Kind("relay frozen past its lease", relay_frozen, hop=2, weight=3),
    Kind("consumer killed", confirm_killed, goal_seconds=12.0, weight=4),
    Kind("consumer dies after commit", confirm_dies_at_point, weight=3),
    Kind("consumer frozen", confirm_frozen, weight=1),
    Kind("rebalance storm", rebalance_storm),
    Kind("processor killed", processor_killed),
    Kind("database connections cut", database_cut, weight=3),
    Kind("database refuses", database_refused),
    Kind("database stalled or one way", database_stalled, weight=3),
    Kind("COMMIT's reply lost", commit_reply_lost, weight=4),
    Kind("Kafka connections cut", kafka_cut),
    Kind("Kafka stalled or one way", kafka_stalled, weight=3),
    Kind("acknowledgement lost", acknowledgement_lost, weight=4),
    Kind("PostgreSQL restarted", postgres_restarted, goal_seconds=10.0, weight=4),
    Kind("broker restarted", broker_restarted, goal_seconds=20.0, weight=4),
    Kind("broker frozen", broker_frozen),
    Kind("failover to a lagging standby", failover, goal_seconds=10.0, alone=True),
    Kind("PostgreSQL's disk full", postgres_disk_full, small_disks=True, weight=6),
    Kind("broker's disk full", broker_disk_full, small_disks=True, weight=6),
    Kind("connections exhausted", connections_exhausted),
    Kind("order rows locked", order_rows_locked),
    Kind("foreign transaction open", foreign_transaction),
    Kind("partitions added", partitions_added, weight=1),
    Kind("bad returns", bad_returns),
    Kind("leader moved", leader_moved, brokers=3, weight=6),
    Kind("min ISR lost", min_isr_lost, brokers=3, weight=6),
)
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _ALL}


def draw(luck: random.Random, brokers: int, *, small_disks: bool) -> list[Kind]:
    """Draw the faults of one round: mostly one, so that its recovery is its own."""
    possible = [
        kind for kind in _ALL if kind.brokers <= brokers and small_disks >= kind.small_disks
    ]
    count = luck.choices([1, 2, 3], weights=[6, 3, 1])[0]
    drawn: list[Kind] = []
    while len(drawn) < count:
        kind = luck.choices(possible, weights=[one.weight for one in possible])[0]
        if kind.alone:
            return [kind]
        if kind not in drawn:
            drawn.append(kind)
    return drawn
