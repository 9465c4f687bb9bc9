"""A real Kafka Connect worker (distributed) with Debezium's connector, from Maven's artifacts."""

import asyncio
import json
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from relay.embedded.artifacts import locked_files
from relay.embedded.kafka import java_runtime
from relay.embedded.kafka_settings import LOGGING
from relay.embedded.ports import LOOPBACK, free_port

LOCK = Path(__file__).with_name("connect.lock")
PAGE = Path(__file__).parents[1] / "docs/publishers.md"
_LATER = (404, 409, 500, 503)
_OPTIONS = ("-Xms128m", "-Xmx512m", "-XX:TieredStopAtLevel=1")


def documented_connector() -> dict[str, str]:
    """The connector's configuration, as docs/publishers.md tells it."""
    (text,) = re.findall(r"```json\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    found: dict[str, str] = json.loads(text)
    return found


class ConnectWorker:
    """One worker; `stop` ends it."""

    def __init__(self, folder: Path, bootstrap_servers: str, name: str) -> None:
        self.port = free_port()
        self.url = f"http://{LOOPBACK}:{self.port}"
        settings = {
            "bootstrap.servers": bootstrap_servers,
            "group.id": name,
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.storage.StringConverter",
            "offset.flush.interval.ms": "1000",
            "listeners": self.url,
            # Several jars of one classpath: plug-ins are found by scanning it.
            "plugin.discovery": "only_scan",
            "exactly.once.source.support": "enabled",
        }
        for topic in ("config", "offset", "status"):
            settings[f"{topic}.storage.topic"] = f"{name}-{topic}"
            settings[f"{topic}.storage.replication.factor"] = "1"
            settings[f"{topic}.storage.partitions"] = "1"
        del settings["config.storage.partitions"]
        (folder / "worker.properties").write_text(
            "".join(f"{key}={value}\n" for key, value in settings.items())
        )
        (folder / "log4j2.properties").write_text(LOGGING)
        self.log = folder / "worker.log"
        jars = locked_files(LOCK, "connect")
        command = [
            str(java_runtime()), *_OPTIONS,
            f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}", "-cp", f"{jars}/*",
            "org.apache.kafka.connect.cli.ConnectDistributed", str(folder / "worker.properties"),
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
            )

    def ask(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """Ask its REST interface; None: it does not answer, or refuses for now."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = Request(f"{self.url}{path}", data, headers, method=method)
        try:
            with urlopen(request, timeout=30) as answer:
                text = answer.read()
                return json.loads(text) if text else {"done": True}
        except HTTPError as refused:
            # A rebalance is 409, an internal topic that is still to come 500, a task to come 404.
            if refused.code in _LATER:
                return None
            raise AssertionError(refused.read()) from refused
        except (URLError, OSError):
            assert self._process.poll() is None, self.log.read_text("utf-8", "replace")[-3000:]
            return None

    async def asked(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """Ask it without holding up the test's loop."""
        return await asyncio.to_thread(self.ask, path, method, body)

    def stop(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._process.wait()
