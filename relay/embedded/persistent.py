"""Embedded servers that stay between commands: `relay embedded up`, `down`, `env`.

Invariant: one folder holds at most one PostgreSQL and one Kafka, whoever starts them and however
often; a command that is killed half-way leaves nothing that the next one does not find, because a
server is known by the folder on its command line as well as by the state file.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from relay.embedded.cluster import start_together
from relay.embedded.errors import NotRunningError
from relay.embedded.folders import (
    disk_errors,
    one_at_a_time,
    open_own,
    prepare,
    require_own,
)
from relay.embedded.kafka import EmbeddedKafka
from relay.embedded.postgres import EmbeddedPostgres
from relay.embedded.process import Identity
from relay.embedded.server import EmbeddedServer, Report, silent

_STATE = "state.json"
_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the servers of a folder are."""

    database_url: str
    kafka_bootstrap_servers: str

    def environment(self) -> dict[str, str]:
        """Return the settings that lead the relay, and any other client, to the servers."""
        return {
            "DATABASE_URL": self.database_url,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka_bootstrap_servers,
        }


@dataclass(slots=True)
class _Pair:
    postgres: EmbeddedPostgres
    kafka: EmbeddedKafka

    def both(self) -> list[EmbeddedServer]:
        return [self.postgres, self.kafka]

    def addresses(self) -> Addresses:
        return Addresses(self.postgres.dsn(), self.kafka.bootstrap_servers)


def up(
    folder: Path,
    *,
    postgres_port: int | None = None,
    kafka_port: int | None = None,
    report: Report = silent,
) -> Addresses:
    """Start the servers of a folder that do not run, on the ports and data they had before.

    Args:
        folder: made if it is not there.
        postgres_port: use this port and no other, if PostgreSQL is not running yet.
        kafka_port: the same for Kafka.
        report: told what takes a while.

    Raises:
        EmbeddedError: see EmbeddedServer.start; what this call had started is stopped again.
    """
    prepare(folder)
    with one_at_a_time(folder / _LOCK):
        pair = _pair(folder, postgres_port, kafka_port, report)
        missing = [server for server in pair.both() if not server.is_running()]
        try:
            start_together(missing)
            _write_state(folder, pair)
        except BaseException:
            for server in missing:
                server.stop()
            raise
        return pair.addresses()


def down(folder: Path, *, delete: bool = False) -> bool:
    """Stop the servers of a folder; return whether one was running. The data stays by default.

    Args:
        folder: as given to `up`; nothing happens if it is not there.
        delete: remove the servers' data and logs, too.
    """
    if not (folder / _LOCK).exists():
        return False
    require_own(folder)
    with one_at_a_time(folder / _LOCK):
        pair = _pair(folder)
        was_running = [server.end_strays() or server.is_running() for server in pair.both()]
        for server in pair.both():
            server.stop()
        if delete:
            _delete(folder, pair)
    return any(was_running)


def running(folder: Path) -> Addresses:
    """Return where the servers of a folder are.

    Raises:
        NotRunningError: one of them does not run.
    """
    if (folder / _LOCK).exists():
        require_own(folder)
        with one_at_a_time(folder / _LOCK):
            pair = _pair(folder)
        if all(server.is_running() for server in pair.both()):
            return pair.addresses()
    raise NotRunningError(f"nothing is up in {folder}: run `relay embedded up`")


def _pair(
    folder: Path,
    postgres_port: int | None = None,
    kafka_port: int | None = None,
    report: Report = silent,
) -> _Pair:
    """Describe the folder's servers, and find those that run."""
    folder = folder.absolute()
    pair = _Pair(
        EmbeddedPostgres(folder / "postgres", port=postgres_port, owned=False),
        EmbeddedKafka(folder / "kafka", port=kafka_port, owned=False, report=report),
    )
    state = _read_state(folder)
    for server in pair.both():
        if (known := state.get(server.name)) is not None:
            server.adopt(Identity(known["pid"], known["created_at"]), known["port"])
    return pair


def _read_state(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        with open_own(folder / _STATE) as file:
            state: dict[str, dict[str, Any]] = json.load(file)
    except FileNotFoundError:
        return {}
    return state


def _write_state(folder: Path, pair: _Pair) -> None:
    state = {s.name: {**asdict(s.identity), "port": s.port} for s in pair.both()}
    with disk_errors(folder), _replaced(folder / _STATE) as unfinished:
        unfinished.write_text(json.dumps(state), encoding="ascii")


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Give a file beside `path` that takes its place when it is whole."""
    unfinished = path.with_suffix(".unfinished")
    yield unfinished
    unfinished.rename(path)


def _delete(folder: Path, pair: _Pair) -> None:
    """Remove what is ours and nothing else: the folder may have been chosen by a slip."""
    for server in pair.both():
        shutil.rmtree(server.folder, ignore_errors=True)
    for name in (_STATE, _LOCK):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
