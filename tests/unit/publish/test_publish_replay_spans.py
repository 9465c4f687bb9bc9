"""A replayed event's `send` span stands in the order's trace, and links to the replay's."""

from uuid import UUID

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from relay.publish.sending.batch import Batch
from relay.publish.sending.spans import SendSpans, SentPage
from relay.replay.spans import context_of
from relay.telemetry import names
from relay.telemetry.identities import identity
from relay.telemetry.otlp import SpanBatch
from relay.telemetry.tracing import Tracing, configure

REPLAY = UUID("0191e3c0-7f5e-7bd1-a6b0-3a1d0f6f9a52")
TRACE = bytes(range(16))


class Kept:
    """Keeps what is offered, in the place of an exporter."""

    def __init__(self) -> None:
        self.batches: list[SpanBatch] = []

    def offer(self, batch: SpanBatch) -> None:
        self.batches.append(batch)


def sent(replay_id: UUID | None) -> SentPage:
    spans = [identity(TRACE, bytes([n]) * 8, b"\7" * 8) for n in (1, 2)]
    return SentPage([b"a", b"b"], [bytes(8)] * 2, spans, 1, replay_id)


def exported(one: SentPage) -> list[object]:
    made = configure(
        "relay", {"OTEL_TRACES_EXPORTER": "none"}, version="0", instance_id="t", install=False
    )
    kept = Kept()
    identities = type(made.identities)(made.identities.sampler, recording=True)
    tracing = Tracing(identities, made.origin, kept, None)
    SendSpans(tracing, "relay").acknowledged(one, Batch("orders.events", 3, [0, 1], [1, 2], 9), 40)
    requests = [ExportTraceServiceRequest.FromString(batch.request) for batch in kept.batches]
    return [
        span
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def test_a_replayed_event_says_so_in_the_trace_of_its_order() -> None:
    spans = exported(sent(REPLAY))
    assert len(spans) == 2
    context = context_of(REPLAY)
    for span in spans:
        assert span.trace_id == TRACE
        assert span.parent_span_id == b"\7" * 8
        said = {one.key: one.value.string_value for one in span.attributes}
        assert said[names.RELAY_REPLAY_ID] == str(REPLAY)
        (link,) = span.links
        assert link.trace_id == context.trace_id.to_bytes(16, "big") == REPLAY.bytes
        assert link.span_id == context.span_id.to_bytes(8, "big")


def test_a_first_occurrence_links_to_nothing() -> None:
    for span in exported(sent(None)):
        assert not span.links
        assert names.RELAY_REPLAY_ID not in {one.key for one in span.attributes}
