"""Runs one server and ends it when whoever asked for it is gone, even by SIGKILL.

Invariant: the server never outlives this process, and this process never outlives its stdin. It is
started by path (`python -I guard.py '{...}'`), knows nothing of the project, and has one thread,
because Linux's PDEATHSIG is bound to the thread that forked.

Protocol: the server's pid goes to stdout; a detached server is then left alone. A byte on stdin and
its end: stop the server. The end alone: the parent died, so stop it and remove its folder, too.
Exit code: the server's own, or 128 and the signal that ended it.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the server described by the only argument until it or the parent ends."""
    order = json.loads(sys.argv[1])
    # A terminal's Ctrl-C and a service manager's TERM are for the parent; it will tell us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer)
    signal.signal(signal.SIGCHLD, _wake)
    server = _start(order)
    sys.stdout.write(f"{server.pid}\n")
    sys.stdout.close()
    if order["detached"]:
        return 0
    orphaned = _wait(server, wake_reader)
    if server.poll() is None:
        _stop(server, order["stop_signal"], order["stop_seconds"])
    if orphaned:
        _remove(Path(order["folder"]))
    code = server.wait()
    return code if code >= 0 else 128 - code


def _wake(_signal: int, _frame: FrameType | None) -> None:
    """Exist, so that the signal is not ignored and wakes `select`."""


def _start(order: dict[str, Any]) -> subprocess.Popen[bytes]:
    bound = sys.platform == "linux" and not order["detached"]
    libc = ctypes.CDLL(None) if bound else None

    def before_exec() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    account: dict[str, Any] = {}
    if order["account"] is not None:
        user, group = order["account"]
        account = {"user": user, "group": group, "extra_groups": []}
    with open(order["log"], "ab", opener=_private) as log:
        return subprocess.Popen(
            order["command"],
            cwd="/",
            env=order["environment"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=before_exec,  # noqa: PLW1509 - there is one thread
            start_new_session=True,
            **account,
        )


def _private(path: str, flags: int) -> int:
    """Open a log that others cannot read: it has what clients send, in error messages."""
    log = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    os.fchmod(log, 0o600)
    return log


def _wait(server: subprocess.Popen[bytes], wake_reader: int) -> bool:
    """Wait for the end of the server or of stdin; return whether the parent died."""
    told = b""
    while server.poll() is None:
        ready, _, _ = select.select([0, wake_reader], [], [])
        if wake_reader in ready:
            os.read(wake_reader, 4096)
        if 0 in ready:
            word = os.read(0, 1)
            if not word:
                return not told
            told = word
    return False


def _stop(server: subprocess.Popen[bytes], stop_signal: int, stop_seconds: float) -> None:
    with contextlib.suppress(ProcessLookupError):
        server.send_signal(stop_signal)
        _resume(server.pid)
    try:
        server.wait(stop_seconds)
    except subprocess.TimeoutExpired:
        server.kill()


def _resume(pid: int) -> None:
    """Let a server go on that a test has paused, with its children: they would see no signal."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    for process in (pid, *map(int, children)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    # The last server of a run removes what holds them all: a folder with nothing but its lock.
    owner = folder.parent / "owner.lock"
    with contextlib.suppress(OSError):
        if list(folder.parent.iterdir()) == [owner]:
            owner.unlink()
            folder.parent.rmdir()


if __name__ == "__main__":
    sys.exit(main())
