"""What makes a broker start in one second instead of four: made once per Kafka and Java, cached.

Invariant: a folder with its final name is whole; without the class cache brokers only start slower.

- A formatted data folder, to be copied: formatting takes a Java process of its own (1.5 s). Its
  only part that differs between clusters, meta.properties, is written for each.
- An ahead-of-time cache of the broker's classes (JEP 514), recorded in one short life of a broker
  (7 s, once): a start then takes 0.8 s instead of 1.8 s, and half the CPU, measured on two cores.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relay.embedded.errors import ServerDiedError
from relay.embedded.folders import disk_errors, one_at_a_time
from relay.embedded.kafka_settings import (
    LOGGING,
    QUICK,
    kafka_id,
    live_brokers,
    meta_properties,
    server_properties,
)
from relay.embedded.ports import free_port
from relay.embedded.process import plain_environment
from relay.embedded.server import Report

_FORMAT_SECONDS = 60
_RECORD_SECONDS = 60
_POLL_SECONDS = 0.02
_LOG_TAIL_CHARACTERS = 3000


@dataclass(frozen=True, slots=True)
class Image:
    """A prepared Kafka: its jars as Java wants them, and the two shortcuts.

    Attributes:
        formatted: a data folder without meta.properties.
        class_cache: the ahead-of-time cache, None if it could not be recorded.
    """

    java: Path
    classpath: str
    formatted: Path
    class_cache: Path | None

    def command(self, options: Sequence[str], *arguments: str) -> list[str]:
        """Return the command line of a broker."""
        cache = [f"-XX:AOTCache={self.class_cache}"] if self.class_cache else []
        return [str(self.java), *options, *cache, "-cp", self.classpath, *arguments]


def prepare(jars: Path, java: Path, report: Report) -> Image:
    """Return the image for these jars and this Java, making it first if it is not cached.

    Raises:
        ServerDiedError: Java or Kafka's own formatting fails; the message has their words.
        NoDiskSpaceError: the cache's disk is full.
        FolderError: the cache cannot be written to.
    """
    release = (java.parent.parent / "release").read_bytes()
    key = hashlib.sha256(release + str(jars).encode()).hexdigest()[:12]
    folder = jars.with_name(f"kafka-image-{key}")
    if not folder.exists():
        with one_at_a_time(jars.with_name("kafka-image.lock")):
            if not folder.exists():
                report("preparing Kafka for quick starts (once)")
                _make(folder, _image(folder, jars, java))
    return _image(folder, jars, java)


def _image(folder: Path, jars: Path, java: Path) -> Image:
    classpath = ":".join(str(jar) for jar in sorted(jars.glob("*.jar")))
    cache = folder / "broker.aot"
    return Image(java, classpath, folder / "formatted", cache if cache.exists() else None)


def _make(folder: Path, image: Image) -> None:
    unfinished = folder.with_name("kafka-image.unfinished")
    with disk_errors(folder.parent):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
    try:
        with disk_errors(folder.parent):
            _format(unfinished, image)
            _record(unfinished, image)
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _format(folder: Path, image: Image) -> None:
    data = folder / "formatted"
    settings = folder / "server.properties"
    settings.write_text(server_properties(data, 1, 2, {}), encoding="utf-8")
    command = image.command(
        QUICK, "kafka.tools.StorageTool", "format", "-t", kafka_id(), "-c", str(settings)
    )
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=_FORMAT_SECONDS,
        env=plain_environment(),
    )
    if done.returncode != 0:
        words = (done.stdout + done.stderr)[-_LOG_TAIL_CHARACTERS:]
        raise ServerDiedError(f"Kafka cannot format a data folder:\n{words}")
    (data / "meta.properties").unlink()


def _record(folder: Path, image: Image) -> None:
    """Let one broker live until it answers, recording its classes; without success, no cache."""
    work = folder / "recording"
    shutil.copytree(folder / "formatted", work / "data")
    (work / "data/meta.properties").write_text(meta_properties(), encoding="ascii")
    (work / "log4j2.properties").write_text(LOGGING, encoding="ascii")
    port = free_port()
    settings = work / "server.properties"
    settings.write_text(server_properties(work / "data", port, free_port(), {}), encoding="utf-8")
    options = [*QUICK, f"-XX:AOTCacheOutput={folder / 'broker.aot'}", f"-Djava.io.tmpdir={work}"]
    options.append(f"-Dlog4j2.configurationFile={work / 'log4j2.properties'}")
    command = image.command(options, "kafka.Kafka", str(settings))
    with (work / "log").open("wb") as log:
        broker = subprocess.Popen(
            command, stdout=log, stderr=log, env=plain_environment(), start_new_session=True
        )
    try:
        deadline = time.monotonic() + _RECORD_SECONDS
        while live_brokers(port) == 0 and broker.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        broker.terminate()
        broker.wait(_RECORD_SECONDS)
    except subprocess.TimeoutExpired:
        (folder / "broker.aot").unlink(missing_ok=True)
    finally:
        # Java writes the cache in a second process, which must not go on writing what brokers map
        # into their memory: they would die of SIGBUS.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(broker.pid, signal.SIGKILL)
        broker.wait()
    shutil.rmtree(work)
    for left in folder.glob("broker.aot.*"):  # the recording, of which the cache was made
        left.unlink()
