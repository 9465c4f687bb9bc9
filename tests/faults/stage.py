"""Where the rounds are played: servers, a proxy for each role and server, processes, a reader."""

import asyncio
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import orjson
from confluent_kafka.admin import AdminClient, NewTopic

from relay.embedded.cluster import start_together
from relay.embedded.folders import run_folder
from relay.embedded.ports import LOOPBACK
from relay.embedded.server import EmbeddedServer
from relay.runtime.migrations import migrate
from tests.faults.brokers import ROLES, RoleBroker, describe_brokers
from tests.faults.client import TABLES, known_transactions
from tests.faults.journal import Journal, Truth
from tests.faults.programs import Program
from tests.faults.proxy import Proxy
from tests.faults.reading import Log, Reader
from tests.faults.small_disk import SmallDisk, small_disk
from tests.replica import Replicated
from tests.worlds.world import WORLD

EVENTS, RETURNS = "orders.events", "orders.returns"
PARTITIONS = 6
# Small, so that a row that is too large for the topic need not be huge.
LARGEST_BATCH_BYTES = 200_000
_NOBODY = 9  # a port where nobody listens
INSTANCES = {"relay": 2, "confirm": 2, "processor": 1}


@dataclass
class Stage:
    """Everything of a run; it lasts for many rounds."""

    folder: Path
    postgres: Replicated
    brokers: list[RoleBroker]
    database: Mapping[str, Proxy]
    kafka: Mapping[str, list[Proxy]]
    programs: dict[str, Program]
    journal: Journal
    reader: Reader
    silent_collector: Proxy
    truth: Truth = field(default_factory=Truth)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    disks: Mapping[Path, SmallDisk] = field(default_factory=dict)
    partitions_added: bool = False
    _in_hands: dict[Path, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    @asynccontextmanager
    async def in_hands(self, *servers: EmbeddedServer) -> AsyncIterator[None]:
        """Have servers to oneself: another fault of the round would start or thaw the same one."""
        async with AsyncExitStack() as held:
            for folder in sorted(server.folder for server in servers):
                await held.enter_async_context(self._in_hands[folder])
            yield

    @property
    def events(self) -> Log:
        return self.reader.logs[EVENTS]

    @property
    def returns(self) -> Log:
        return self.reader.logs[RETURNS]

    @property
    def dsn(self) -> str:
        """The way to PostgreSQL that no fault touches."""
        return self.postgres.dsn()

    @property
    def client_dsn(self) -> str:
        """The order service's own way."""
        return _through(self.dsn, self.database["client"].port)

    @property
    def postgres_crashes(self) -> int:
        """How often PostgreSQL recovered from a crash; it says so before it lets anybody in."""
        log = self.postgres.log.read_text("utf-8", errors="replace")
        return log.count("automatic recovery in progress")

    @property
    def bootstrap(self) -> str:
        return ",".join(one.bootstrap_servers for one in self.brokers)

    def of_role(self, role: str) -> list[Program]:
        return [one for one in self.programs.values() if one.role == role]

    def proxies(self, role: str) -> list[Proxy]:
        """The proxies of a role's Kafka connections, one for each broker."""
        return self.kafka[role]

    async def fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.dsn, timeout=10)
        try:
            rows: list[asyncpg.Record] = await connection.fetch(sql, *arguments)
            return rows
        finally:
            await connection.close()

    async def active_relay(self) -> Program | None:
        """The program that holds the lease, by its own process record."""
        rows = await self.fetch(
            """SELECT p.instance FROM relay.lease l JOIN relay.process_record p
                   ON p.process_id::text = l.owner WHERE l.duty = 'relay'
                  AND l.expires_at > clock_timestamp() AND l.released_at IS NULL"""
        )
        pids = {int(row["instance"].rpartition(":")[2]) for row in rows}
        running = (one for one in self.of_role("relay") if one.is_running() and one.pid in pids)
        return next(running, None)

    async def all_came_up(self) -> bool:
        """Whether relays and consumers wrote their process records, and the processor its log."""
        rows = await self.fetch(
            "SELECT instance FROM relay.process_record WHERE stopped_at IS NULL"
        )
        pids = {int(row["instance"].rpartition(":")[2]) for row in rows}
        recorded = {one.pid for role in ("relay", "confirm") for one in self.of_role(role)}
        processors = self.of_role("processor")
        return recorded <= pids and all(one.said_since_start("processing") for one in processors)

    async def somebody_up(self) -> None:
        """Start one program of each role that has none left, as a supervisor would."""
        for role in INSTANCES:
            programs = self.of_role(role)
            if not any(one.is_running() for one in programs):
                await asyncio.to_thread(programs[0].start)

    async def everybody_up(self) -> None:
        """Start whatever should run and does not; thaw what is frozen; heal what is cut."""
        for proxy in self.all_proxies():
            proxy.heal()
        for program in self.programs.values():
            program.thaw()
            if not program.is_running():
                await asyncio.to_thread(program.start)

    async def new_standby(self) -> Replicated:
        """Start a standby of the PostgreSQL, that follows it; it ends with the stage."""
        number = len(list(self.folder.glob("postgres*"))) + 1
        folder = self.folder / f"postgres-{number}"
        standby = await asyncio.to_thread(self.postgres.standby, folder)
        self.stack.callback(standby.kill)
        await asyncio.to_thread(standby.start)
        return standby

    async def fail_over_to(self, promoted: Replicated) -> None:
        """Lead everybody to another server, and note what it lacks."""
        self.truth.read(self.journal.path)
        asked = self.truth.not_rolled_back()
        self.postgres = promoted
        for proxy in self.database.values():
            proxy.target_port = promoted.port
        self.truth.failed_over(await known_transactions(self.dsn, asked), asked)

    def all_proxies(self) -> list[Proxy]:
        found = list(self.database.values())
        return found + [one for proxies in self.kafka.values() for one in proxies]


