"""Embedded Kafka's jars: whole and the right ones, or an error that says what to do."""

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from relay.embedded import artifacts
from relay.embedded.errors import (
    FolderError,
    RegistryUnreachableError,
    WrongArtifactError,
)
from relay.embedded.ports import free_port

JAR = b"PK not really a jar" * 1000
JAR_PATH = "/org/example/thing/1.0/thing-1.0.jar"


class Repository(ThreadingHTTPServer):
    """A Maven repository with one file, which can be told to answer badly."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = JAR
        self.cut_after: int | None = None
        self.asked: list[str] = []


class Answer(BaseHTTPRequestHandler):
    server: Repository

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path != JAR_PATH:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content[: self.server.cut_after])

    def log_message(self, *_words: object) -> None:
        """Stay silent."""


def configure(folder: Path, monkeypatch: pytest.MonkeyPatch, port: int, content: bytes) -> None:
    lock = folder / "kafka.lock"
    digest = hashlib.sha256(content).hexdigest()
    lock.write_text(f"# test\norg.example:thing:1.0 {digest} {len(content)}\n", "ascii")
    settings = folder / "jgo.conf"
    settings.write_text(f"[repositories]\nmirror = http://127.0.0.1:{port}\n", "ascii")
    monkeypatch.setattr(artifacts, "_LOCK", lock)
    monkeypatch.setenv("JGO_CONFIG_FILE", str(settings))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    with Repository() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        configure(tmp_path, monkeypatch, server.server_address[1], JAR)
        yield server
        server.shutdown()
        thread.join()


def cached(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache/outbox-relay"
    return sorted(path.name for path in folder.glob("kafka-*") if path.is_dir())


def test_the_committed_lock_is_one_release_of_kafka_and_no_address() -> None:
    text = artifacts._LOCK.read_text("ascii")
    assert "://" not in text
    jars = artifacts.locked_jars(text)
    assert {jar.version for jar in jars if jar.group == "org.apache.kafka"} == {"4.4.0"}
    assert {"kafka_2.13", "kafka-clients", "log4j-slf4j-impl"} <= {jar.artifact for jar in jars}


def test_fetched_once_and_then_from_the_cache(repository: Repository) -> None:
    said: list[str] = []
    folder = artifacts.kafka_jars(said.append)
    assert (folder / "thing-1.0.jar").read_bytes() == JAR
    assert len(said) == 1
    asked = len(repository.asked)
    assert artifacts.kafka_jars(said.append) == folder
    assert (len(repository.asked), len(said)) == (asked, 1)
    assert sorted(path.name for path in folder.iterdir()) == ["thing-1.0.jar"]


def test_another_file_than_the_locked_one_is_refused(
    repository: Repository, tmp_path: Path
) -> None:
    repository.content = JAR[:-1] + b"!"
    with pytest.raises(WrongArtifactError, match=r"org\.example:thing:1\.0"):
        artifacts.kafka_jars()
    assert cached(tmp_path) == []


def test_an_interrupted_download_leaves_nothing_and_the_next_one_works(
    repository: Repository, tmp_path: Path
) -> None:
    repository.cut_after = 100
    with pytest.raises(RegistryUnreachableError):
        artifacts.kafka_jars()
    assert cached(tmp_path) == []
    repository.cut_after = None
    assert (artifacts.kafka_jars() / "thing-1.0.jar").read_bytes() == JAR


def test_what_a_killed_download_left_is_not_used(repository: Repository, tmp_path: Path) -> None:
    left = tmp_path / "cache/outbox-relay/kafka.unfinished/repository/org/example/thing/1.0"
    left.mkdir(parents=True)
    (left / "thing-1.0.jar").write_bytes(JAR[:50])
    assert (artifacts.kafka_jars() / "thing-1.0.jar").read_bytes() == JAR


def test_a_jar_cut_short_in_the_cache_is_fetched_again(repository: Repository) -> None:
    jar = artifacts.kafka_jars() / "thing-1.0.jar"
    jar.write_bytes(JAR[:10])
    assert (artifacts.kafka_jars() / "thing-1.0.jar").read_bytes() == JAR


def test_a_jar_that_was_changed_in_the_cache_is_fetched_again(repository: Repository) -> None:
    jar = artifacts.kafka_jars() / "thing-1.0.jar"
    jar.write_bytes(JAR[:-1] + b"!")
    assert (artifacts.kafka_jars() / "thing-1.0.jar").read_bytes() == JAR
    (jar.parent / "added-1.0.jar").write_bytes(b"would be on the class path")
    assert [path.name for path in artifacts.kafka_jars().iterdir()] == [jar.name]


def test_two_at_once_fetch_once(repository: Repository) -> None:
    with ThreadPoolExecutor(2) as pool:
        folders = set(pool.map(lambda _: artifacts.kafka_jars(), range(2)))
    assert len(folders) == 1
    assert repository.asked.count(JAR_PATH) == 1


def test_no_registry_and_no_cache_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(tmp_path, monkeypatch, free_port(), JAR)
    with pytest.raises(RegistryUnreachableError, match="KAFKA_BOOTSTRAP_SERVERS"):
        artifacts.kafka_jars()
    assert cached(tmp_path) == []


def test_a_cache_that_cannot_be_written_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(FolderError, match="file/outbox-relay"):
        artifacts.kafka_jars()
