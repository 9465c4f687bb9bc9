"""Embedded servers' folders: never left behind, never somebody else's, errors that say why."""

import errno
import json
import os
import socket
from pathlib import Path

import psutil
import pytest

from relay.embedded import folders, persistent
from relay.embedded.errors import FolderError, NoDiskSpaceError, NotRunningError, PortTakenError
from relay.embedded.ports import LOOPBACK, free_port, is_free


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folders, "_temporary_parent", lambda: tmp_path)
    return tmp_path


def age(folder: Path) -> None:
    os.utime(folder, (1, 1))


def test_a_run_folder_goes_with_its_run(temporary: Path) -> None:
    with folders.run_folder() as folder:
        (folder / "data").mkdir()
        assert folder.parent == temporary
    assert not folder.exists()


def test_a_killed_runs_folder_goes_with_the_next_run(temporary: Path) -> None:
    abandoned = temporary / "outbox-relay-abandoned"
    (abandoned / "postgres").mkdir(parents=True)
    (abandoned / "owner.lock").touch()
    age(abandoned)
    with folders.run_folder():
        assert not abandoned.exists()


def test_a_living_runs_folder_stays(temporary: Path) -> None:
    with folders.run_folder() as first:
        age(first)
        with folders.run_folder() as second:
            assert first.exists()
            assert second != first


@pytest.mark.parametrize("made", ["no lock", "young"])
def test_a_folder_that_may_be_somebodys_stays(temporary: Path, made: str) -> None:
    other = temporary / "outbox-relay-other"
    other.mkdir()
    if made == "young":
        (other / "owner.lock").touch()
    else:
        age(other)
    with folders.run_folder():
        assert other.exists()


def test_a_link_in_the_temporary_folder_is_not_followed(temporary: Path) -> None:
    target = temporary / "precious"
    target.mkdir()
    (target / "owner.lock").touch()
    age(target)
    (temporary / "outbox-relay-link").symlink_to(target)
    with folders.run_folder():
        assert target.exists()


def test_a_folder_of_another_user_is_refused_and_no_link_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("of somebody else")
    folder = tmp_path / "servers"
    folder.mkdir()
    # A process that is none of ours, by its number and the time of its start.
    bystander = psutil.Process()
    known = {"pid": bystander.pid, "created_at": bystander.create_time(), "port": 1}
    (folder / "state.json").write_text(json.dumps({"Kafka": known, "PostgreSQL": known}))
    (folder / "lock").symlink_to(precious)
    with pytest.raises(FolderError, match="link"):
        persistent.down(folder)
    assert precious.read_text() == "of somebody else"
    (folder / "lock").unlink()
    (folder / "lock").touch()
    assert not persistent.down(folder)
    with pytest.raises(NotRunningError):
        persistent.running(folder)
    (folder / "state.json").unlink()
    (folder / "state.json").symlink_to(precious)
    with pytest.raises(FolderError, match="link"):
        persistent.down(folder)
    folder.chmod(0o777)
    with pytest.raises(FolderError, match="every user"):
        persistent.down(folder)
    folder.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    for act in (persistent.down, persistent.running, persistent.up):
        with pytest.raises(FolderError):
            act(folder)


def test_reaching_a_folder_needs_every_parent(tmp_path: Path) -> None:
    shared = Path("/tmp").resolve()
    assert folders.can_be_reached(shared / "not-there-yet")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    assert not folders.can_be_reached(closed / "inner")


def test_a_full_disk_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "server_account", lambda: None)
    monkeypatch.setattr(folders, "NEEDED_BYTES", 10**18)
    with pytest.raises(NoDiskSpaceError, match="MB needed; make room"):
        folders.prepare(tmp_path / "server")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_while_writing_is_named(tmp_path: Path, number: int) -> None:
    with pytest.raises(NoDiskSpaceError, match=str(tmp_path)), folders.disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderError, match="choose a folder that this user can write to"):
        folders.prepare(tmp_path / "file" / "server")


def test_root_is_told_that_postgres_cannot_reach_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "server_account", lambda: (65534, 65534))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(FolderError, match="nobody"):
        folders.prepare(closed / "server")


def test_relative_xdg_folders_are_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert folders.cache_folder() == tmp_path / ".cache/outbox-relay"


def test_a_free_port_can_be_listened_on_and_is_then_not_free() -> None:
    port = free_port()
    with socket.socket() as listener:
        listener.bind((LOOPBACK, port))
        listener.listen()
        assert not is_free(port)
    assert is_free(port)


def test_no_free_port_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.embedded.ports.is_free", lambda _port: False)
    with pytest.raises(PortTakenError):
        free_port()