def _through(dsn: str, port: int) -> str:
    parts = urlsplit(dsn)
    user = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@{LOOPBACK}:{port}"))


def _settings(
    dsn: str, kafka: list[Proxy], collector: str, deadline_seconds: float
) -> dict[str, str]:
    events = {"order.placed": {"deadline_seconds": deadline_seconds}, "order.noted": {}}
    return {
        "DATABASE_URL": dsn,
        "KAFKA_BOOTSTRAP_SERVERS": ",".join(f"{LOOPBACK}:{one.port}" for one in kafka),
        "RELAY_FLOW_EVENTS": orjson.dumps(events).decode(),
        "RELAY_METRICS_ENABLED": "false",
        "RELAY_LOG_LEVEL": "info",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        # Small pages, so that several are under way at once.
        "RELAY_PUBLISH_PAGE_ROWS": "100",
    }


@asynccontextmanager
async def a_stage(
    *,
    brokers: int = 1,
    keep: Path | None = None,
    deadline_seconds: float = 900.0,
    small_disks: bool = False,
    collector: str | None = None,
) -> AsyncIterator[Stage]:
    """Start everything; afterwards nothing is left but `keep`, with the journal and the logs.

    With `small_disks` each server has a file system of its own that can be filled (see there).
    Without the address of a `collector` spans go to ones that are down, or never answer.
    """
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(run_folder())
        kept = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kept.mkdir(parents=True, exist_ok=True)
        postgres = Replicated(
            folder / "postgres", **WORLD.standby_options({"max_connections": "60"})
        )
        nodes = describe_brokers(folder, brokers, **WORLD.kafka_options())
        kafka = {role: [await _proxy(stack, n.role_ports[role]) for n in nodes] for role in ROLES}
        for number, node in enumerate(nodes):
            node.advertised = {role: kafka[role][number].port for role in ROLES}
        disks = {}
        for server in (postgres, *nodes):
            # Not on its own disk: once that is full there is no room for the words that say so.
            server.log = folder / f"{server.folder.name}.log"
            if small_disks:
                disks[server.folder] = stack.enter_context(small_disk(server.folder))
            stack.callback(_keep_log, server, kept)
            stack.callback(server.kill)
        await asyncio.to_thread(start_together, [postgres, *nodes])
        await migrate(postgres.dsn(), sample=True)
        database = {role: await _proxy(stack, postgres.port) for role in (*ROLES, "client")}
        await asyncio.to_thread(_make_topics, nodes)
        journal = Journal(kept / "journal.jsonl")
        stack.push_async_callback(journal.close)
        bootstrap = ",".join(one.bootstrap_servers for one in nodes)
        reader = Reader(bootstrap, EVENTS, RETURNS)
        stack.callback(reader.close)
        silent = await _proxy(stack, postgres.port)
        silent.stall()
        stage = Stage(folder, postgres, nodes, database, kafka, {}, journal, reader, silent)
        stage.stack, stage.disks = stack, disks
        await _tables(stage)
        for program in _programs(stage, kept, deadline_seconds, collector):
            stage.programs[program.name] = program
            stack.callback(program.kill)
            program.start()
        yield stage


def _keep_log(server: EmbeddedServer, kept: Path) -> None:
    if server.log.exists():
        shutil.copyfile(server.log, kept / f"{server.folder.name}.log")


async def _proxy(stack: AsyncExitStack, target_port: int) -> Proxy:
    return await stack.enter_async_context(Proxy(target_port))


def _make_topics(nodes: list[RoleBroker]) -> None:
    admin = AdminClient({"bootstrap.servers": nodes[0].bootstrap_servers})
    config = {"max.message.bytes": str(LARGEST_BATCH_BYTES)}
    new = [NewTopic(EVENTS, PARTITIONS, len(nodes), config=config)]
    new.append(NewTopic(RETURNS, PARTITIONS, len(nodes)))
    for done in admin.create_topics(new).values():
        done.result(30)


async def _tables(stage: Stage) -> None:
    connection = await asyncpg.connect(stage.dsn)
    await connection.execute(TABLES)
    await connection.close()


def _programs(
    stage: Stage, kept: Path, deadline_seconds: float, collector: str | None
) -> list[Program]:
    found = []
    for role, count in INSTANCES.items():
        dsn = _through(stage.dsn, stage.database[role].port)
        for number in range(1, count + 1):
            name = f"{role}-{number}"
            # The first ones' collector is down, the others' takes everything and never answers.
            port = _NOBODY if number == 1 else stage.silent_collector.port
            address = collector or f"http://{LOOPBACK}:{port}"
            env = _settings(dsn, stage.kafka[role], address, deadline_seconds)
            found.append(Program(name, role, env, kept))
    return found


async def until(check: Callable[[], Any], within_seconds: float) -> float | None:
    """Wait for a fact; return how long that took, None if it did not come to be.

    While a server is away the question itself fails: then it is not so yet.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() - began <= within_seconds:
        try:
            found = check()
            found = await found if asyncio.iscoroutine(found) else found
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            found = None
        if found:
            return loop.time() - began
        await asyncio.sleep(0.05)
    return None


def luck_of(seed: int, number: object) -> random.Random:
    """Return the dice of one round: the same for the same seed."""
    return random.Random(f"{seed}/{number}")
