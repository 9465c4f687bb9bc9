"""Which span of which trace: a page at a time and one by one must agree, for any row."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from relay.telemetry import traceparent
from relay.telemetry.identities import Identities, TraceColumns, identity, new_span_id
from relay.telemetry.sampling import Sampler

ALL = Identities(Sampler())


def header(flags: str = "01") -> str:
    return f"00-{uuid4().hex}-{uuid4().hex[16:]}-{flags}"


def decoded(encoded: bytes | None) -> Span | None:
    """An identity begins with the trace id's value: its tag and length stand before it."""
    return None if encoded is None else Span.FromString(b"\x0a\x10" + encoded)


def page(
    headers: list[str | None],
    identities: Identities = ALL,
    states: list[str | None] | None = None,
) -> tuple[TraceColumns, list[bytes]]:
    events = [uuid4().bytes for _ in headers]
    return identities.of_rows(headers, states or [None] * len(headers), events), events


def without_span_ids(columns: TraceColumns) -> list[tuple[bytes, bytes | None, object]]:
    """What must not depend on the path taken: all but the random span ids."""
    spans = [decoded(one) for one in columns.identities]
    parts = [
        None if span is None else (span.trace_id, span.parent_span_id, span.trace_state)
        for span in spans
    ]
    return list(zip(columns.traceparents, columns.tracestates, parts, strict=True))


def test_a_rows_context_reaches_its_record_untouched_and_parents_its_span() -> None:
    headers = [header() for _ in range(1000)]
    columns, _ = page(headers)  # type: ignore[arg-type]
    assert columns.traceparents == [one.encode() for one in headers]
    spans = [decoded(one) for one in columns.identities]
    for given_header, span in zip(headers, spans, strict=True):
        assert span is not None
        _, trace_id, parent, _ = given_header.split("-")
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace_id, parent)
        assert len(span.span_id) == 8
    assert len({span.span_id for span in spans if span}) == 1000


def test_unsampled_rows_pass_their_context_and_make_no_span() -> None:
    headers = [header("00") for _ in range(10)]
    columns, _ = page(headers)  # type: ignore[arg-type]
    assert columns.traceparents == [one.encode() for one in headers]
    assert columns.identities == [None] * 10


def test_sampled_and_unsampled_rows_share_a_page() -> None:
    headers = [header("01"), header("00"), header("03"), header("02"), None]
    columns, _ = page(headers)
    assert [one is not None for one in columns.identities] == [True, False, True, False, True]


def test_with_exporting_off_contexts_flow_and_nothing_is_recorded() -> None:
    off = Identities(Sampler(), recording=False)
    headers = [header(), header()]
    columns, events = page([*headers, None], off)
    assert columns.traceparents[:2] == [one.encode() for one in headers]
    assert columns.traceparents[2].startswith(b"00-" + events[2].hex().encode())
    assert columns.identities == [None] * 3


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "",
        "nonsense",
        "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
        "00-" + "0" * 52,
        "\ud800",
    ],
)
def test_a_row_without_a_context_is_the_root_of_its_events_trace(bad: str | None) -> None:
    for headers in ([bad], [header(), bad], [bad, bad]):
        columns, events = page(headers, states=["vendor=1"] * len(headers))
        context = traceparent.parse(columns.traceparents[-1].decode())
        span = decoded(columns.identities[-1])
        assert context is not None
        assert span is not None
        assert context.trace_id == events[-1].hex() == span.trace_id.hex()
        assert context.span_id == span.span_id.hex()
        assert (span.parent_span_id, columns.tracestates[-1]) == (b"", None)


def test_a_republished_row_without_context_carries_the_same_one() -> None:
    event = UUID(int=7).bytes
    for _ in range(2):
        row = ALL.of_row(None, None, event)
        assert row[0] == f"00-{7:032x}-{7:016x}-01".encode()


def test_tracestate_travels_with_a_valid_context() -> None:
    state = "vendor=" + "x" * 200
    columns, _ = page([header(), header()], states=[state, None])
    span = decoded(columns.identities[0])
    assert columns.tracestates == [state.encode(), None]
    assert span is not None
    assert span.trace_state == state


headers = (
    st.none()
    | st.builds(lambda flags: header(f"{flags:02x}"), st.integers(0, 3))
    | st.builds(header)
    | st.sampled_from(
        ["", "x" * 55, "x", header() + "-", header().upper(), header()[:-1], "é" * 55]
    )
    | st.sampled_from([f"00-{'0' * 16}{uuid4().hex[16:]}-{'1' * 16}-01", f"01-{header()[3:]}"])
)
samplers = st.sampled_from(
    [Sampler(), Sampler(0.5), Sampler(0.0), Sampler(0.5, parent_based=False), Sampler(0, False)]
)


@given(st.lists(headers, max_size=12), samplers, st.booleans())
def test_a_page_agrees_with_its_rows_one_by_one(
    rows: list[str | None], sampler: Sampler, recording: bool
) -> None:
    identities = Identities(sampler, recording)
    columns, events = page(rows, identities)
    single = [identities.of_row(*row) for row in zip(rows, [None] * len(rows), events, strict=True)]
    expected = TraceColumns(
        [one[0] for one in single], [one[1] for one in single], [one[2] for one in single]
    )
    assert without_span_ids(columns) == without_span_ids(expected)


def test_two_headers_that_are_valid_only_end_to_end_are_not() -> None:
    first, second = header(), header()
    torn: list[str | None] = [first[:-1], first[-1] + second]
    columns, events = page(torn)
    assert [one.split(b"-")[1] for one in columns.traceparents] == [
        event.hex().encode() for event in events
    ]


def test_records_continue_their_senders_trace() -> None:
    sent = [header().encode(), None, b"\xff", b"nonsense", header("00").encode()]
    found = ALL.of_records(sent, [b"a=1", None, None, None, None])
    assert [one is not None for one in found] == [True, False, False, False, False]
    span = decoded(found[0])
    assert span is not None
    assert (span.parent_span_id.hex(), span.trace_state) == (sent[0].decode().split("-")[2], "a=1")
    whole = [header().encode() for _ in range(3)]
    assert None not in ALL.of_records(whole, [None] * 3)


def test_an_empty_page_is_an_empty_page() -> None:
    assert ALL.of_rows([], [], []) == TraceColumns([], [], [])
    assert ALL.of_records([], []) == []


def test_an_identity_by_hand() -> None:
    span = decoded(identity(b"t" * 16, b"s" * 8, b"p" * 8, b"x" * 512))
    assert span == Span(
        trace_id=b"t" * 16, span_id=b"s" * 8, parent_span_id=b"p" * 8, trace_state="x" * 512
    )
    assert decoded(identity(b"t" * 16, b"s" * 8)) == Span(trace_id=b"t" * 16, span_id=b"s" * 8)
    assert len({new_span_id() for _ in range(100)}) == 100
