"""Embedded PostgreSQL and Kafka: real, restartable, gone afterwards; clear errors at start."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from relay.embedded import Cluster, EmbeddedKafka, EmbeddedPostgres, server
from relay.embedded import postgres as postgres_module
from relay.embedded.errors import PortTakenError, ServerDiedError, ServerStuckError
from relay.embedded.folders import run_folder
from relay.embedded.kafka_settings import live_brokers
from relay.embedded.ports import LOOPBACK, free_port

Eventually = Callable[..., Awaitable[Any]]

# Starts both, says the processes and the folder, and waits to be killed.
PARENT = """
import psutil, sys
from relay.embedded import Cluster
with Cluster() as cluster:
    family = [child.pid for child in psutil.Process().children(recursive=True)]
    print(cluster.postgres.folder.parent, cluster.postgres.pid, cluster.kafka.pid, *family)
    sys.stdout.flush()
    sys.stdin.read()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with run_folder() as made:
        yield made


@pytest.fixture
def no_new_process() -> Iterator[None]:
    before = psutil.Process().children()  # the guards of the servers that all tests share
    yield
    assert set(psutil.Process().children()) <= set(before)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, free_port()))
        listener.listen()
        yield listener.getsockname()[1]


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def query(postgres: EmbeddedPostgres, text: str, **options: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(postgres.dsn(), autocommit=True, **options) as connection:
        cursor = connection.execute(text)
        return cursor.fetchall() if cursor.description else []


def topic_names(bootstrap_servers: str) -> set[str]:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    return set(admin.list_topics(timeout=30).topics)


def test_postgres_is_18_with_the_settings_of_tests(folder: Path) -> None:
    settings = {"work_mem": "7MB", "log_line_prefix": r"it's \ "}
    one = EmbeddedPostgres(folder / "pg", settings=settings)
    one.start()
    try:
        ((version,),) = query(one, "SELECT current_setting('server_version_num')::int / 10000")
        names = ("max_prepared_transactions", "work_mem", "log_line_prefix", "fsync")
        found = [query(one, f"SHOW {name}")[0][0] for name in names]
    finally:
        one.stop()
    assert version == 18
    assert found == ["20", "7MB", r"it's \ ", "on"]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_postgres_comes_back_on_its_port_with_its_data(
    private_postgres: EmbeddedPostgres, end: str
) -> None:
    query(private_postgres, "CREATE TABLE kept AS SELECT 1 AS it")
    before = private_postgres.dsn()
    getattr(private_postgres, end)()
    assert not private_postgres.is_running()
    private_postgres.start()
    assert private_postgres.dsn() == before
    assert query(private_postgres, "SELECT it FROM kept") == [(1,)]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_kafka_comes_back_on_its_port_with_its_topics(
    private_kafka: EmbeddedKafka, end: str
) -> None:
    before = private_kafka.bootstrap_servers
    new = NewTopic("kept", num_partitions=2, replication_factor=1)
    admin = AdminClient({"bootstrap.servers": before})
    admin.create_topics([new])["kept"].result(30)
    getattr(private_kafka, end)()
    assert live_brokers(private_kafka.port) == 0
    private_kafka.start()
    assert private_kafka.bootstrap_servers == before
    assert "kept" in topic_names(before)


def test_topics_are_not_made_by_asking_for_them(private_kafka: EmbeddedKafka) -> None:
    admin = AdminClient({"bootstrap.servers": private_kafka.bootstrap_servers})
    admin.list_topics("never-made", timeout=30)
    assert "never-made" not in topic_names(private_kafka.bootstrap_servers)


async def test_a_paused_server_is_silent_until_it_is_resumed(
    private_postgres: EmbeddedPostgres, private_kafka: EmbeddedKafka, eventually: Eventually
) -> None:
    private_postgres.pause()
    private_kafka.pause()
    with pytest.raises(psycopg.OperationalError, match="timeout"):
        query(private_postgres, "SELECT 1", connect_timeout=2)
    assert live_brokers(private_kafka.port) == 0
    private_postgres.resume()
    private_kafka.resume()
    assert query(private_postgres, "SELECT 1") == [(1,)]
    await eventually(lambda: live_brokers(private_kafka.port) == 1)


def test_paused_servers_can_be_stopped(
    private_postgres: EmbeddedPostgres, private_kafka: EmbeddedKafka
) -> None:
    for paused in (private_postgres, private_kafka):
        pid = paused.pid
        paused.pause()
        paused.stop()
        assert not lives(pid)


def test_they_listen_on_loopback_alone(
    private_postgres: EmbeddedPostgres, private_kafka: EmbeddedKafka
) -> None:
    for pid in (private_postgres.pid, private_kafka.pid):
        sockets = psutil.Process(pid).net_connections("inet")
        listening = {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN}
        assert {address.removeprefix("::ffff:") for address in listening} == {LOOPBACK}


def test_postgres_does_not_run_as_root(private_postgres: EmbeddedPostgres) -> None:
    assert psutil.Process(private_postgres.pid).uids().effective != 0


def test_programs_that_only_root_can_read_are_copied_to_where_they_work(folder: Path) -> None:
    programs = postgres_module._programs()
    copy = postgres_module._reachable_copy(programs.parents[2], folder)
    assert postgres_module._reachable_copy(programs.parents[2], folder) == copy
    for program in ("postgres", "initdb"):
        done = subprocess.run(
            [copy / programs.relative_to(programs.parents[2]) / program, "--version"],
            check=True,
            capture_output=True,
            text=True,
            env={},
        )
        assert "18." in done.stdout


def test_a_wrong_password_is_refused(private_postgres: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(private_postgres.dsn(), password="guess")


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedKafka])
def test_a_port_that_was_asked_for_and_is_taken(
    kind: type[EmbeddedPostgres | EmbeddedKafka], folder: Path, taken_port: int
) -> None:
    with pytest.raises(PortTakenError, match=str(taken_port)):
        kind(folder / "server", port=taken_port).start()


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedKafka])
def test_a_port_that_is_snatched_away_is_replaced(
    kind: type[EmbeddedPostgres | EmbeddedKafka],
    folder: Path,
    taken_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ports = iter([taken_port, free_port()])
    monkeypatch.setattr(server, "free_port", lambda: next(ports))
    one = kind(folder / "server")
    one.start()
    try:
        assert one.port != taken_port
        assert one.is_running()
    finally:
        one.kill()


@pytest.mark.usefixtures("no_new_process")
@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (EmbeddedPostgres, {"shared_buffers": "lots"}, "shared_buffers"),
        (EmbeddedKafka, {"num.io.threads": "lots"}, "num.io.threads"),
    ],
)
def test_a_server_that_dies_at_start_says_why(
    kind: type[EmbeddedPostgres | EmbeddedKafka],
    settings: dict[str, str],
    words: str,
    folder: Path,
) -> None:
    with pytest.raises(ServerDiedError, match=words):
        kind(folder / "server", settings=settings).start()


