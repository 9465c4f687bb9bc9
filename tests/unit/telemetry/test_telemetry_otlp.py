"""What the encoder writes, a protobuf parser reads back, field by field."""

from __future__ import annotations

import math
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from relay.telemetry import names
from relay.telemetry.identities import identity
from relay.telemetry.names import SpanKind
from relay.telemetry.otlp import Origin, SpanBatch, SpanEncoder
from relay.telemetry.protobuf import attribute, error_status, link, valid_text, varint

ORIGIN = Origin({"service.name": "relay", "n": 1, "on": True, "share": 0.5}, version="1.2")
CONSTANT = names.send_attributes("orders.events")


def encoder(limit: int = 4096, *, linked: bool = False) -> SpanEncoder:
    name = names.send_span("orders.events")
    return SpanEncoder(ORIGIN, name, SpanKind.CLIENT, CONSTANT, limit, linked)


def spans_of(batches: list[SpanBatch]) -> list[Span]:
    """Join the requests as the exporter does, and read them as one."""
    request = ExportTraceServiceRequest.FromString(b"".join(one.request for one in batches))
    spans = [span for one in request.resource_spans for span in one.scope_spans[0].spans]
    assert len(spans) == sum(one.spans for one in batches)
    return spans


def value(any_value: AnyValue) -> object:
    return getattr(any_value, any_value.WhichOneof("value"))


def attributes(pairs: list[KeyValue]) -> dict[str, object]:
    assert len({pair.key for pair in pairs}) == len(pairs)
    return {pair.key: value(pair.value) for pair in pairs}


def ids(count: int) -> list[bytes | None]:
    return [identity(os.urandom(16), os.urandom(8), os.urandom(8)) for _ in range(count)]


@st.composite
def batches(draw: st.DrawFn) -> dict[str, object]:
    # A page is either of any rows, or of rows that all have a parent and nothing else.
    alike = draw(st.booleans())
    count = draw(st.integers(1, 30 if alike else 12))

    def column(one: st.SearchStrategy[object]) -> list[object]:
        return draw(st.lists(one, min_size=count, max_size=count))

    one_id = st.builds(
        identity,
        st.binary(min_size=16, max_size=16),
        st.binary(min_size=8, max_size=8),
        st.binary(min_size=8, max_size=8)
        if alike
        else st.just(b"") | st.binary(min_size=8, max_size=8),
        st.none()
        if alike
        else st.none() | st.text("ab=,1", min_size=1, max_size=512).map(str.encode),
    )
    order_id = st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))
    base = draw(st.integers(0, 2**50))
    offset = st.integers(-1, 2**62) | st.integers(2**14 - 3, 2**14 + 3)
    return {
        "identities": column(one_id if alike else st.none() | one_id),
        "order_ids": column(order_id | st.binary(max_size=30)),
        "started_ns": draw(st.integers(0, 2**63)) or column(st.integers(0, 2**63 - 1)),
        "ended_ns": draw(st.integers(0, 2**64 - 1)),
        "partition": draw(st.none() | st.integers(0, 2**31)),
        "offsets": draw(st.none() | st.just(range(base, base + count))) or column(offset),
        "waited_seconds": draw(st.none() | st.just(column(st.floats()))),
        "fields": draw(st.none() | st.just(column(st.text(max_size=9).map(status_field)))),
        "message_ids": draw(st.none() | st.just(column(st.uuids().map(lambda i: str(i).encode())))),
        "batch_size": draw(st.none() | st.integers(1, 5000)),
    }


def status_field(text: str) -> bytes:
    return attribute(names.ORDER_STATUS_NEW, text)


def same(left: object, right: object) -> bool:
    both_nan = isinstance(left, float) and isinstance(right, float) and math.isnan(left + right)
    return both_nan or left == right


@given(batches(), st.booleans())
def test_any_batch_is_read_back_as_it_was(batch: dict[str, list[object]], linked: bool) -> None:
    found = spans_of(encoder(linked=linked).encode(**batch))  # type: ignore[arg-type]
    rows = [(index, one) for index, one in enumerate(batch["identities"]) if one is not None]
    assert len(found) == len(rows)
    if not isinstance(batch["offsets"], range):  # runs are written in order of their high bits
        rows.sort(key=lambda row: batch["offsets"][row[0]] >> 14)
    for (index, encoded), span in zip(rows, found, strict=True):
        expected = Span.FromString(b"\x0a\x10" + encoded)  # type: ignore[operator]
        assert (span.trace_id, span.span_id) == (expected.trace_id, expected.span_id)
        assert span.parent_span_id == expected.parent_span_id
        assert span.trace_state == expected.trace_state
        assert (span.name, span.kind) == ("send orders.events", Span.SPAN_KIND_CLIENT)
        starts = batch["started_ns"]
        started_ns = starts[index] if isinstance(starts, list) else starts
        assert span.start_time_unix_nano == started_ns
        links = [(one.trace_id, one.span_id) for one in span.links]
        parent = (span.trace_id, span.parent_span_id)
        assert links == ([parent] if linked and span.parent_span_id else [])
        assert span.end_time_unix_nano == batch["ended_ns"]
        assert span.flags & 0x101 == 0x101
        assert {**attributes(span.attributes)}.keys() == expected_attributes(batch, index).keys()
        for key, said in expected_attributes(batch, index).items():
            assert same(attributes(span.attributes)[key], said), key


