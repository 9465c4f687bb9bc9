"""What the two embedded servers have in common: a folder, a port, a start that is waited for.

Invariant: `start` returns when the server answers, or raises with the end of its log and leaves
nothing running. A port that was not asked for by number is given up for another when it is taken.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from relay.embedded import process
from relay.embedded.errors import PortTakenError, ServerDiedError, ServerStuckError
from relay.embedded.folders import prepare
from relay.embedded.ports import LOOPBACK, free_port, is_free
from relay.embedded.process import Identity, Order, ServerProcess

_POLL_SECONDS = 0.02
_PORT_ATTEMPTS = 5


class EmbeddedServer(ABC):
    """One server in a folder of its own; it can be started and stopped many times.

    The data and the port stay the same over restarts. Not safe for use from two threads at once.
    """

    name: str
    start_within_seconds: float = 60.0

    def __init__(self, folder: Path, *, port: int | None = None, owned: bool = True) -> None:
        """Describe a server; nothing is started or written yet.

        Args:
            folder: made if it is not there. It belongs to this server alone.
            port: the port to use, and no other; by default one is found and kept.
            owned: end the server when this process ends, however that happens.
        """
        self.folder = folder.absolute()
        self.log = self.folder / f"{self.name}.log"
        self._asked_port = port
        self._port = port
        self._owned = owned
        self._process: ServerProcess | None = None

    @property
    def port(self) -> int:
        """Return the port on 127.0.0.1; known from the first start on."""
        if self._port is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._port

    @property
    def pid(self) -> int:
        """Return the process id of the running server."""
        return self._running().pid

    @property
    def identity(self) -> Identity:
        """Return what finds the running server again from another process."""
        return self._running().identity

    def is_running(self) -> bool:
        """Return whether the server's process lives (a paused one does)."""
        return self._process is not None and self._process.is_running()

    def start(self) -> None:
        """Start the server and wait until it answers; does nothing if it runs.

        Raises:
            PortTakenError: the port that was asked for is in use.
            ServerDiedError: it ended at once; the message has the end of its log.
            ServerStuckError: it does not answer in time.
            NoDiskSpaceError: there is no room for its files.
            FolderError: its folder cannot be used.
        """
        if self.is_running():
            return
        prepare(self.folder)
        self.end_strays()
        self._install()
        for attempt in range(_PORT_ATTEMPTS):
            self._choose_port(attempt)
            try:
                self._start_once()
            except ServerDiedError as died:
                if not self._port_was_taken(str(died)):
                    raise
            else:
                return
        raise PortTakenError(f"{self.name}: every port tried was taken, last {self.port}")

    def stop(self) -> None:
        """Stop the server in good order, by force if it takes too long; the data stays."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """End the server with SIGKILL, children too; the data stays as the crash left it."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): it keeps its connections and answers nobody."""
        self._running().pause()

    def resume(self) -> None:
        """Let a frozen server go on (SIGCONT)."""
        self._running().resume()

    def adopt(self, identity: Identity, port: int) -> bool:
        """Take over a server that another process started; return whether it still runs."""
        self._port = port
        self._process = process.find(identity, self._order())
        return self._process is not None

    def end_strays(self) -> bool:
        """Stop servers that use this folder and that nobody remembers; return whether one did.

        There is one if whoever started it died before it could write down that it had.
        """
        if not self.log.exists():
            return False
        mine = self._process.pid if self._process else None
        strays = [stray for stray in process.users_of(self._order()) if stray.pid != mine]
        for stray in strays:
            stray.stop()
        return bool(strays)

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process

    def _choose_port(self, attempt: int) -> None:
        if self._asked_port is not None:
            if not is_free(self._asked_port):
                raise PortTakenError(
                    f"{self.name}: port {self._asked_port} on {LOOPBACK} is in use; "
                    "stop what uses it, or let a free one be chosen"
                )
        elif self._port is None or attempt > 0 or not is_free(self._port):
            self._port = free_port()

    def _start_once(self) -> None:
        self._configure()
        log_from = self.log.stat().st_size if self.log.exists() else 0
        server = process.start(self._order(), owned=self._owned)
        try:
            self._await_answer(server, log_from)
        except BaseException:
            server.kill()
            raise
        self._process = server

    def _await_answer(self, server: ServerProcess, log_from: int) -> None:
        deadline = time.monotonic() + self.start_within_seconds
        while not self._answers(server):
            if not server.is_running():
                tail = process.log_tail(self.log, log_from)
                raise ServerDiedError(f"{self.name} ended while it was starting; {tail}")
            if time.monotonic() > deadline:
                seconds = self.start_within_seconds
                tail = process.log_tail(self.log, log_from)
                raise ServerStuckError(f"{self.name} does not answer after {seconds:.0f} s; {tail}")
            time.sleep(_POLL_SECONDS)

    @abstractmethod
    def _install(self) -> None:
        """Put in place what the first start needs."""

    @abstractmethod
    def _configure(self) -> None:
        """Write the settings, the port among them; called before every start."""

    @abstractmethod
    def _order(self) -> Order:
        """Say how the process is started and ended."""

    @abstractmethod
    def _answers(self, server: ServerProcess) -> bool:
        """Return whether the server does its work now."""

    @abstractmethod
    def _port_was_taken(self, log: str) -> bool:
        """Return whether the log says that another program has the port."""


Report = Callable[[str], None]


def silent(_text: str) -> None:
    """Report progress to nobody."""