@pytest.mark.usefixtures("no_new_process")
def test_a_server_that_does_not_answer_in_time_is_ended(folder: Path) -> None:
    kafka = EmbeddedKafka(folder / "kafka")
    kafka.start_within_seconds = 0.0
    with pytest.raises(ServerStuckError, match="does not answer"):
        kafka.start()


@pytest.mark.parametrize("guards_too", [False, True])
def test_nothing_survives_a_parent_that_is_killed(guards_too: bool) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    folder, *pids = parent.stdout.readline().split()
    family = [psutil.Process(int(pid)) for pid in pids]
    guards = {server.parent() for server in family[:2]}
    assert all(process.is_running() for process in family)
    parent.kill()
    for guard in guards if guards_too else ():  # as an out-of-memory killer would
        assert guard is not None
        guard.kill()
    with parent.stdout, parent.stdin:
        parent.wait()
    _, left = psutil.wait_procs(family, timeout=30)
    for process in left:
        process.kill()
    assert left == []
    # Without guards the next run removes the folder: see test_embedded_folders.py.
    assert Path(folder).exists() == guards_too
    shutil.rmtree(folder, ignore_errors=True)


def test_a_cluster_leaves_no_process_and_no_file() -> None:
    with Cluster(postgres_settings={"work_mem": "5MB"}) as cluster:
        assert cluster.postgres is not None
        assert cluster.kafka is not None
        pids = [cluster.postgres.pid, cluster.kafka.pid]
        folder = cluster.postgres.folder.parent
        assert query(cluster.postgres, "SHOW work_mem") == [("5MB",)]
        assert cluster.kafka_bootstrap_servers == cluster.kafka.bootstrap_servers
    assert not any(lives(pid) for pid in pids)
    assert not folder.exists()


@pytest.mark.usefixtures("no_new_process")
def test_one_that_fails_takes_the_other_with_it() -> None:
    with (
        pytest.raises(ServerDiedError, match="shared_buffers"),
        Cluster(postgres_settings={"shared_buffers": "lots"}),
    ):
        pass


@pytest.mark.usefixtures("no_new_process")
def test_given_servers_are_used_and_not_started() -> None:
    with Cluster(database_url="postgresql://given", kafka_bootstrap_servers="given:1") as cluster:
        assert (cluster.database_url, cluster.kafka_bootstrap_servers) == (
            "postgresql://given",
            "given:1",
        )
        assert (cluster.postgres, cluster.kafka) == (None, None)
