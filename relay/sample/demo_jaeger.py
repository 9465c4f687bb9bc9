"""Hops 1 to 5: a Jaeger of the demo's own, with the traces in its memory.

Invariant: it listens on loopback alone, on ports that are free, and is gone when the block is left.
The program is the one on the PATH (a release has Jaeger's own pages), else the one that `make
jaeger` built into the user's cache, which has the API and no pages.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay.embedded import process
from relay.embedded.process import Order
from relay.sample.demo_result import DemoFailedError

_READY_SECONDS: Final = 60.0
_PLACEHOLDER: Final = "not the Jaeger UI"
_CONFIGURATION: Final = """
service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {{receivers: [otlp], processors: [batch], exporters: [jaeger_storage_exporter]}}
  telemetry: {{metrics: {{level: none}}, logs: {{level: warn}}}}
extensions:
  jaeger_query:
    storage: {{traces: memory}}
    http: {{endpoint: "127.0.0.1:{query}"}}
    grpc: {{endpoint: "127.0.0.1:{query_grpc}"}}
  jaeger_storage: {{backends: {{memory: {{memory: {{max_traces: 200000}}}}}}}}
receivers:
  otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{otlp}"}}}}}}
processors:
  batch: {{timeout: 100ms}}
exporters:
  jaeger_storage_exporter: {{trace_storage: memory}}
"""


@dataclass(frozen=True, slots=True)
class Jaeger:
    """A running Jaeger.

    Attributes:
        url: of its pages and its API.
        otlp: where spans go, OTLP over HTTP.
        pages: it was built with its own pages.
    """

    url: str
    otlp: str
    pages: bool


def program(environment: Mapping[str, str]) -> str:
    """Return the path of a Jaeger.

    Raises:
        DemoFailedError: there is none.
    """
    found = shutil.which("jaeger", path=environment.get("PATH"))
    if found is not None:
        return found
    home = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    built = sorted((Path(home) / "outbox-relay").glob("jaeger-*"))
    if not built:
        raise DemoFailedError(
            "there is no Jaeger here: put the program `jaeger` of a release on the PATH, or run "
            "`make jaeger` in a checkout (3-4 minutes, once)"
        )
    return str(built[-1])


@contextmanager
def jaeger_beside(folder: Path, environment: Mapping[str, str]) -> Iterator[Jaeger]:
    """Run a Jaeger while the block runs.

    Args:
        folder: for its configuration and its log.
        environment: `os.environ`: where the program is looked for.

    Raises:
        DemoFailedError: there is no program, or it did not start; its log is named.
    """
    query, query_grpc, otlp = _free_ports(3)
    configuration, log = folder / "jaeger.yaml", folder / "jaeger.log"
    configuration.write_text(
        _CONFIGURATION.format(query=query, query_grpc=query_grpc, otlp=otlp), "utf-8"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    started = process.start(
        Order(
            command=[program(environment), f"--config=file:{configuration}"],
            folder=folder,
            log=log,
            environment=clean,
            account=None,
            # It holds nothing that must outlive it, and its graceful stop takes over 10 s.
            stop_signal=signal.SIGKILL,
            stop_seconds=5.0,
        ),
        owned=True,
    )
    url = f"http://127.0.0.1:{query}"
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while (front := _front_page(url, otlp)) is None:
            if not started.is_running() or time.monotonic() > deadline:
                end = log.read_text("utf-8", "replace")[-1000:]
                raise DemoFailedError(f"Jaeger did not start; the end of its log:\n{end}")
            time.sleep(0.05)
        yield Jaeger(url, f"http://127.0.0.1:{otlp}", _PLACEHOLDER not in front)
    finally:
        started.stop()


def _front_page(url: str, otlp: int) -> str | None:
    """Return Jaeger's first page once it answers, and takes spans; None: not yet."""
    try:
        socket.create_connection(("127.0.0.1", otlp), timeout=1).close()
        with urllib.request.urlopen(f"{url}/", timeout=2) as answer:  # noqa: S310 - our own address
            return str(answer.read().decode("utf-8", "replace"))
    except (OSError, urllib.error.URLError):
        return None


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
