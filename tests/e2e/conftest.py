"""A real Jaeger for the tests that prove traces: built once, started once, ended by its own pid."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from relay.telemetry.tracing import Tracing, configure
from tests.corpus.wiring import Wiring
from tests.e2e.elsewhere import INACTIVE
from tests.e2e.prometheus_stage import Prometheus

BUILD_SCRIPT = Path(__file__).parents[2] / "tools" / "build_jaeger.sh"
START_SECONDS = 60.0
PROMETHEUS_SCRIPT = Path(__file__).parents[2] / "tools" / "build_prometheus.sh"
MAX_TRACES = 200_000

CONFIGURATION = """
service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {{receivers: [otlp], processors: [batch], exporters: [jaeger_storage_exporter]}}
  telemetry:
    metrics: {{level: none}}
    logs: {{level: warn}}
extensions:
  jaeger_query:
    storage: {{traces: memory}}
    http: {{endpoint: "127.0.0.1:{query}"}}
    grpc: {{endpoint: "127.0.0.1:{query_grpc}"}}
  jaeger_storage:
    backends: {{memory: {{memory: {{max_traces: {max_traces}}}}}}}
receivers:
  otlp:
    protocols:
      http: {{endpoint: "127.0.0.1:{otlp_http}"}}
      grpc: {{endpoint: "127.0.0.1:{otlp_grpc}"}}
processors:
  batch: {{timeout: 100ms}}
exporters:
  jaeger_storage_exporter: {{trace_storage: memory}}
