"""Per-event spans and SDK spans of one process, as a real Jaeger shows them."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import pytest

from relay.telemetry import names
from relay.telemetry.names import SpanKind
from relay.telemetry.tracing import Tracing, configure

TOPIC = "orders.events"


@pytest.fixture(params=["http/protobuf", "grpc"])
def tracing(request: pytest.FixtureRequest, jaeger: Any) -> Any:
    made = configure(
        f"relay-test-{request.param[:4]}",
        jaeger.environment(request.param),
        version="1",
        instance_id="one",
        install=False,
    )
    yield made
    made.close(5)


def send(tracing: Tracing, traceparent: str | None, state: str | None, order: str) -> bytes:
    event_id = uuid4()
    columns = tracing.identities.of_rows([traceparent], [state], [event_id.bytes])
    encoder = tracing.encoder(
        names.send_span(TOPIC), SpanKind.CLIENT, names.send_attributes(TOPIC, client_id="c")
    )
    now = time.time_ns()
    tracing.export(
        encoder.encode(
            identities=columns.identities,
            order_ids=[order.encode()],
            started_ns=now,
            ended_ns=now + 2_000_000,
            partition=3,
            offsets=range(41, 42),
            waited_seconds=[0.25],
        )
    )
    return columns.traceparents[0]


def test_create_and_send_are_one_trace(jaeger: Any, tracing: Tracing) -> None:
    with tracing.tracer().start_as_current_span(names.create_span(TOPIC)) as created:
        context = created.get_span_context()
        trace_id, span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    header = send(tracing, f"00-{trace_id}-{span_id}-01", "vendor=1", "Bestellung-ü")
    assert header.decode() == f"00-{trace_id}-{span_id}-01"

    spans = jaeger.wait_for_spans(trace_id, lambda found: len(found) == 2)
    by_name = {span["operationName"]: span for span in spans}
    sent, created_span = by_name[f"send {TOPIC}"], by_name[f"create {TOPIC}"]
    assert [one["spanID"] for one in sent["references"]] == [created_span["spanID"]]
    assert sent["duration"] == 2000
    assert sent["serviceName"] == created_span["serviceName"]
    found = {tag["key"]: tag["value"] for tag in sent["tags"]}
    expected = {
        "span.kind": "client",
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": TOPIC,
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 41,
        "messaging.client.id": "c",
        "order.id": "Bestellung-ü",
        "relay.outbox.waited_seconds": 0.25,
        "w3c.tracestate": "vendor=1",
        "otel.scope.name": "outbox-relay",
    }
    assert expected.items() <= found.items()
    # Jaeger compares the clocks of spans by their durations; these are the test's own.
    assert [one for one in sent.get("warnings") or () if "clock skew" not in one] == []


def test_a_row_without_context_is_the_root_of_its_trace(jaeger: Any, tracing: Tracing) -> None:
    header = send(tracing, None, None, "plain").decode()
    _, trace_id, span_id, flags = header.split("-")
    [span] = jaeger.wait_for_spans(trace_id, lambda found: len(found) == 1)
    assert (span["spanID"], span["references"], flags) == (span_id, [], "01")


def test_thousands_of_spans_all_arrive(jaeger: Any, tracing: Tracing) -> None:
    count, order = 5000, f"order-{uuid4()}"
    events = [uuid4().bytes for _ in range(count)]
    columns = tracing.identities.of_rows([None] * count, [None] * count, events)
    encoder = tracing.encoder("many", SpanKind.CLIENT, {})
    tracing.export(
        encoder.encode(
            identities=columns.identities,
            order_ids=[order.encode()] * count,
            started_ns=1_000,
            ended_ns=2_000,
            offsets=range(count),
        )
    )
    assert tracing.close(30)
    counts = tracing.counts()
    assert (counts.exported, dict(counts.dropped), counts.waiting) == (count, {}, 0)
    for event_id in (events[0], events[-1]):
        jaeger.wait_for_spans(event_id.hex(), lambda found: len(found) == 1)
