"""Delivery of spans to real collectors that are well, slow, absent, full, rude or picky.

Whatever the collector does: the caller never waits, and every span is counted exactly once.
"""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from structlog.testing import capture_logs

from relay.runtime.backoff import Backoff
from relay.telemetry import export_settings
from relay.telemetry.export_settings import ExportSettings, ExportSettingsError
from relay.telemetry.exporter import SpanExporter
from relay.telemetry.names import SpanKind
from relay.telemetry.otlp import Origin, SpanBatch, SpanEncoder

AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert("127.0.0.1")
QUICK = Backoff(first_seconds=0.01, cap_seconds=0.05)
ENCODER = SpanEncoder(Origin({"service.name": "test"}), "send", SpanKind.CLIENT, {})


def batches(spans: int, padding: int = 10) -> list[SpanBatch]:
    return list(
        ENCODER.encode(
            identities=[b"t" * 16 + b"\x12\x08" + b"s" * 8] * spans,
            order_ids=[b"x" * padding] * spans,
            started_ns=1,
            ended_ns=2,
        )
    )


def batch(spans: int = 1, padding: int = 10) -> SpanBatch:
    [made] = batches(spans, padding)
    return made


def spans_in(body: bytes) -> int:
    request = ExportTraceServiceRequest.FromString(body)
    return sum(len(one.scope_spans[0].spans) for one in request.resource_spans)


def partial_success(rejected: int) -> bytes:
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = rejected
    answer.partial_success.error_message = "too old"
    return answer.SerializeToString()


