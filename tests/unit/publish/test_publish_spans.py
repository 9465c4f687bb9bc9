"""Hop 2's spans: a row's wait and its sending, in the order's trace; what is sent again says so."""

import time
from struct import pack
from uuid import UUID

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from relay.publish.sending.batch import Batch
from relay.publish.sending.spans import SendSpans, SentPage
from relay.replay.spans import root_of
from relay.telemetry import names
from relay.telemetry.identities import identity
from relay.telemetry.otlp import SpanBatch
from relay.telemetry.tracing import Tracing, configure

REPLAY = UUID("0191e3c0-7f5e-7bd1-a6b0-3a1d0f6f9a52")
TRACE = bytes(range(16))
PARENT = b"\7" * 8
NOW_NS = time.time_ns()
EVENTS = [b"0191e3c0-7f5e-7bd1-a6b0-3a1d0f6f9a5%d" % n for n in (1, 2)]


class Kept:
    """Keeps what is offered, in the place of an exporter."""

    def __init__(self) -> None:
        self.batches: list[SpanBatch] = []

    def offer(self, batch: SpanBatch) -> None:
        self.batches.append(batch)


def child(n: int) -> bytes:
    return identity(TRACE, bytes([n]) * 8, PARENT)


def created(*waited_seconds: float) -> list[bytes]:
    """Binary timestamps of rows that were handed over after so long."""
    now = NOW_NS // 1000 - 946_684_800_000_000
    return [pack(">q", int(now - seconds * 1e6)) for seconds in waited_seconds]


def page(
    identities: list[bytes | None], *waited_seconds: float, replay_id: UUID | None = None
) -> SentPage:
    keys = [b"a", b"b"][: len(identities)]
    return SentPage(
        keys, created(*waited_seconds), identities, NOW_NS, replay_id, EVENTS[: len(identities)]
    )


