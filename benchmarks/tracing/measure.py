"""What tracing costs an event: its context, its span, its export; beside the SDK, in one run.

    .venv/bin/python -m benchmarks.tracing.measure

Prints nanoseconds an event for pages and batches of several sizes, then what arrives at a collector
that keeps nothing, at several rates, with CPU-seconds and memory; the SDK's batch processor last.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable
from itertools import pairwise
from uuid import uuid4

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.trace import SpanKind as SdkSpanKind

from benchmarks.collecting import collecting
from relay.telemetry import names
from relay.telemetry.identities import Identities
from relay.telemetry.names import SpanKind
from relay.telemetry.otlp import SpanBatch, SpanEncoder
from relay.telemetry.sampling import Sampler
from relay.telemetry.tracing import Tracing, configure

TOPIC = "orders.events"
ROUNDS = 40
RATES = (20_000, 80_000, 200_000)
SECONDS = 4.0


class Page:
    """Events as the relay has them: columns."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.headers = [f"00-{uuid4().hex}-{uuid4().hex[16:]}-01" for _ in range(count)]
        self.nothing = [None] * count
        self.event_ids = [uuid4().bytes for _ in range(count)]
        self.order_ids = [str(uuid4()).encode() for _ in range(count)]
        self.message_ids = [str(uuid4()).encode() for _ in range(count)]
        self.waited = [0.001 * place for place in range(count)]

    def identities(self, identities: Identities) -> list[bytes | None]:
        return identities.of_rows(self.headers, self.nothing, self.event_ids).identities

    def spans(self, encoder: SpanEncoder, identities: list[bytes | None]) -> list[SpanBatch]:
        now = time.time_ns()
        return encoder.encode(
            identities=identities,
            order_ids=self.order_ids,
            started_ns=now,
            ended_ns=now,
            partition=7,
            offsets=range(1_000_000, 1_000_000 + self.count),
            waited_seconds=self.waited,
            message_ids=self.message_ids,
            batch_size=self.count,
        )


def best_nanoseconds(work: Callable[[], object], events: int) -> float:
    """The best of many rounds: the others measure this machine's other work."""
    times = [time.perf_counter()]
    for _ in range(ROUNDS):
        work()
        times.append(time.perf_counter())
    return min(after - before for before, after in pairwise(times)) / events * 1e9


def encoding(tracing: Tracing) -> None:
    encoder = send_encoder(tracing)
    recording, off = Identities(Sampler()), Identities(Sampler(), recording=False)
    print(f"{'ns an event, page of':32}", *(f"{size:>8}" for size in (1, 8, 100, 1600)))
    rows: dict[str, Callable[[Page], object]] = {
        "context, exporting off": lambda p: p.identities(off),
        "context, sampled": lambda p: p.identities(recording),
        "context, none in the rows": lambda p: recording.of_rows(p.nothing, p.nothing, p.event_ids),
        "context, row by row": lambda p: [recording.of_row(h, None, b"") for h in p.headers],
        "span": lambda p: p.spans(encoder, identities[p.count]),
    }
    pages = [Page(size) for size in (1, 8, 100, 1600)]
    identities = {page.count: page.identities(recording) for page in pages}
    for name, work in rows.items():
        cells = [best_nanoseconds(lambda p=page, w=work: w(p), page.count) for page in pages]
        print(f"{name:32}", *(f"{cell:8.0f}" for cell in cells))
    size = sum(len(one.request) for one in pages[-1].spans(encoder, identities[1600]))
    print(f"{'bytes a span':32}", f"{size / 1600:35.0f}\n")


def send_encoder(tracing: Tracing) -> SpanEncoder:
    attributes = names.send_attributes(TOPIC, client_id="relay-1", server="broker:9092")
    return tracing.encoder(names.send_span(TOPIC), SpanKind.CLIENT, attributes, linked=True)


def paced(rate: int, size: int, work: Callable[[], object]) -> tuple[int, float]:
    """Do `size` events' work at `rate` events a second; return how many, and CPU-seconds."""
    started, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - started < SECONDS:
        work()
        done += size
        time.sleep(max(0.0, started + done / rate - time.perf_counter()))
    return done, time.process_time() - cpu


def exporting(endpoint: str, rate: int) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    tracing = configure("benchmark", environment, version="0", instance_id="0", install=False)
    page, encoder = Page(1600), send_encoder(tracing)

    def work() -> None:
        tracing.export(page.spans(encoder, page.identities(tracing.identities)))

    offered, cpu = paced(rate, page.count, work)
    tracing.close(20)
    counts = tracing.counts()
    report("encoded, this exporter", rate, offered, counts.exported, cpu)


def sdk_exporting(endpoint: str, rate: int) -> None:
    exported = 0

    class Counting(OTLPSpanExporter):
        def export(self, spans: object) -> object:
            nonlocal exported
            exported += len(spans)  # type: ignore[arg-type]
            return super().export(spans)  # type: ignore[arg-type]

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Counting(f"{endpoint}/v1/traces")))
    tracer = provider.get_tracer("benchmark")
    attributes = names.send_attributes(TOPIC, client_id="relay-1")

    def work() -> None:
        for _ in range(100):
            tracer.start_span("send", kind=SdkSpanKind.CLIENT, attributes=attributes).end()

    offered, cpu = paced(rate, 100, work)
    provider.shutdown()
    report("SDK, batch processor", rate, offered, exported, cpu)


def report(name: str, rate: int, offered: int, exported: int, cpu: float) -> None:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{name:24} asked {rate:>9,}/s  offered {offered / SECONDS:>9,.0f}/s"
        f"  arrived {100 * exported / offered:5.1f}%  CPU {cpu / offered * 1e6:6.2f} us a span"
        f"  peak {memory} MB"
    )


def main() -> None:
    print(f"Python {platform.python_version()}, SDK {sdk_version}, {os.cpu_count()} CPUs\n")
    encoding(configure("benchmark", {}, version="0", instance_id="0", install=False))
    with collecting() as endpoint:
        for rate in RATES:
            exporting(endpoint, rate)
        for rate in (2_000, 10_000, 20_000):
            sdk_exporting(endpoint, rate)


if __name__ == "__main__":
    main()
