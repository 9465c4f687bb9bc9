"""The HTTP port over real sockets: what monitors ask, and what rude clients do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.telemetry import endpoint
from relay.telemetry.endpoint import EndpointError, Health, serving
from relay.telemetry.exporter import ExportCounts
from relay.telemetry.metrics import Metrics

METRICS = Metrics("relay", "1", lambda: ExportCounts(0, {}, 0, 0))


class State:
    live = Health(ok=True)
    ready = Health(ok=False, checks={"kafka": "unreachable since 12:00"})


@asynccontextmanager
async def served() -> AsyncIterator[tuple[int, State]]:
    state = State()
    async with serving(
        "127.0.0.1", 0, METRICS.registry, lambda: state.live, lambda: state.ready
    ) as port:
        yield port, state


async def ask(port: int, request: bytes) -> tuple[bytes, bytes]:
    """Send a request; return the status line and the body, up to where the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0], body


async def get(port: int, path: str) -> tuple[bytes, bytes]:
    return await ask(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def test_health_is_what_the_process_says() -> None:
    async with served() as (port, state):
        assert (await get(port, "/livez"))[0] == b"HTTP/1.1 200 OK"
        assert (await get(port, "/healthz"))[0] == b"HTTP/1.1 200 OK"
        status, body = await get(port, "/readyz")
        assert status == b"HTTP/1.1 503 Service Unavailable"
        assert json.loads(body) == {
            "status": "unavailable",
            "checks": {"kafka": "unreachable since 12:00"},
        }
        state.ready, state.live = Health(ok=True), Health(ok=False)
        assert (await get(port, "/readyz?verbose"))[0] == b"HTTP/1.1 200 OK"
        assert (await get(port, "/livez"))[0].startswith(b"HTTP/1.1 503")


async def test_metrics_are_readable() -> None:
    METRICS.publish.events_published.labels("t").inc()
    async with served() as (port, _):
        status, body = await get(port, "/metrics")
    names = {family.name for family in text_string_to_metric_families(body.decode())}
    assert status == b"HTTP/1.1 200 OK"
    assert {"relay_events_published", "relay_build_info", "process_cpu_seconds"} <= names


async def test_exemplars_are_for_those_who_ask_for_openmetrics() -> None:
    METRICS.publish.publish_latency_seconds.observe([0.5])
    METRICS.publish.publish_latency_seconds.exemplar(0.5, "ab" * 16)
    wanted = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5"
    request = f"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {wanted}\r\n\r\n"
    async with served() as (port, _):
        _, plain = await get(port, "/metrics")
        _, body = await ask(port, request.encode())
    assert b"trace_id" not in plain
    assert b'# {trace_id="' + b"ab" * 16 in body
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /other HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 Not Found"),
        (b"POST /livez HTTP/1.1\r\n\r\n", b"HTTP/1.1 405 Method Not Allowed"),
        (b"GET /livez\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"\x16\x03\x01\xff\xff\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"HEAD /livez HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"x" * 100_000, b""),
    ],
)
async def test_other_requests(request_bytes: bytes, status: bytes) -> None:
    async with served() as (port, _):
        found, body = await ask(port, request_bytes)
        assert found == status
        assert body == b"" or not request_bytes.startswith(b"HEAD")
        assert (await get(port, "/livez"))[0] == b"HTTP/1.1 200 OK"


async def test_silent_clients_are_hung_up_on_and_do_not_keep_others_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(endpoint, "_REQUEST_SECONDS", 0.2)
    async with served() as (port, _):
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        async with asyncio.timeout(10):
            for reader, writer in silent:
                assert await reader.read() == b""
                writer.close()
        assert (await get(port, "/livez"))[0] == b"HTTP/1.1 200 OK"


async def test_stopping_does_not_wait_for_a_client() -> None:
    async with asyncio.timeout(2):
        async with served() as (port, _):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /")
            await writer.drain()
        writer.close()


async def test_a_port_that_is_taken_is_named() -> None:
    async with served() as (port, _):
        with pytest.raises(EndpointError, match=f"127.0.0.1:{port}.*RELAY_METRICS_PORT"):
            async with serving(
                "127.0.0.1", port, METRICS.registry, lambda: State.live, lambda: State.live
            ):
                pass


async def test_probes_are_answered_beside_connections_that_say_nothing() -> None:
    idle: list[asyncio.StreamWriter] = []
    async with served() as (port, _):
        try:
            for _ in range(20):
                for _ in range(32):
                    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    idle.append(writer)
                assert (await get(port, "/livez"))[0] == b"HTTP/1.1 200 OK"
        finally:
            for writer in idle:
                writer.close()
