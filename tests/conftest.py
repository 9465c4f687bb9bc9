"""Real PostgreSQL and Kafka for the tests, and `relay` as its users run it.

The servers are started once per run, on first use (or are the ones that TEST_DATABASE_URL and
TEST_KAFKA_BOOTSTRAP_SERVERS name). Every test that asks for it has a database of its own, cloned
from a migrated template, and topics of its own. Session fixtures are synchronous: no event loop is
shared between tests.
"""

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
import psycopg
import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from hypothesis import settings
from psycopg import sql

from relay.embedded import EmbeddedKafka, EmbeddedPostgres
from relay.embedded.cluster import start_together
from relay.embedded.folders import run_folder
from relay.embedded.kafka import prepare_kafka
from relay.embedded.server import EmbeddedServer
from relay.runtime.database import connect
from relay.runtime.migrations import migrate
from tests.faults.brokers import describe_brokers
from tests.patience import patience
from tests.worlds.world import WORLD

KAFKA_FIXTURES = {"kafka_bootstrap", "topics", "private_kafka"}
# A broker that was killed may register again only after its session: 9 s by default.
QUICKLY_BACK = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}
# Making and dropping a database scans the buffers and waits for the disk. Nothing here outlives
# the run, and the tests that kill a PostgreSQL have their own, which waits for its disk.
# Slots of other publishers are made in some tests.
FOR_MANY_CLONES = {"fsync": "off", "shared_buffers": "64MB", "wal_level": "logical"}
RELAY = Path(sys.executable).with_name("relay")


# A demo says after a minute that its server is stuck; a test waits for a machine that is busy.
EmbeddedServer.start_within_seconds = 180.0

# No example is judged by the clock: the cores belong to all tests.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch the servers before the first test: a slow network is not a test that hangs."""
    WORLD.postgres_options()
    if any(KAFKA_FIXTURES & set(getattr(item, "fixturenames", ())) for item in session.items):
        prepare_kafka(_tell, WORLD.kafka_options().get("lock_file"))


def pytest_report_header() -> str:
    """Say which world this is, and how to come back to it."""
    return f"world: {WORLD.name} (make test WORLD={WORLD.name})"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name a failure at once: a run that is ended by its deadline never comes to its summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        crash = getattr(report.longrepr, "reprcrash", None)
        why = str(crash.message if crash else report.longrepr).partition("\n")[0]
        _tell(f"\nFAILED {report.nodeid} ({report.when}): {why[:300]}")


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    """Fail the run if a test, or the embedded servers, left a process behind."""
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child.is_running()]
    _, left = psutil.wait_procs(left, timeout=5)
    assert not left, f"processes left running: {left}"


# --- PostgreSQL ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL for the whole run; the user may create databases and roles."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    with run_folder() as folder:
        server = EmbeddedPostgres(folder / "postgres", **WORLD.postgres_options(FOR_MANY_CLONES))
        server.start()
        try:
            yield server.dsn()
        finally:
            server.kill()


@pytest.fixture(scope="session")
def template_database(postgres_url: str) -> Iterator[str]:
    """The name of a migrated database that every test's own is cloned from."""
    with _new_database(postgres_url, f"template_{uuid.uuid4().hex[:12]}") as url:
        _run_apart(migrate(url, sample=True))
        yield urlsplit(url).path.removeprefix("/")


@pytest.fixture
def database(postgres_url: str, template_database: str) -> Iterator[str]:
    """The URL of a migrated database of this test's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with _new_database(postgres_url, name, template=template_database) as url:
        yield url


@pytest.fixture
def empty_database(postgres_url: str) -> Iterator[str]:
    """The URL of a database of this test's own that was never migrated."""
    with _new_database(postgres_url, f"empty_{uuid.uuid4().hex[:12]}") as url:
        yield url