"""


@dataclass(frozen=True, slots=True)
class Jaeger:
    """A running Jaeger. Addresses are URLs; spans are as its HTTP API shows them."""

    otlp_http: str
    otlp_grpc: str
    query: str
    pid: int

    def environment(self, protocol: str = "http/protobuf") -> dict[str, str]:
        """The variables that send a process's spans here."""
        endpoint = self.otlp_grpc if protocol == "grpc" else self.otlp_http
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """A trace as it is, in a list; empty when it is not known (yet)."""
        return _get_json(f"{self.query}/api/traces/{trace_id}")

    def spans(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace; none when it is not known (yet)."""
        found = self.trace(trace_id)
        return [_with_service(trace, span) for trace in found for span in trace["spans"]]

    def wait_for_spans(
        self,
        trace_id: str,
        enough: Callable[[list[dict[str, Any]]], bool],
        timeout_seconds: float = 30.0,
    ) -> list[dict[str, Any]]:
        """Ask until the trace's spans are enough; fail with what there was."""
        deadline = time.monotonic() + timeout_seconds
        while not enough(spans := self.spans(trace_id)):
            if time.monotonic() > deadline:
                names = [span["operationName"] for span in spans]
                pytest.fail(f"Jaeger has only {names} of trace {trace_id}")
            time.sleep(0.05)
        return spans

    def search(self, service: str, tags: dict[str, str], limit: int = 1000) -> list[dict[str, Any]]:
        """Traces of a service in which a span has these tags."""
        query = {
            "service": service,
            "tags": json.dumps(tags),
            "limit": str(limit),
            "lookback": "custom",
            "start": "0",
            "end": str(int(time.time() * 1e6) + 60_000_000),
        }
        return _get_json(f"{self.query}/api/traces?{urllib.parse.urlencode(query)}")


def tags(span: dict[str, Any]) -> dict[str, Any]:
    """A span's tags as a mapping."""
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def parent(span: dict[str, Any]) -> str | None:
    """The id of a span's parent."""
    references = [one for one in span["references"] if one["refType"] == "CHILD_OF"]
    return references[0]["spanID"] if references else None


def _with_service(trace: dict[str, Any], span: dict[str, Any]) -> dict[str, Any]:
    return span | {"serviceName": trace["processes"][span["processID"]]["serviceName"]}


def _get_json(url: str) -> list[dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return json.load(response)["data"] or []
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return []
        raise


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build Jaeger before the first test: it takes minutes, and a test's timeout is two."""
    wanted = any("jaeger" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        subprocess.run([BUILD_SCRIPT], stdout=subprocess.DEVNULL, check=False)


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    program = _program()
    folder = tmp_path_factory.mktemp("jaeger")
    process, started = _start(program, folder)
    try:
        yield started
    finally:
        # It holds nothing that must outlive it, and its graceful stop takes over 10 s.
        process.kill()
        process.wait(timeout=10)


def _program() -> str:
    found = subprocess.run(
        [BUILD_SCRIPT, "--cached"], capture_output=True, text=True, check=False, timeout=30
    )
    if found.returncode == 0:
        return found.stdout.strip()
    pytest.fail("Jaeger was not built: run tools/build_jaeger.sh and read why", pytrace=False)


def _start(program: str, folder: Path) -> tuple[subprocess.Popen[bytes], Jaeger]:
    """Start it on free ports; somebody may take one in between, so three times at most."""
    log = folder / "jaeger.log"
    for _ in range(3):
        ports = _free_ports("query", "query_grpc", "otlp_http", "otlp_grpc")
        configuration = folder / "jaeger.yaml"
        configuration.write_text(CONFIGURATION.format(max_traces=MAX_TRACES, **ports))
        clean = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
        with log.open("ab") as output:
            process = subprocess.Popen(
                [program, f"--config=file:{configuration}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=clean,
            )
        urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        del urls["query_grpc"]
        started = Jaeger(pid=process.pid, **urls)
        if _answers(process, started, ports["otlp_http"], ports["otlp_grpc"]):
            return process, started
    tail = log.read_text(errors="replace")[-2000:]
    pytest.fail(f"Jaeger did not start; the end of its log:\n{tail}", pytrace=False)


def _answers(process: subprocess.Popen[bytes], jaeger: Jaeger, *ports: int) -> bool:
    """Wait until the query API and both receivers answer; False when it ended or is too slow."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None:
        try:
            _get_json(f"{jaeger.query}/api/services")
            for port in ports:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                process.kill()
                process.wait(timeout=10)
                return False
            time.sleep(0.05)
        else:
            return True
    return False


def _free_ports(*names: str) -> dict[str, int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def wiring(
    database: str,
    pg: asyncpg.Connection,
    kafka_bootstrap: str,
    topics: Any,
    relay_process: Callable[..., Any],
    relay_command: Callable[..., Any],
    eventually: Callable[..., Awaitable[Any]],
) -> Wiring:
    """The test's own loop."""
    return Wiring(database, pg, kafka_bootstrap, topics, relay_process, relay_command, eventually)


# --- another publisher -----------------------------------------------------------------------


SET_UP = (
    "CREATE PUBLICATION relay_outbox FOR TABLE relay.outbox"
    " WITH (publish = 'insert', publish_via_partition_root = true)",
    "GRANT USAGE ON SCHEMA relay TO {login}",
    "GRANT SELECT ON relay.outbox TO {login}",
)
FREE_IT = """
SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active
"""


@pytest.fixture
async def debezium_names(
    pg: asyncpg.Connection, eventually: Callable[..., Awaitable[Any]]
) -> AsyncIterator[dict[str, str]]:
    """A login with the rights that the page names, and a slot; both belong to the whole server."""
    name = f"debezium_{uuid.uuid4().hex[:8]}"
    await pg.execute(f"CREATE ROLE {name} LOGIN REPLICATION PASSWORD 'x'")
    for statement in SET_UP:
        await pg.execute(statement.format(login=name))
    await pg.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", name)
    yield {"login": name, "slot": name}
    await pg.execute(FREE_IT, name)
    await eventually(lambda: pg.fetchval(INACTIVE, name))
    await pg.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1",
        name,
    )
    await pg.execute(f"DROP OWNED BY {name}")
    await pg.execute(f"DROP ROLE {name}")


@pytest.fixture(scope="session")
def untraced() -> Tracing:
    """Telemetry that goes nowhere."""
    return configure(
        "relay", {"OTEL_TRACES_EXPORTER": "none"}, version="0", instance_id="t", install=False
    )


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    found = subprocess.run(
        [PROMETHEUS_SCRIPT, "--cached"], capture_output=True, text=True, check=False, timeout=30
    )
    if found.returncode:
        why = "Prometheus is not cached (make prometheus builds it)"
        if shutil.which("go") or os.environ.get("RELAY_TEST_REQUIRE_JAEGER") == "1":
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    folder = tmp_path / "prometheus"
    folder.mkdir()
    started = Prometheus(Path(found.stdout.strip()), folder)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait(timeout=10)
