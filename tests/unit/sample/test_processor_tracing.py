"""The spans of hops 3 and 4, read back with OpenTelemetry's own protobuf classes."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from relay.runtime.flow import Flow
from relay.sample.processor.decision import Event
from relay.sample.processor.faults import Fault, FaultPlan, FaultRule
from relay.sample.processor.options import FaultOptions, ProcessorOptions
from relay.sample.processor.return_maker import Maker
from relay.sample.processor.sender import Sent
from relay.sample.processor.tracing import ProcessorTracing
from relay.sample.processor.work import Page, Worker
from relay.telemetry.identities import Identities
from relay.telemetry.otlp import Origin
from relay.telemetry.sampling import Sampler
from relay.telemetry.tracing import Tracing

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Stands for the exporter: keeps what is offered."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Any]] = {}

    def offer(self, batch: Any) -> None:
        request = ExportTraceServiceRequest.FromString(batch.request)
        for span in request.resource_spans[0].scope_spans[0].spans:
            self.spans.setdefault(span.name, []).append(span)


class Record:
    topic, partition, offset, value = "orders.events", 2, 41, b"{}"

    def __init__(self, traceparent: bytes | None, tracestate: bytes | None = None) -> None:
        self.key = str(uuid4()).encode()
        given = {"ce_id": b"e-1", "traceparent": traceparent, "tracestate": tracestate}
        self.headers = [(key, value) for key, value in given.items() if value is not None]


@pytest.fixture
def collector() -> Collector:
    return Collector()


def worked(collector: Collector, record: Record, *faults: Fault, processing: bool = False) -> Page:
    """Work one record, and export as the processor does once the broker has acknowledged."""
    tracing = Tracing(Identities(Sampler()), Origin({}), collector, None)  # type: ignore[arg-type]
    spans = ProcessorTracing.of(tracing, Flow(), group="order-processor", client_id="c")
    rules = {fault: FaultRule(rate=1.0) for fault in faults}
    options = ProcessorOptions(processing_first=processing, faults=FaultOptions(rules))
    worker = Worker(options, FaultPlan(rules), spans, {"order.placed"})
    page = worker.work([record], Maker(b"/test", "2026-01-31T12:34:57Z"))
    if page.returns:
        spans.export_sent(Sent(3, 900, page.returns, 1_000, 2_000))
    spans.export_processed(page, 500, 3_000)
    return page


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: one.value.int_value or one.value.string_value for one in span.attributes}


def test_process_is_the_child_of_the_event_and_send_of_process(collector: Collector) -> None:
    record = Record(f"00-{TRACE}-{PARENT}-01".encode(), b"vendor=1")
    page = worked(collector, record)
    (process,) = collector.spans["process orders.events"]
    (send,) = collector.spans["send orders.returns"]
    assert process.trace_id.hex() == send.trace_id.hex() == TRACE
    assert (process.parent_span_id.hex(), process.kind) == (PARENT, 5)
    assert (send.parent_span_id, send.kind) == (process.span_id, 4)
    assert process.trace_state == send.trace_state == "vendor=1"
    assert attributes(process) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders.events",
        "messaging.destination.partition.id": "2",
        "messaging.consumer.group.name": "order-processor",
        "messaging.client.id": "c",
        "messaging.kafka.offset": 41,
        "messaging.message.id": "e-1",
        "relay.batch.size": 1,
        "order.id": record.key.decode(),
    }
    assert attributes(send) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders.returns",
        "messaging.destination.partition.id": "3",
        "messaging.client.id": "c",
        "messaging.kafka.offset": 900,
        "relay.batch.size": 1,
        "order.id": record.key.decode(),
    }
    headers = dict(page.returns[0].headers)
    assert headers["traceparent"].decode() == f"00-{TRACE}-{send.span_id.hex()}-01"
    assert headers["tracestate"] == b"vendor=1"


def test_each_return_has_a_span_of_its_own(collector: Collector) -> None:
    page = worked(collector, Record(f"00-{TRACE}-{PARENT}-01".encode()), processing=True)
    sends = [span.span_id.hex() for span in collector.spans["send orders.returns"]]
    headers = [dict(one.headers)["traceparent"].decode()[36:52] for one in page.returns]
    assert sends == headers
    assert len(set(sends)) == 2


def test_an_unsampled_context_travels_and_is_not_recorded(collector: Collector) -> None:
    header = f"00-{TRACE}-{PARENT}-00".encode()
    page = worked(collector, Record(header))
    assert collector.spans == {}
    assert dict(page.returns[0].headers)["traceparent"] == header


@pytest.mark.parametrize("header", [None, b"nonsense"])
def test_without_a_valid_context_nothing_is_recorded(
    collector: Collector, header: bytes | None
) -> None:
    page = worked(collector, Record(header))
    assert collector.spans == {}
    assert dict(page.returns[0].headers).get("traceparent") == header


def test_a_lost_order_was_processed_and_nothing_was_sent(collector: Collector) -> None:
    worked(collector, Record(f"00-{TRACE}-{PARENT}-01".encode()), Fault.LOSE)
    assert list(collector.spans) == ["process orders.events"]


def test_a_skipped_order_leaves_no_span(collector: Collector) -> None:
    worked(collector, Record(f"00-{TRACE}-{PARENT}-01".encode()), Fault.SKIP)
    assert collector.spans == {}


def test_a_page_of_nothing(collector: Collector) -> None:
    tracing = Tracing(Identities(Sampler()), Origin({}), collector, None)  # type: ignore[arg-type]
    spans = ProcessorTracing.of(tracing, Flow(), group="g", client_id="c")
    assert spans.of_events([]) == []
    event = Event(b"k", None, None, b"", None, None, replayed=False)
    assert spans.of_return(event, None) == (None, None)