@dataclass
class Collector:
    """A collector over HTTP. `answers` are given one by one, then 200 for ever."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: int = 0
    answers: list[Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=list)

    @property
    def spans(self) -> int:
        return sum(map(spans_in, self.bodies))


def answer(
    status: int, content: bytes = b"", headers: dict[str, str] | None = None
) -> Callable[[BaseHTTPRequestHandler], None]:
    def give(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return give


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def nonsense(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")
    handler.close_connection = True


@contextlib.contextmanager
def collecting(port: int = 0, tls: bool = False) -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            collector.connections += 1
            super().setup()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.headers.append({k.lower(): v for k, v in self.headers.items()})
            give = collector.answers.pop(0) if collector.answers else None
            if give is None:
                plain = self.headers.get("content-encoding") != "gzip"
                collector.bodies.append(body if plain else gzip.decompress(body))
            (give or answer(200))(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        CERTIFICATE.configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    collector.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}/v1/traces"
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


@contextlib.contextmanager
def exporting(settings: ExportSettings | str, **options: Any) -> Iterator[SpanExporter]:
    given = ExportSettings(settings) if isinstance(settings, str) else settings
    exporter = SpanExporter(given, **{"linger_seconds": 0.01, "backoff": QUICK} | options)
    try:
        yield exporter
    finally:
        exporter.close(0)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until(fact: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.005)


def test_every_span_arrives_once_and_is_counted(collector: Collector) -> None:
    with exporting(collector.url) as exporter:
        for spans in (1, 700, 3):
            exporter.offer(batch(spans))
        assert exporter.close(10)
        counts = exporter.counts()
    assert collector.spans == 704
    assert (counts.exported, dict(counts.dropped), counts.waiting, counts.queued_bytes) == (
        *(704, {}, 0),
        0,
    )
    assert collector.headers[0]["content-type"] == "application/x-protobuf"


def test_small_batches_travel_together_on_one_connection(collector: Collector) -> None:
    with exporting(collector.url, linger_seconds=0.3) as exporter:
        for _ in range(200):
            exporter.offer(batch())
        assert exporter.flush(10)
        for _ in range(3):
            exporter.offer(batch())
            assert exporter.flush(10)
    assert len(collector.bodies) <= 5
    assert (collector.spans, collector.connections) == (203, 1)


def test_requests_stay_below_the_size_that_collectors_take(collector: Collector) -> None:
    with exporting(collector.url, queue_bytes=10**8) as exporter:
        for _ in range(40):
            exporter.offer(batch(100, padding=1000))
        assert exporter.close(20)
    assert max(map(len, collector.bodies)) <= 1024 * 1024
    assert collector.spans == 4000


def test_headers_and_compression_are_sent(collector: Collector) -> None:
    settings = ExportSettings(collector.url, headers={"authorization": "Bearer x"}, gzip=True)
    with exporting(settings) as exporter:
        exporter.offer(batch(100))
        assert exporter.close(10)
    assert collector.headers[0]["authorization"] == "Bearer x"
    assert collector.headers[0]["content-encoding"] == "gzip"
    assert int(collector.headers[0]["content-length"]) < len(collector.bodies[0]) / 4
    assert collector.spans == 100


@pytest.mark.parametrize(
    "trouble",
    [
        answer(429),
        answer(502, b"<html>"),
        answer(503),
        answer(503, headers={"retry-after": "0"}),
        answer(503, headers={"retry-after": "Fri, 01 Jan 2027 00:00:00 GMT"}),
        answer(504),
        hang_up,
        nonsense,
    ],
)
def test_passing_trouble_costs_no_span(
    collector: Collector, trouble: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    collector.answers = [trouble] * 3
    with exporting(collector.url) as exporter:
        exporter.offer(batch(5))
        wait_until(lambda: exporter.counts().exported == 5)
        assert exporter.counts().dropped == {}
    assert collector.spans == 5


def test_a_collector_that_asks_for_time_is_given_it(collector: Collector) -> None:
    collector.answers = [answer(429, headers={"retry-after": "1"})]
    with exporting(collector.url) as exporter:
        started = time.monotonic()
        exporter.offer(batch())
        wait_until(lambda: exporter.counts().exported == 1)
        assert time.monotonic() - started >= 1


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500])
def test_what_is_refused_is_dropped_at_once_and_the_next_goes_on(
    collector: Collector, status: int
) -> None:
    collector.answers = [answer(status)]
    with exporting(collector.url) as exporter:
        exporter.offer(batch(5))
        wait_until(lambda: exporter.counts().dropped == {"refused": 5})
        exporter.offer(batch(2))
        wait_until(lambda: exporter.counts().exported == 2)
    assert collector.spans == 2


@pytest.mark.parametrize(
    ("content", "rejected"),
    [(partial_success(2), 2), (partial_success(99), 5), (b"{}", 0), (b"\xff\xff", 0)],
)
def test_partial_success_counts_what_was_rejected(
    collector: Collector, content: bytes, rejected: int
) -> None:
    collector.answers = [answer(200, content)]
    with exporting(collector.url) as exporter:
        exporter.offer(batch(5))
        wait_until(lambda: not exporter.counts().waiting)
        counts = exporter.counts()
    assert counts.exported == 5 - rejected
    assert counts.dropped == ({"rejected": rejected} if rejected else {})


def test_a_collector_that_closed_the_kept_connection_costs_no_attempt(
    collector: Collector,
) -> None:
    def last_one(handler: BaseHTTPRequestHandler) -> None:
        answer(200)(handler)
        handler.close_connection = True  # without saying so in the answer

    collector.answers = [last_one]
    with exporting(collector.url, give_up_seconds=0) as exporter:
        exporter.offer(batch())
        wait_until(lambda: exporter.counts().exported == 1)
        exporter.offer(batch())
        wait_until(lambda: exporter.counts().exported == 2)
    assert collector.connections == 2


def test_an_absent_collector_costs_spans_and_nothing_else() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1/traces"
    with exporting(url, give_up_seconds=0.05) as exporter, capture_logs() as logs:
        exporter.offer(batch(3))
        wait_until(lambda: exporter.counts().dropped == {"unreachable": 3})
        exporter.offer(batch(4))
        wait_until(lambda: exporter.counts().dropped == {"unreachable": 7})
    told = [line for line in logs if line["log_level"] == "warning"]
    assert [line["event"] for line in told] == ["spans_not_exported"]


def test_a_collector_that_comes_later_gets_what_waited() -> None:
    port = free_port()
    with (
        exporting(f"http://127.0.0.1:{port}/v1/traces") as exporter,
        capture_logs() as logs,
    ):
        exporter.offer(batch(3))
        wait_until(lambda: logs)
        with collecting(port) as collector:
            wait_until(lambda: exporter.counts().exported == 3)
            wait_until(lambda: len(logs) == 2)
            assert collector.spans == 3
    assert logs[1]["event"] == "spans_exported_again"


def test_a_slow_collector_bounds_memory_and_never_holds_the_caller(collector: Collector) -> None:
    release = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        release.wait(20)
        answer(503)(handler)

    collector.answers = [slow]
    one = batch(100)
    limit = 20 * one.size_bytes
    with exporting(collector.url, queue_bytes=limit) as exporter:
        exporter.offer(one)
        wait_until(lambda: collector.headers)  # it is on its way, and stays there
        slowest = 0.0
        for _ in range(1000):
            started = time.perf_counter()
            exporter.offer(one)
            slowest = max(slowest, time.perf_counter() - started)
        counts = exporter.counts()
        assert counts.dropped == {"queue_full": 980 * 100}
        assert counts.queued_bytes <= limit
        assert slowest < 10  # not until the collector answers
        release.set()
        assert exporter.close(20)
        counts = exporter.counts()
    assert (counts.exported, counts.dropped) == (2100, {"queue_full": 98_000})
    assert collector.spans == 2100


def test_the_deadline_holds_when_the_collector_hangs(collector: Collector) -> None:
    release = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        release.wait(20)
        answer(200)(handler)

    collector.answers = [hang]
    with exporting(collector.url) as exporter:
        exporter.offer(batch(2))
        wait_until(lambda: collector.headers)
        exporter.offer(batch(3))
        started = time.monotonic()
        assert not exporter.flush(0.05)
        assert not exporter.close(0.2)
        assert time.monotonic() - started < 5
        exporter.offer(batch(7))
        assert exporter.counts().dropped == {"shutdown": 12}
        release.set()
        wait_until(lambda: not any(t.name == "span-exporter" for t in threading.enumerate()))
        counts = exporter.counts()
    assert (counts.exported, counts.dropped, counts.waiting) == (0, {"shutdown": 12}, 0)


def test_at_the_end_one_more_attempt_is_made_without_waiting_for_the_backoff() -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1/traces"
    patient = Backoff(first_seconds=60, cap_seconds=60)
    with exporting(url, backoff=patient, give_up_seconds=600) as exporter, capture_logs() as logs:
        exporter.offer(batch(3))
        wait_until(lambda: logs)
        with collecting(port) as collector:
            assert exporter.close(10)
            assert collector.spans == 3
    assert exporter.counts().exported == 3


def test_one_span_that_cannot_be_encoded_does_not_cost_the_others(collector: Collector) -> None:
    @dataclass
    class Broken:
        spans: int = 1
        size_bytes: int = 10

        @property
        def request(self) -> bytes:
            raise TypeError("somebody's attribute")

    with exporting(collector.url, linger_seconds=0.2) as exporter:
        exporter.offer(batch(2))
        exporter.offer(Broken())
        assert exporter.close(10)
        counts = exporter.counts()
    assert (counts.exported, counts.dropped) == (2, {"not_encoded": 1})
    assert collector.spans == 2


def test_many_threads_may_offer_at_once(collector: Collector) -> None:
    one = batch(10)
    with exporting(collector.url) as exporter:
        with futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(exporter.offer, [one] * 2000))
        assert exporter.close(20)
        counts = exporter.counts()
    assert (counts.exported, counts.dropped, counts.queued_bytes) == (20_000, {}, 0)


def test_nothing_runs_before_the_first_span(collector: Collector) -> None:
    before = threading.active_count()
    with exporting(collector.url) as exporter:
        assert threading.active_count() == before
        assert exporter.flush(0)
        assert exporter.close(0)


@pytest.fixture(scope="module")
def authority_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(path)
    return path


def test_tls_with_the_given_certificate_and_not_without(authority_file: Path) -> None:
    with collecting(tls=True) as secure:
        trusting = ExportSettings(secure.url, ca_file=str(authority_file))
        with exporting(trusting) as exporter:
            exporter.offer(batch(2))
            assert exporter.close(10)
            assert exporter.counts().exported == 2
        with exporting(secure.url, give_up_seconds=0) as exporter, capture_logs() as logs:
            exporter.offer(batch(2))
            wait_until(lambda: exporter.counts().dropped == {"unreachable": 2})
        assert "CERTIFICATE_VERIFY_FAILED" in logs[0]["problem"]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_certificate_that_is_not_there_is_named_at_start(protocol: Any) -> None:
    settings = ExportSettings("https://127.0.0.1:1", protocol, ca_file="/does/not/exist.pem")
    with pytest.raises(ExportSettingsError, match=r"CERTIFICATE.*/does/not/exist\.pem"):
        SpanExporter(settings)


@dataclass
class GrpcCollector:
    """A collector over gRPC. `codes` are answered one by one, then success for ever."""

    bodies: list[bytes] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    codes: list[grpc.StatusCode] = field(default_factory=list)
    answer: bytes = b""
    port: int = 0

    def export(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.metadata.append(dict(context.invocation_metadata()))
        if self.codes:
            context.abort(self.codes.pop(0), "as told")
        self.bodies.append(request)
        return self.answer


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def grpc_collector(
    request: pytest.FixtureRequest,
    authority_file: Path,
) -> Iterator[tuple[GrpcCollector, ExportSettings]]:
    collector = GrpcCollector()
    handler = grpc.method_handlers_generic_handler(
        "opentelemetry.proto.collector.trace.v1.TraceService",
        {"Export": grpc.unary_unary_rpc_method_handler(collector.export)},
    )
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((handler,))
    if request.param:
        chain = b"".join(blob.bytes() for blob in CERTIFICATE.cert_chain_pems)
        pair = (CERTIFICATE.private_key_pem.bytes(), chain)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http{'s' if request.param else ''}://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(authority_file) if request.param else "",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=blue",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }
    settings = export_settings.from_environment(environment)
    assert settings is not None
    yield collector, settings
    server.stop(None).wait(10)


def test_grpc_takes_the_same_bytes(grpc_collector: tuple[GrpcCollector, ExportSettings]) -> None:
    collector, settings = grpc_collector
    collector.codes = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    with exporting(settings) as exporter:
        for page in batches(1500):
            exporter.offer(page)
        wait_until(lambda: exporter.counts().exported == 1500)
        assert exporter.counts().dropped == {}
        collector.codes = [grpc.StatusCode.INVALID_ARGUMENT]
        exporter.offer(batch(3))
        wait_until(lambda: exporter.counts().dropped == {"refused": 3})
        collector.answer = partial_success(1)
        exporter.offer(batch(4))
        wait_until(lambda: exporter.counts().dropped == {"refused": 3, "rejected": 1})
    assert sum(map(spans_in, collector.bodies)) == 1504
    assert collector.metadata[0]["x-tenant"] == "blue"


def test_grpc_without_a_collector_costs_spans_and_nothing_else() -> None:
    settings = ExportSettings(f"http://127.0.0.1:{free_port()}", "grpc")
    with exporting(settings, give_up_seconds=0.05) as exporter:
        exporter.offer(batch(3))
        wait_until(lambda: exporter.counts().dropped == {"unreachable": 3})
