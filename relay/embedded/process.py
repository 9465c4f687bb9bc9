"""One server as an operating system's process: start, end, pause, and know whether it is still it.

Invariant: a pid is never trusted alone; with the time of its start it names one process for ever,
and it is a server of ours only if it runs the program and names the path that the order does. An
owned server ends with this process, however this process ends; a detached one stays.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from relay.embedded.errors import ServerDiedError

_GUARD = Path(__file__).with_name("guard.py")
_KILL_WAIT_SECONDS = 10.0
_LINGER_SECONDS = 1.0
_POLL_SECONDS = 0.01
_LOG_TAIL_BYTES = 3000


@dataclass(frozen=True, slots=True)
class Order:
    """What to start, and how to end it.

    Attributes:
        command: its last argument is a path that no other server has.
        folder: the server's own folder; removed if the parent dies and the server is owned.
        account: user and group id to run as, None for this process's own.
        stop_signal: asks the server to end; after `stop_seconds` it is killed.
    """

    command: Sequence[str]
    folder: Path
    log: Path
    environment: Mapping[str, str]
    account: tuple[int, int] | None
    stop_signal: signal.Signals
    stop_seconds: float


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, told from a later one with the same pid by when it started (Unix time)."""

    pid: int
    created_at: float


class ServerProcess:
    """A running server: this process's own child, or one found again by its identity."""

    def __init__(
        self, process: psutil.Process, order: Order, guard: subprocess.Popen[str] | None
    ) -> None:
        self._process = process
        self._order = order
        self._guard = guard

    @property
    def identity(self) -> Identity:
        """Return what finds this process again."""
        return Identity(self._process.pid, self._process.create_time())

    @property
    def pid(self) -> int:
        """Return the server's process id."""
        return int(self._process.pid)

    def is_running(self) -> bool:
        """Return whether the server lives."""
        return lives(self._process)

    @property
    def exit_code(self) -> int | None:
        """Return how an owned server ended; None while it runs, or when nobody can know."""
        return None if self._guard is None else self._guard.poll()

    def stop(self) -> None:
        """Ask the server to end, wait, kill it if it does not. Does nothing if it has ended."""
        family = self._family()
        # A paused server would never see the signal that asks it to end.
        self._signal(family, signal.SIGCONT)
        if self._guard is not None:
            self._dismiss_guard(self._guard)
        else:
            self._signal(family[:1], self._order.stop_signal)
            _wait([self._process], self._order.stop_seconds)
        _end(family)

    def kill(self) -> None:
        """End the server and its children at once with SIGKILL, as a crash of the machine would."""
        family = self._family()
        self._signal(family, signal.SIGKILL)
        if self._guard is not None:
            self._dismiss_guard(self._guard)
        _end(family)

    def pause(self) -> None:
        """Stop the server and its children where they stand (SIGSTOP)."""
        self._signal(self._family(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        self._signal(self._family(), signal.SIGCONT)

    def _family(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    @staticmethod
    def _signal(family: list[psutil.Process], number: signal.Signals) -> None:
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _dismiss_guard(self, guard: subprocess.Popen[str]) -> None:
        if guard.stdin is not None and not guard.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # the guard has ended with its server
                guard.stdin.write("s")
                guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.wait(self._order.stop_seconds + _KILL_WAIT_SECONDS)
        if guard.poll() is None:
            guard.kill()
            guard.wait()


def _end(family: list[psutil.Process]) -> None:
    """Make sure that nothing of a family is left: most often it is gone already."""
    if _wait(family, _LINGER_SECONDS):
        return
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _wait(family, _KILL_WAIT_SECONDS)


def _wait(family: list[psutil.Process], within_seconds: float) -> bool:
    """Wait for the end of all; return whether it came. Not psutil's wait: it waits for zombies."""
    deadline = time.monotonic() + within_seconds
    while any(lives(process) for process in family):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def lives(process: psutil.Process) -> bool:
    """Return whether a process lives; one that ended and that nobody has reaped does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def start(order: Order, *, owned: bool) -> ServerProcess:
    """Start a server through its guard.

    Args:
        order: what to start.
        owned: end the server when this process ends, even by SIGKILL; otherwise it stays, and
            `find` finds it again.

    Raises:
        ServerDiedError: it could not be started at all.
    """
    spec = {
        "command": list(order.command),
        "folder": str(order.folder),
        "log": str(order.log),
        "environment": dict(order.environment),
        "account": order.account,
        "stop_signal": int(order.stop_signal),
        "stop_seconds": order.stop_seconds,
        "detached": not owned,
    }
    guard = subprocess.Popen(
        [sys.executable, "-I", str(_GUARD), json.dumps(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        start_new_session=True,
    )
    if guard.stdin is None or guard.stdout is None or guard.stderr is None:
        raise AssertionError("the guard was started with pipes")
    with guard.stdout, guard.stderr:
        pid = guard.stdout.readline().strip()
        # The last line of a traceback is what went wrong.
        words = "" if pid else guard.stderr.read().strip().rpartition("\n")[2]
    try:
        server = psutil.Process(int(pid)) if pid else None
    except psutil.NoSuchProcess:  # it has ended already
        server, words = None, log_tail(order.log)
    if server is None or not owned:
        guard.stdin.close()
        guard.wait()
    if server is None:
        raise ServerDiedError(f"{order.command[0]} cannot be started: {words}")
    return ServerProcess(server, order, guard if owned else None)


def find(identity: Identity, order: Order) -> ServerProcess | None:
    """Return the process of this identity if it still runs, and is what was ordered."""
    try:
        process = psutil.Process(identity.pid)
        found = ServerProcess(process, order, None)
        same = process.create_time() == identity.created_at and _ordered(process.cmdline(), order)
    except psutil.Error:
        return None
    return found if same and found.is_running() else None


def users_of(order: Order) -> list[ServerProcess]:
    """Return the processes that were started by an equal order, whoever started them.

    The last argument of an order's command is a path that no other server has; the program's name
    tells a server from an editor that has the same path open.
    """
    return [
        ServerProcess(process, order, None)
        for process in psutil.process_iter(["cmdline"])
        if _ordered(process.info["cmdline"], order) and lives(process)
    ]


def _ordered(line: Sequence[str] | None, order: Order) -> bool:
    program = Path(order.command[0]).name
    return (
        line is not None
        and len(line) > 0
        and ((Path(line[0]).name, line[-1]) == (program, order.command[-1]))
    )


def plain_environment(**extra: str) -> dict[str, str]:
    """Return an environment without the user's settings for PostgreSQL, Java or Kafka."""
    kept = {name: os.environ[name] for name in ("PATH", "TZ", "TMPDIR") if name in os.environ}
    return {"LC_ALL": "C", **kept, **extra}


def log_tail(log: Path, from_byte: int = 0) -> str:
    """Return the end of a server's log, of what follows `from_byte`, for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(max(from_byte, log.stat().st_size - _LOG_TAIL_BYTES))
            return f"the end of {log}:\n{file.read().decode(errors='replace').strip()}"
    except OSError:
        return f"{log} cannot be read"
