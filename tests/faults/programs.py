"""The processes under test, as their users start them."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.faults.brokers import ROLES

RELAY = Path(sys.executable).with_name("relay")
AT_POINT = Path(__file__).with_name("dies_at_point.py")
_FOREIGN = ("TEST_", "RELAY_", "OTEL_", "KAFKA_", "PG", "DATABASE_URL")
_ARGUMENTS: Mapping[str, Sequence[str]] = {
    "relay": ("run",),
    "confirm": ("confirm",),
    "processor": ("sample", "processor", "--seed", "1"),
}
assert set(_ARGUMENTS) == set(ROLES)


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without what would lead a program elsewhere."""
    env = {name: text for name, text in os.environ.items() if not name.startswith(_FOREIGN)}
    quiet = {"PYTHONUNBUFFERED": "1", "OTEL_TRACES_EXPORTER": "none"}
    return env | quiet | extra


class Program:
    """One process, started again and again under the same name."""

    def __init__(self, name: str, role: str, env: Mapping[str, str], folder: Path) -> None:
        self.name, self.role, self.env = name, role, env
        self.log = folder / f"{name}.log"
        self.starts = 0
        self._log_from = 0
        self._popen: subprocess.Popen[bytes] | None = None
        self._ending = False

    def start(self, *, dies_at: tuple[str, int] | None = None) -> None:
        """Start it; `dies_at`: kill -9 by its own hand at the n-th passing of a named point.

        One that was told to end is waited for: it may still tell a collector that does not listen.
        """
        if self._ending:
            self.stop()
        command = [str(RELAY), *_ARGUMENTS[self.role]]
        if dies_at is not None:
            point, passing = dies_at
            command = [sys.executable, str(AT_POINT), self.role, point, str(passing)]
        with self.log.open("ab") as log:
            self._log_from = log.tell()
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(self.env),
            )
        self.starts += 1
        self._ending = False

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    def is_running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None and not self._ending

    def kill(self) -> None:
        """End it with SIGKILL, frozen or not."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.is_running():
            assert self._popen is not None
            self._popen.send_signal(number)

    def tell_to_end(self) -> None:
        """Send SIGTERM, and do not wait."""
        self._signal(signal.SIGTERM)
        self._ending = True

    def stop(self, within_seconds: float = 30.0) -> int:
        """Ask it to end (SIGTERM) and return its exit code; -9 if it had to be killed."""
        assert self._popen is not None
        self.thaw()
        self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._popen.wait(within_seconds)
        self.kill()
        return -signal.SIGKILL

    def wait(self, within_seconds: float) -> int | None:
        """Wait for it to end by itself; None: it did not."""
        assert self._popen is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._popen.wait(within_seconds)
        return None

    def said_since_start(self, word: str) -> bool:
        """Whether this start's log has a word."""
        return word.encode() in self.log.read_bytes()[self._log_from :]