def expected_attributes(batch: dict[str, list[object]], index: int) -> dict[str, object]:
    order_id = batch["order_ids"][index]
    assert isinstance(order_id, bytes)
    expected: dict[str, object] = {**CONSTANT, "order.id": order_id.decode("utf-8", "replace")}
    if batch["partition"] is not None:
        expected["messaging.destination.partition.id"] = str(batch["partition"])
    offset = batch["offsets"][index]
    assert isinstance(offset, int)
    if offset >= 0:
        expected["messaging.kafka.offset"] = offset
    if batch["waited_seconds"] is not None:
        expected["relay.outbox.waited_seconds"] = batch["waited_seconds"][index]
    if batch["message_ids"] is not None:
        expected["messaging.message.id"] = batch["message_ids"][index].decode()  # type: ignore[attr-defined]
    if batch["batch_size"] is not None:
        expected["relay.batch.size"] = batch["batch_size"]
    if batch["fields"] is not None:
        field = batch["fields"][index]
        assert isinstance(field, bytes)
        expected |= attributes(Span.FromString(field).attributes)
    return expected


def test_the_resource_and_the_scope_are_said() -> None:
    [batch] = encoder().encode(identities=ids(1), order_ids=[b"1"], started_ns=1, ended_ns=2)
    request = ExportTraceServiceRequest.FromString(batch.request)
    [resource_spans] = request.resource_spans
    said = attributes(resource_spans.resource.attributes)
    assert said == {"service.name": "relay", "n": 1, "on": True, "share": 0.5}
    [scope_spans] = resource_spans.scope_spans
    assert (scope_spans.scope.name, scope_spans.scope.version) == ("outbox-relay", "1.2")
    assert scope_spans.schema_url == "https://opentelemetry.io/schemas/1.44.0"


def test_nothing_recorded_is_nothing_to_export() -> None:
    encode = encoder().encode
    assert encode(identities=[None] * 3, order_ids=[b""] * 3, started_ns=1, ended_ns=2) == []
    assert encode(identities=[], order_ids=[], started_ns=1, ended_ns=2) == []
    assert encode(identities=[], order_ids=[], started_ns=1, ended_ns=2, offsets=range(0)) == []


def test_columns_of_different_lengths_are_a_mistake_that_is_told() -> None:
    with pytest.raises(ValueError, match="one length"):
        encoder().encode(identities=ids(2), order_ids=[b"1"], started_ns=1, ended_ns=2)


@pytest.mark.parametrize("base", [0, 2**14 - 2, 2**28 - 3, 2**35, 2**62])
def test_offsets_count_on_across_the_bits_that_a_batch_shares(base: int) -> None:
    count = 20_000
    batches_made = encoder().encode(
        identities=ids(count),
        order_ids=[b"o"] * count,
        started_ns=1,
        ended_ns=2,
        offsets=range(base, base + count),
    )
    found = [
        attributes(span.attributes)["messaging.kafka.offset"] for span in spans_of(batches_made)
    ]
    assert found == list(range(base, base + count))


def test_a_large_batch_links_to_its_parents_too() -> None:
    identities = ids(500)
    made = encoder(linked=True).encode(
        identities=identities, order_ids=[b"o"] * 500, started_ns=1, ended_ns=2
    )
    for span in spans_of(made):
        (one,) = span.links
        assert (one.trace_id, one.span_id) == (span.trace_id, span.parent_span_id)


def test_a_request_stays_below_what_collectors_take() -> None:
    count = 5000
    made = encoder().encode(
        identities=ids(count), order_ids=[b"x" * 4000] * count, started_ns=1, ended_ns=2
    )
    assert max(len(one.request) for one in made) < 3 * 1024 * 1024
    assert len(spans_of(made)) == count


@pytest.mark.parametrize("size", [0, 1, 100, 127, 128, 4096, 5000, 20_000])
def test_order_ids_of_any_size_are_kept_up_to_the_limit(size: int) -> None:
    for limit in (10, 4096, 1_000_000):
        made = encoder(limit).encode(
            identities=ids(1), order_ids=["ü".encode() * size], started_ns=1, ended_ns=2
        )
        [span] = spans_of(made)
        kept = attributes(span.attributes)["order.id"]
        assert isinstance(kept, str)
        assert kept == "ü" * (min(size * 2, limit, 16_000) // 2)


def test_bytes_that_are_no_text_do_not_outgrow_the_limit() -> None:
    made = encoder(10**6).encode(
        identities=ids(1), order_ids=[b"\xff" * 16_000], started_ns=1, ended_ns=2
    )
    [span] = spans_of(made)
    assert attributes(span.attributes)["order.id"] == "\ufffd" * (16_000 // 3)


@given(st.binary(max_size=40), st.integers(0, 40))
@example("aü€😀".encode(), 9)
def test_text_is_mended_never_refused(raw: bytes, limit: int) -> None:
    mended = valid_text(raw, limit).decode("utf-8")
    try:
        whole = raw.decode("utf-8")
    except UnicodeDecodeError:
        return
    assert whole.startswith(mended)
    assert len(mended.encode()) <= limit
    assert len(raw) > limit or mended == whole
    assert len(mended.encode()) > min(limit, len(raw)) - 4


@given(st.text(st.characters()) | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.booleans())
@example("\ud800")
def test_attributes_are_read_back(said: str | float | bool) -> None:
    span = Span.FromString(attribute("key", said))
    expected = said.encode("utf-8", "replace").decode() if isinstance(said, str) else said
    assert same(attributes(span.attributes)["key"], expected)
    assert type(attributes(span.attributes)["key"]) is type(expected)


def test_links_and_errors_are_read_back() -> None:
    span = Span.FromString(link(b"t" * 16, b"s" * 8) + error_status("no return \ud800"))
    assert [(one.trace_id, one.span_id) for one in span.links] == [(b"t" * 16, b"s" * 8)]
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "no return ?")


def test_varints() -> None:
    assert [varint(n).hex() for n in (0, 127, 128, 300, 2**64 - 1)] == [
        *("00", "7f", "8001", "ac02"),
        "ffffffffffffffffff01",
    ]
