"""Hop 5: one `process orders.returns` span for each return, in its order's own trace."""

import uuid

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from relay.telemetry import sampling
from relay.telemetry.exporter import ExportCounts
from relay.telemetry.identities import Identities
from relay.telemetry.otlp import Origin
from relay.telemetry.tracing import Tracing

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
UNSAMPLED = f"00-{TRACE}-{SPAN}-00"


class Collector:
    """Takes what is offered for export, and reads it back as any collector would."""

    def __init__(self):
        self.requests = []

    def offer(self, batch):
        self.requests.append(batch.request)

    def counts(self):
        return ExportCounts(0, {}, 0, 0)

    def spans(self):
        found = []
        for request in self.requests:
            parsed = ExportTraceServiceRequest.FromString(request)
            for resource in parsed.resource_spans:
                for scope in resource.scope_spans:
                    found += scope.spans
        return found


def attributes(span):
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


@pytest.fixture
def collector(lab):
    sampler = sampling.from_environment({})
    found = Collector()
    lab.tracing = Tracing(Identities(sampler), Origin({"service.name": "t"}), found, None)
    return found


async def only_span(lab, collector):
    async def spans():
        return collector.spans()

    (span,) = await lab.until(spans)
    return span


async def test_the_span_is_the_child_of_the_returns_own_context(lab, collector):
    (order,) = await lab.place()
    lab.send(order, partition=1, headers={"traceparent": SAMPLED.encode()})
    lab.sent()
    lab.start()
    span = await only_span(lab, collector)
    assert (span.name, span.kind) == (f"process {lab.topic}", span.SPAN_KIND_CONSUMER)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert span.start_time_unix_nano < span.end_time_unix_nano
    found = attributes(span)
    assert found["order.id"] == order
    assert (found["order.status.old"], found["order.status.new"]) == ("submitted", "confirmed")
    assert found["relay.outcome"] == "applied"
    servers = lab.bootstrap_servers.split(",")
    assert f"{found['server.address']}:{found['server.port']}" in servers
    ((link,),) = ([(one.trace_id.hex(), one.span_id.hex()) for one in span.links],)
    assert link == (TRACE, SPAN)
    assert found["messaging.destination.partition.id"] == "1"
    assert found["messaging.kafka.offset"] == 0
    assert found["messaging.consumer.group.name"] == lab.flow.confirm_group
    assert span.status.code == span.status.STATUS_CODE_UNSET


async def test_an_unsampled_return_has_no_span(lab, collector):
    orders = await lab.place(2)
    lab.send(orders[0], headers={"traceparent": UNSAMPLED.encode()})
    lab.send(orders[1], headers={"traceparent": SAMPLED.encode()})
    lab.sent()
    lab.start()
    await lab.until_handled(2)
    assert attributes(await only_span(lab, collector))["order.id"] == orders[1]


async def test_a_return_without_context_is_put_into_its_orders_trace(lab, collector):
    (order,) = await lab.place()
    await lab.pg.execute(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, traceparent) "
        "VALUES ('order', $1, 'order.placed', '{}', $2)",
        order,
        SAMPLED,
    )
    lab.send(order)
    lab.sent()
    lab.start()
    span = await only_span(lab, collector)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)


async def test_nor_does_an_order_without_any_context_lose_its_return(lab, collector):
    (order,) = await lab.place()
    event_id = uuid.uuid4()
    await lab.pg.execute(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, event_id) "
        "VALUES ('order', $1, 'order.placed', '{}', $2)",
        order,
        event_id,
    )
    lab.send(order)
    lab.sent()
    lab.start()
    span = await only_span(lab, collector)
    # What the relay makes of an event without a context: the same at every publication.
    assert span.trace_id == event_id.bytes
    assert span.parent_span_id == event_id.bytes[8:]


async def test_a_refused_return_is_an_error_in_the_trace(lab, collector):
    (order,) = await lab.place()
    lab.send(order, "nonsense", headers={"traceparent": SAMPLED.encode()})
    lab.sent()
    lab.start()
    span = await only_span(lab, collector)
    assert span.trace_id.hex() == TRACE
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert "8 characters" in span.status.message
    assert "nonsense" not in span.status.message  # what a record holds is in no span
    assert attributes(span)["error.type"] == "unknown_status"
    assert attributes(span)["relay.outcome"] == "held"


async def test_copies_have_their_spans_too(lab, collector):
    (order,) = await lab.place()
    value = b'{"status": "confirmed", "order_id": "%s"}' % order.encode()
    for n in range(3):
        context = f"00-{TRACE}-{n + 1:016x}-01"
        lab.send(order, value=value, headers={"ce_id": b"1", "traceparent": context.encode()})
    lab.sent()
    lab.start()
    await lab.until_handled(3)

    async def all_of_them():
        return len(collector.spans()) == 3

    await lab.until(all_of_them)
    parents = sorted(span.parent_span_id.hex() for span in collector.spans())
    assert parents == [f"{n + 1:016x}" for n in range(3)]
    # Which of them is the first is the order's own affair; the others are marked.
    outcomes = sorted(attributes(span)["relay.outcome"] for span in collector.spans())
    assert outcomes == ["applied", "copy", "copy"]
    for span in collector.spans():
        marked = {one.key: one.value.bool_value for one in span.attributes}.get("relay.duplicate")
        assert marked == (True if attributes(span)["relay.outcome"] == "copy" else None)


async def test_a_return_that_changes_nothing_says_so(lab, collector):
    (order,) = await lab.place()
    for n, status in enumerate(("confirmed", "processing")):
        context = f"00-{TRACE}-{n + 1:016x}-01"
        lab.send(order, status, headers={"traceparent": context.encode()})
    lab.sent()
    lab.start()
    await lab.until_handled(2)

    async def both():
        return len(collector.spans()) == 2

    await lab.until(both)
    told = {one.parent_span_id[-1]: attributes(one)["relay.outcome"] for one in collector.spans()}
    assert told == {1: "applied", 2: "no_change"}
