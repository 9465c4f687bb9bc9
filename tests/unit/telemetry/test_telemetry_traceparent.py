"""W3C contexts: what is valid, what is not, and what an event without one gets."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.telemetry import traceparent
from relay.telemetry.traceparent import TraceContext

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"

# The recommendation's grammar, written down a second time.
GRAMMAR = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})"
    r"-(?!0{16})(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<rest>-.*)?",
    re.DOTALL,
)


def by_grammar(text: str) -> tuple[str, str, int] | None:
    match = GRAMMAR.fullmatch(text)
    if match is None or (match["version"] == "00" and match["rest"] is not None):
        return None
    flags = int(match["flags"], 16)
    return match["trace"], match["span"], flags if match["version"] == "00" else flags & 1


def test_a_valid_header_is_read_and_written_back() -> None:
    context = traceparent.parse(VALID)
    assert context == TraceContext(TRACE, SPAN, 1)
    assert context.header() == VALID
    assert context.sampled


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "00",
        VALID.upper(),
        VALID[:-1],
        VALID + "0",
        VALID + "-more",
        VALID.replace("00-4", "ff-4"),
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"00_{TRACE}-{SPAN}-01",
        f"00-{TRACE[:-1]}ü-{SPAN}-01",
        f"00-{TRACE[:-1]}\ud800-{SPAN}-01",
        f"00-{TRACE[:-1]}\uff11-{SPAN}-01",
        f"00-{TRACE[:-1]} -{SPAN}-01",
        f" {VALID}",
        f"{VALID}\n",
        f"0x-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01x",
        "x" * 1_000_000,
    ],
)
def test_what_is_not_valid_is_no_context(text: str | None) -> None:
    assert traceparent.parse(text) is None


def test_versions_to_come_are_read_by_their_first_four_fields() -> None:
    assert traceparent.parse(f"cc-{TRACE}-{SPAN}-09-what-comes") == TraceContext(TRACE, SPAN, 1)
    assert traceparent.parse(f"01-{TRACE}-{SPAN}-02") == TraceContext(TRACE, SPAN, 0)


nearly = st.builds(
    lambda text, at, put: text[: at % len(text)] + put + text[at % len(text) + 1 :],
    st.from_regex(r"\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?\Z"),
    st.integers(0, 100),
    st.text(max_size=2),
)


@given(st.text() | nearly)
@example(f"00-{'0' * 32}-{SPAN}-01")
def test_reading_agrees_with_the_grammar(text: str) -> None:
    context = traceparent.parse(text)
    assert (context and tuple(context)) == by_grammar(text)


@given(st.binary(min_size=16, max_size=16))
@example(bytes(16))
@example(bytes(15) + b"\x01")
@example(b"\x01" + bytes(15))
def test_every_event_id_makes_a_valid_context_and_always_the_same(event_id: bytes) -> None:
    context = traceparent.of_event(event_id, sampled=True)
    assert traceparent.parse(context.header()) == context
    assert context == traceparent.of_event(event_id, sampled=True)
    if any(event_id):
        assert context.trace_id == event_id.hex()


def test_headers_that_are_not_ascii_are_no_text() -> None:
    assert traceparent.from_header(VALID.encode()) == VALID
    assert traceparent.from_header(b"\xff") is None
    assert traceparent.from_header(None) is None


@pytest.mark.parametrize(
    ("given_state", "passed"),
    [
        (None, None),
        ("", None),
        ("a=1,b=2", "a=1,b=2"),
        ("a=1,\tb=2", "a=1,\tb=2"),
        ("a=ü", None),
        ("a=1\r\nx: y", None),
        ("a=\ud800", None),
        ("a=1," + "b=" + "x" * 506 + ",c=3", "a=1," + "b=" + "x" * 506),
        ("a=1," + "b=" + "x" * 600, "a=1"),
        ("x" * 600, None),
    ],
)
def test_tracestate_is_passed_whole_cut_or_not_at_all(
    given_state: str | None, passed: str | None
) -> None:
    assert traceparent.tracestate(given_state) == passed