@pytest.fixture
async def pg(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to this test's own database, set up as our own services' are."""
    connection = await connect(database, "test")
    yield connection
    await connection.close(timeout=5)


@pytest.fixture
async def service_pg(database: str) -> AsyncIterator[asyncpg.Connection]:
    """An order service's connection, with whatever settings the server gives."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close(timeout=5)


@pytest.fixture
def private_postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of this test's own, to be killed, paused and started again; not migrated."""
    with run_folder() as folder:
        server = EmbeddedPostgres(folder / "postgres", **WORLD.postgres_options())
        server.start()
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture
def private_database(private_postgres: EmbeddedPostgres) -> str:
    """The URL of a migrated database on this test's own PostgreSQL."""
    _run_apart(migrate(private_postgres.dsn(), sample=True))
    return private_postgres.dsn()


@contextmanager
def _new_database(server: str, name: str, template: str = "template1") -> Iterator[str]:
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(drop.format(sql.Identifier(name)))


def _run_apart(work: Awaitable[Any]) -> Any:
    """Run a coroutine in a thread's own event loop: the test's loop is not touched."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


# --- Kafka --------------------------------------------------------------------------------------


class Topics:
    """Makes topics that no other test has, and removes them afterwards."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.suffix = uuid.uuid4().hex[:12]
        self._made: list[str] = []
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers})

    def create(self, name: str = "orders.events", partitions: int = 3, **config: str) -> str:
        """Make `name.<id>` and return its name; `max_message_bytes="1000"` is a topic setting."""
        settings = {key.replace("_", "."): value for key, value in config.items()}
        topic = f"{name}.{self.suffix}"
        self.make(topic, partitions, settings)
        return topic

    def _wait_for_leaders(self, topic: str, partitions: int) -> None:
        """The answer comes before every broker knows the topic and its leaders."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            known = self._admin.list_topics(topic, timeout=10).topics[topic].partitions.values()
            if len(known) == partitions and all(one.leader >= 0 for one in known):
                return
            time.sleep(0.01)
        raise AssertionError(f"{topic} has no leaders after 30 s")

    def delete(self, topic: str) -> None:
        """Remove a topic now, and wait until the broker says so."""
        self._admin.delete_topics([topic])[topic].result(30)
        self._made.remove(topic)

    def recreate(self, topic: str, partitions: int = 3) -> None:
        """Remove a topic and make it again under its name, empty."""
        self.delete(topic)
        while topic in self._admin.list_topics(timeout=10).topics:
            time.sleep(0.05)
        self.make(topic, partitions)

    def make(
        self, topic: str, partitions: int = 3, config: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Make a topic of exactly this name: one that was deleted."""
        # As many replicas as the brokers' own default.
        new = NewTopic(topic, partitions, replication_factor=-1, config=dict(config))
        self._admin.create_topics([new])[topic].result(30)
        self._made.append(topic)
        self._wait_for_leaders(topic, partitions)

    def delete_all(self) -> None:
        """Remove what is left, without waiting for the disk."""
        if self._made:
            self._admin.delete_topics(self._made, operation_timeout=0)
            self._admin.poll(0)


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """The address of a broker for the whole run."""
    if given := os.environ.get("TEST_KAFKA_BOOTSTRAP_SERVERS"):
        yield given
        return
    with run_folder() as folder, ExitStack() as started:
        brokers: list[EmbeddedKafka] = (
            [EmbeddedKafka(folder / "kafka", **WORLD.kafka_options())]
            if WORLD.brokers == 1
            else [*describe_brokers(folder, WORLD.brokers, **WORLD.kafka_options())]
        )
        for broker in brokers:
            started.callback(broker.kill)  # the data goes with the folder: no need to ask
        start_together([*brokers])
        yield ",".join(broker.bootstrap_servers for broker in brokers)


@pytest.fixture
def topics(kafka_bootstrap: str) -> Iterator[Topics]:
    """A maker of topics of this test's own."""
    made = Topics(kafka_bootstrap)
    yield made
    made.delete_all()


@pytest.fixture
def private_kafka() -> Iterator[EmbeddedKafka]:
    """A broker of this test's own, to be killed, paused and started again on the same port."""
    with run_folder() as folder:
        broker = EmbeddedKafka(folder / "kafka", **WORLD.kafka_options(QUICKLY_BACK))
        broker.start()
        try:
            yield broker
        finally:
            broker.kill()


