"""A real Debezium Server, from Maven's artifact, with the connector that the docs tell."""

import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.maven import MavenContext

from relay.embedded.artifacts import Jar, locked_jars
from relay.embedded.folders import cache_folder, one_at_a_time
from relay.embedded.kafka import java_runtime
from relay.embedded.ports import free_port

LOCK = Path(__file__).with_name("debezium-server.lock")
_OPTIONS = ("-Xms128m", "-Xmx512m", "-XX:TieredStopAtLevel=1")
_SINK = {
    "debezium.sink.type": "kafka",
    "debezium.sink.kafka.producer.key.serializer":
        "org.apache.kafka.common.serialization.StringSerializer",
    "debezium.sink.kafka.producer.value.serializer":
        "org.apache.kafka.common.serialization.StringSerializer",
    "debezium.format.key": "simplestring",
    "debezium.format.value": "simplestring",
    "debezium.format.header": "json",
    "debezium.format.header.schemas.enable": "false",
    "debezium.source.offset.flush.interval.ms": "1000",
    "quarkus.log.console.json": "false",
}  # fmt: skip
# Connect's own: the server has formats instead.
_CONNECTS_OWN = ("header.converter", "key.converter", "value.converter", "tasks.max")


def server_folder() -> Path:
    """Return the folder of the server, fetched once: 800 MB, of which half is kept."""
    (locked,) = locked_jars(LOCK.read_text("ascii"))
    folder = cache_folder() / f"debezium-server-{locked.sha256[:12]}"
    with one_at_a_time(cache_folder() / "debezium-server.lock"):
        if not folder.is_dir():
            _unpack(locked, folder)
    return folder


def _unpack(locked: Jar, folder: Path) -> None:
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    repositories = {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}
    context = MavenContext(repo_cache=unfinished / "m2", remote_repos=repositories, timeout=600)
    component = context.project(locked.group, locked.artifact).at_version(locked.version)
    archive = Path(component.artifact(packaging="tar.gz").resolve())
    with archive.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == locked.sha256
    with tarfile.open(archive) as files:
        for one in files:
            inside = one.name.removeprefix("debezium-server/")
            if inside.endswith("-runner.jar") or inside.startswith("lib/"):
                files.extract(one, unfinished, filter="data")
    shutil.rmtree(unfinished / "m2")
    unfinished.rename(folder)


def as_properties(connector: Mapping[str, str]) -> dict[str, str]:
    """Return a connector's configuration of Kafka Connect as the server's properties."""
    found = {}
    for name, text in connector.items():
        if name not in _CONNECTS_OWN:
            shared = name.startswith(("transforms", "predicates"))
            found[f"debezium.{name}" if shared else f"debezium.source.{name}"] = text
    return found


class DebeziumServer:
    """One server; `kill` ends `process` with SIGKILL, `stop` in good order."""

    def __init__(self, folder: Path, bootstrap_servers: str, connector: Mapping[str, str]) -> None:
        program = server_folder() / "debezium-server"
        (folder / "config").mkdir(parents=True, exist_ok=True)
        properties = _SINK | as_properties(connector) | {
            "debezium.sink.kafka.producer.bootstrap.servers": bootstrap_servers,
            "debezium.source.offset.storage.file.filename": str(folder / "offsets.dat"),
            "quarkus.http.port": str(free_port()),
        }  # fmt: skip
        (folder / "config/application.properties").write_text(
            "".join(f"{name}={_escaped(text)}\n" for name, text in properties.items())
        )
        (runner,) = program.glob("*-runner.jar")
        command = [
            str(java_runtime()), *_OPTIONS, "--add-opens", "java.base/java.lang=ALL-UNNAMED",
            "-cp", f"{runner}:config:{program}/lib/*", "io.debezium.server.Main",
        ]  # fmt: skip
        self.log = folder / "server.log"
        with self.log.open("ab") as log:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
            )

    def is_running(self) -> bool:
        """Say whether it runs; what it wrote is shown where it does not."""
        assert self.process.poll() is None, self.log.read_text("utf-8", "replace")[-3000:]
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\")