def exported(one: SentPage, *batches: list[int]) -> list:
    """The spans of a page that is acknowledged at once, or batch after batch of these places."""
    made = configure(
        "relay", {"OTEL_TRACES_EXPORTER": "none"}, version="0", instance_id="t", install=False
    )
    kept = Kept()
    identities = type(made.identities)(made.identities.sampler, recording=True)
    tracing = Tracing(identities, made.origin, kept, None)
    spans = SendSpans(tracing, "relay-h-1", "[::1]:9092", 1.0)
    for places in batches or [list(range(len(one.keys)))]:
        batch = Batch("orders.events", 3, places, places, 9)
        spans.acknowledged(one, batch, 40)
    requests = [ExportTraceServiceRequest.FromString(batch.request) for batch in kept.batches]
    return [
        span
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def said(span) -> dict[str, object]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_a_sent_event_says_what_the_conventions_ask_for() -> None:
    spans = exported(page([child(1), child(2)], 0.25, 0.5))
    assert [span.name for span in spans] == ["send orders.events"] * 2
    for span, event_id, waited in zip(spans, EVENTS, (0.25, 0.5), strict=True):
        found = said(span)
        assert found[names.OUTBOX_WAITED_SECONDS] == pytest.approx(waited, abs=1e-5)
        expected = {
            "messaging.message.id": event_id.decode(),
            "messaging.client.id": "relay-h-1",
            "server.address": "::1",
            "server.port": 9092,
            "relay.batch.size": 2,
        }
        assert expected.items() <= found.items()
        (link,) = span.links
        assert (link.trace_id, link.span_id) == (TRACE, PARENT)


@pytest.mark.parametrize("waited", [(30.0, 40.0), (30.0, 0.2)])
def test_a_row_that_waited_has_a_span_of_its_wait_beside_its_sending(waited) -> None:
    spans = exported(page([child(1), child(2)], *waited))
    waits = [span for span in spans if span.name == "wait orders.events"]
    sends = [span for span in spans if span.name == "send orders.events"]
    long = [seconds for seconds in waited if seconds > 1]
    assert (len(waits), len(sends)) == (len(long), 2)
    for span, seconds in zip(waits, long, strict=True):
        assert (span.trace_id, span.parent_span_id) == (TRACE, PARENT)
        assert span.end_time_unix_nano == NOW_NS
        lasted = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
        assert lasted == pytest.approx(seconds, abs=1e-5)
        assert (span.kind, list(span.links)) == (span.SPAN_KIND_INTERNAL, [])
    assert len({span.span_id for span in spans}) == len(spans)
    assert [one.span_id for one in sends] == [b"\1" * 8, b"\2" * 8]


def test_the_wait_is_the_root_of_a_row_without_context() -> None:
    root = identity(TRACE, b"\5" * 8)
    wait, other, send = exported(page([root, child(2)], 30.0, 0.2))
    assert (wait.name, wait.span_id, wait.parent_span_id) == ("wait orders.events", b"\5" * 8, b"")
    below, beside = sorted((other, send), key=lambda span: span.parent_span_id != b"\5" * 8)
    assert (below.name, below.parent_span_id) == ("send orders.events", wait.span_id)
    assert below.span_id != wait.span_id
    assert below.start_time_unix_nano >= wait.start_time_unix_nano
    assert beside.parent_span_id == PARENT
    # One that did not wait is the root itself.
    (alone,) = exported(page([root], 0.1))
    assert (alone.name, alone.span_id, list(alone.links)) == ("send orders.events", b"\5" * 8, [])


@pytest.mark.parametrize("created_us", [-(2**63), 2**63 - 1, -63_113_904_000_000_000])
def test_a_row_whose_time_says_nothing_has_no_wait(created_us: int) -> None:
    one = SentPage([b"a"], [pack(">q", created_us)], [child(1)], NOW_NS, None, EVENTS[:1])
    assert [span.name for span in exported(one)] == ["send orders.events"]


def test_each_batch_of_a_page_has_the_spans_of_its_own_rows() -> None:
    spans = exported(page([child(1), child(2)], 30.0, 40.0), [1], [0])
    found = [(span.name, said(span)["order.id"]) for span in spans]
    assert found == [(f"{name} orders.events", n) for n in "ba" for name in ("wait", "send")]
    sends = [span for span in spans if span.name == "send orders.events"]
    assert [said(span)["messaging.message.id"] for span in sends] == [
        one.decode() for one in reversed(EVENTS)
    ]
    assert {said(span)["relay.batch.size"] for span in sends} == {1}


def test_an_unsampled_event_has_neither() -> None:
    spans = exported(page([None, child(2)], 30.0, 30.0))
    assert sorted(span.name for span in spans) == ["send orders.events", "wait orders.events"]
    assert {said(span)["order.id"] for span in spans} == {"b"}
    assert exported(page([None, None], 30.0, 30.0)) == []


def test_a_replayed_event_says_so_in_the_trace_of_its_order() -> None:
    root = identity(TRACE, b"\5" * 8)
    first, second = exported(page([child(1), root], 3600.0, 3600.0, replay_id=REPLAY))
    replay = root_of(REPLAY)
    for span, parent in ((first, PARENT), (second, b"\5" * 8)):
        assert span.name == "send orders.events"
        assert (span.trace_id, span.parent_span_id) == (TRACE, parent)
        assert span.span_id not in (b"\1" * 8, b"\5" * 8)  # those were the first occurrence's
        found = said(span)
        assert found[names.RELAY_REPLAY_ID] == str(REPLAY)
        assert names.OUTBOX_WAITED_SECONDS not in found  # its row's age is no wait
        links = {(one.trace_id, one.span_id) for one in span.links}
        assert links == {(TRACE, parent), replay}


def test_a_first_occurrence_links_to_no_replay() -> None:
    for span in exported(page([child(1)], 0.1)):
        assert names.RELAY_REPLAY_ID not in said(span)