# --- Programs and waiting -----------------------------------------------------------------------


class RelayProcess:
    """One `relay` command in the background, its output in files."""

    def __init__(
        self,
        arguments: tuple[str, ...],
        env: Mapping[str, str],
        folder: Path,
        program: Sequence[str | Path] = (RELAY,),
    ) -> None:
        folder.mkdir()
        self.arguments = arguments
        self._out, self._err = folder / "stdout", folder / "stderr"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = subprocess.Popen(
                [*program, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def stdout(self) -> str:
        return self._out.read_text("utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        return self._err.read_text("utf-8", errors="replace")

    def is_running(self) -> bool:
        return self.popen.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self, within_seconds: float = 20) -> int:
        """Wait for the end and return the exit code."""
        return self.popen.wait(within_seconds * patience())

    def terminate(self, within_seconds: float = 20) -> int:
        """Ask it to end (SIGTERM) and return the exit code."""
        self.popen.terminate()
        return self.wait(within_seconds)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.popen.kill()
        self.popen.wait()


def _relay_environment(request: pytest.FixtureRequest, extra: Mapping[str, str]) -> dict[str, str]:
    """Give a command the test's own servers, and nothing of the shell that runs the tests."""
    foreign = ("TEST_", "RELAY_", "OTEL_", "KAFKA_", "PG", "DATABASE_URL")
    env = {name: text for name, text in os.environ.items() if not name.startswith(foreign)}
    env |= {"PYTHONUNBUFFERED": "1", "OTEL_TRACES_EXPORTER": "none", **WORLD.environment}
    if "database" in request.fixturenames:
        env["DATABASE_URL"] = request.getfixturevalue("database")
    if "kafka_bootstrap" in request.fixturenames:
        env["KAFKA_BOOTSTRAP_SERVERS"] = request.getfixturevalue("kafka_bootstrap")
    return env | extra


@pytest.fixture
def relay_process(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., RelayProcess]]:
    """Start `relay ARGUMENTS...`, with `env` on top of the test's own database and broker."""
    started: list[RelayProcess] = []

    def start(
        *arguments: str,
        env: Mapping[str, str] | None = None,
        program: Sequence[str | Path] = (RELAY,),
    ) -> RelayProcess:
        folder = tmp_path / f"relay-{len(started)}"
        process = RelayProcess(arguments, _relay_environment(request, env or {}), folder, program)
        started.append(process)
        return process

    yield start
    with ExitStack() as stack:
        for process in started:
            stack.callback(_finish, process)


def _finish(process: RelayProcess) -> None:
    process.send_signal(signal.SIGCONT)  # a paused one would never end
    process.popen.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
    # pytest shows this for a test that failed, and drops it otherwise.
    sys.stdout.write(f"--- relay {' '.join(process.arguments)}: exit {process.popen.returncode}\n")
    sys.stdout.write(f"{process.stdout[-8000:]}\n{process.stderr[-8000:]}\n")


@pytest.fixture
def relay_command(
    request: pytest.FixtureRequest,
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `relay ARGUMENTS...` to its end and return exit code, stdout and stderr."""

    def run(
        *arguments: str, env: Mapping[str, str] | None = None, within_seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RELAY, *arguments],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=within_seconds * patience(),
            env=_relay_environment(request, env or {}),
        )

    return run


@pytest.fixture
def eventually() -> Callable[..., Awaitable[Any]]:
    """Wait for a fact: call a function (async or not) until it returns something true.

    An AssertionError in it counts as not yet. Returns what the function returned; fails with the
    last answer after `within_seconds`, or later where others keep the cores busy.
    """

    async def wait(check: Callable[[], Any], within_seconds: float = 15) -> Any:
        began = time.monotonic()
        while True:
            try:
                last = check()
                last = await last if inspect.isawaitable(last) else last
            except AssertionError as error:
                last = None
                reason: object = error
            else:
                reason = last
            if last:
                return last
            waited = time.monotonic() - began
            if waited > within_seconds * patience():
                raise AssertionError(f"not so after {waited:.0f} s, last: {reason!r}")
            await asyncio.sleep(0.02)

    return wait
