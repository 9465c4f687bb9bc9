"""The systems that are compared: ours, and the relay of the blog posts, at the same work."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import orders
from benchmarks.program import Program
from benchmarks.quiet import wait_for_quiet
from benchmarks.servers import Servers
from benchmarks.topic import Topic
from benchmarks.writer import Job, write

TOPIC = "orders.events"
WARM = 1_000_000_000  # orders with this number and higher ones only warm a system up
_WARM_SECONDS = 60
RELAY = str(Path(sys.executable).with_name("relay"))
# Nothing of the caller's own environment may turn exporting on.
_UNTRACED = {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": ""}


@dataclass(frozen=True, slots=True)
class System:
    """One relay: how its rows are written (from `r`, see orders), and how it is started."""

    name: str
    insert: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, servers: Servers, url: str) -> Program:
        """Start it once the machine is quiet, or has not been for too long."""
        wait_for_quiet(servers.patience_seconds)
        return self.restart(servers, url)

    def restart(self, servers: Servers, url: str) -> Program:
        """Start it at once."""
        return Program(self.name, self.command, self.environment_of(servers, url))

    def environment_of(self, servers: Servers, url: str) -> dict[str, str]:
        """Return the environment of a process that works on these servers."""
        addresses = {
            "DATABASE_URL": url,
            "KAFKA_BOOTSTRAP_SERVERS": servers.bootstrap_servers,
            "RELAY_METRICS_ENABLED": "false",
        }
        # As installed: not compiling itself anew at every start.
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        return {**inherited, **addresses, **_UNTRACED, **self.environment}

    def warm_up(
        self, program: Program, topic: Topic, url: str, seconds: int = 2, *, start: int = WARM
    ) -> int:
        """Let it publish some orders at 500/s into an empty topic; return how many they were."""
        written = write(Job(url, orders.PLACED + self.insert, seconds, start, rate=500))
        if not topic.wait_for(written.count, _WARM_SECONDS, [program]):
            raise RuntimeError(f"{self.name} publishes nothing: see {program.log}")
        return written.count

    def traced(self, endpoint: str) -> System:
        """Return it exporting its spans."""
        return replace(
            self,
            name=f"{self.name}, traced",
            environment={
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            },
        )


OURS = System("outbox-relay", orders.OUTBOX, [RELAY, "run"])
OURS_BYTES = replace(OURS, name="outbox-relay, payload_bytes", insert=orders.OUTBOX_BYTES)
NAIVE = System(
    "blog-post relay (asyncpg, aiokafka, DELETE)",
    orders.NAIVE_OUTBOX,
    [sys.executable, str(Path(__file__).parent / "peers/naive.py")],
)
