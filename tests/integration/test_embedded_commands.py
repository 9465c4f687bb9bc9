"""`relay embedded up`, `down`, `env`: one pair to a folder, whatever happens to a command."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

from relay.embedded import persistent
from relay.embedded.errors import NotRunningError
from relay.embedded.folders import run_folder
from relay.embedded.kafka_settings import live_brokers

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder() -> Iterator[Path]:
    with run_folder() as parent:
        made = parent / "embedded"
        yield made
        persistent.down(made)
        assert users(made) == []


def users(folder: Path) -> list[int]:
    """Return the processes that have the folder on their command line."""
    lines = ((p.pid, p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
    return [pid for pid, line in lines if line and str(folder) in line[-1]]


def test_up_env_down_as_a_user_types_them(folder: Path, relay_command: Command) -> None:
    place = f"--dir={folder}"
    up = relay_command("embedded", "up", place)
    assert up.returncode == 0, up.stderr
    assert up.stdout.startswith("export DATABASE_URL=postgresql://")
    shell = 'eval "$1"; printf "%s %s" "$DATABASE_URL" "$KAFKA_BOOTSTRAP_SERVERS"'
    read = subprocess.run(
        ["sh", "-c", shell, "sh", up.stdout], check=True, capture_output=True, text=True
    )
    url, servers = read.stdout.split()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert live_brokers(int(servers.rpartition(":")[2])) == 1

    as_json = relay_command("embedded", "env", place, "--json")
    assert json.loads(as_json.stdout) == {"DATABASE_URL": url, "KAFKA_BOOTSTRAP_SERVERS": servers}

    before = sorted(users(folder))
    again = relay_command("embedded", "up", place)
    assert (again.returncode, again.stdout) == (0, up.stdout)
    assert sorted(users(folder)) == before

    assert relay_command("embedded", "down", place).returncode == 0
    assert users(folder) == []
    twice = relay_command("embedded", "down", place)
    assert (twice.returncode, "nothing was running" in twice.stderr) == (0, True)
    off = relay_command("embedded", "env", place)
    assert (off.returncode, "relay embedded up" in off.stderr) == (1, True)


def test_data_and_addresses_outlive_down_until_they_are_deleted(folder: Path) -> None:
    first = persistent.up(folder)
    with psycopg.connect(first.database_url) as connection:
        connection.execute("CREATE TABLE kept ()")
    persistent.down(folder)
    assert persistent.up(folder) == first
    with psycopg.connect(first.database_url) as connection:
        connection.execute("SELECT * FROM kept")
    foreign = folder / "notes.txt"
    foreign.touch()
    assert persistent.down(folder, delete=True)
    assert list(folder.iterdir()) == [foreign]


def test_two_at_once_start_one_pair(folder: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: persistent.up(folder), range(2))
    assert first == second
    assert len(users(folder)) == 2


@pytest.mark.parametrize("which", [0, 1])
def test_up_starts_again_what_has_died(folder: Path, which: int) -> None:
    addresses = persistent.up(folder)
    pids = users(folder)
    os.kill(pids[which], signal.SIGKILL)
    psutil.wait_procs([psutil.Process(pid) for pid in pids[which : which + 1]], timeout=10)
    with pytest.raises(NotRunningError):
        persistent.running(folder)
    assert persistent.up(folder) == addresses
    assert persistent.running(folder) == addresses
    assert len(users(folder)) == 2


@pytest.mark.parametrize("command", ["up", "down"])
def test_servers_that_nobody_wrote_down_are_found(folder: Path, command: str) -> None:
    persistent.up(folder)
    strays = users(folder)
    (folder / "state.json").unlink()  # as if `up` had been killed before it wrote it
    if command == "up":
        persistent.up(folder)
        assert set(users(folder)).isdisjoint(strays)
        assert len(users(folder)) == 2
    else:
        assert persistent.down(folder)
        assert users(folder) == []


def test_an_editor_in_the_folder_is_not_a_server(folder: Path) -> None:
    persistent.up(folder)
    persistent.down(folder)
    path = folder / "kafka/server.properties"
    editor = subprocess.Popen(["tail", "-f", path], stdout=subprocess.DEVNULL)
    try:
        persistent.up(folder)
        persistent.down(folder)
        assert editor.poll() is None
    finally:
        editor.kill()
        editor.wait()


def test_a_taken_port_is_an_error_and_leaves_nothing(folder: Path, relay_command: Command) -> None:
    with run_folder() as other:
        addresses = persistent.up(other / "embedded")
        port = addresses.kafka_bootstrap_servers.rpartition(":")[2]
        try:
            failed = relay_command("embedded", "up", f"--dir={folder}", f"--kafka-port={port}")
        finally:
            persistent.down(other / "embedded")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error[port_taken]: ")
    assert users(folder) == []
