"""Log lines: one line each, whatever is in them; no secrets, no payloads."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from relay.telemetry import logs

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Stream(io.StringIO):
    terminal = False

    def isatty(self) -> bool:
        return self.terminal

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def stream() -> Iterator[Stream]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    ours = logging.getLogger("relay").level
    before = structlog.get_config()
    yield Stream()
    structlog.configure(**before)
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("relay").setLevel(ours)


def test_a_line_is_one_object_with_its_fields_in_order(stream: Stream) -> None:
    logs.configure("info", "json", stream=stream)
    structlog.get_logger("relay.publish").info("published", events=3, order_id="ü", lag=0.5)
    [line] = stream.lines()
    assert list(line) == [
        *("time", "level", "logger", "message"),
        *("events", "order_id", "lag"),
    ]
    assert (line["level"], line["logger"], line["message"]) == (
        "info",
        "relay.publish",
        "published",
    )
    assert (line["events"], line["order_id"], line["lag"]) == (3, "ü", 0.5)
    assert line["time"].endswith("Z")


def test_levels_are_ours_and_libraries_only_warn(stream: Stream) -> None:
    logs.configure("debug", "json", stream=stream)
    structlog.get_logger("relay.x").debug("ours")
    structlog.get_logger("relay.consumers.x").debug("ours")
    logging.getLogger("aiokafka.conn").info("chatter")
    logging.getLogger("aiokafka.conn").warning("Node %s is away", 3)
    assert [line["message"] for line in stream.lines()] == ["ours", "ours", "Node 3 is away"]
    logs.configure("warning", "json", stream=stream)
    structlog.get_logger("relay.x").info("quiet")
    assert len(stream.lines()) == 3


def test_trace_ids_come_from_the_header_or_the_current_span(stream: Stream) -> None:
    logs.configure("info", "json", stream=stream)
    log = structlog.get_logger("relay.x")
    log.info("text", traceparent=TRACEPARENT)
    log.info("bytes", traceparent=TRACEPARENT.encode())
    log.info("none", traceparent="nonsense")
    with TracerProvider().get_tracer("t").start_as_current_span("s") as span:
        log.info("span")
    text, given_bytes, none, current = stream.lines()
    expected = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert (text["trace_id"], text["span_id"]) == expected
    assert (given_bytes["trace_id"], given_bytes["span_id"]) == expected
    assert "trace_id" not in none
    assert "traceparent" not in none
    assert current["trace_id"] == trace.format_trace_id(span.get_span_context().trace_id)


SECRET = "hunter2"


@pytest.mark.parametrize(
    "fields",
    [
        {"dsn": f"postgresql://relay:{SECRET}@db/orders"},
        {"dsn": f"postgresql://relay:p@ss/{SECRET}@db/orders"},
        {"error": f"could not connect: host=db password={SECRET} user=relay"},
        {"error": f"password = '{SECRET} {SECRET}'"},
        {"error": f"KafkaConnection(sasl_password='{SECRET}', user='x')"},
        {"error": f'{{"password": "{SECRET}"}}'},
        {"error": f"Authorization: Bearer {SECRET}"},
        {"error": f"https://api/?token={SECRET}&x=1"},
        {"password": SECRET},
        {"kafka": {"sasl_plain_password": SECRET, "servers": ["a"]}},
        {"urls": [f"amqp://u:{SECRET}@h"]},
        {"api_key": SECRET},
        {"payload": f'{{"card": "{SECRET}"}}'},
        {"body": SECRET.encode()},
        {"error": ValueError(f"postgresql://relay:{SECRET}@db")},
    ],
)
@pytest.mark.parametrize("log_format", ["json", "text"])
def test_secrets_and_payloads_are_not_written(
    stream: Stream, fields: dict[str, object], log_format: Any
) -> None:
    logs.configure("info", log_format, stream=stream)
    structlog.get_logger("relay.x").info("connecting", **fields)
    assert SECRET not in stream.getvalue()
    assert "connecting" in stream.getvalue()


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_tracebacks_are_redacted_hide_locals_and_stay_one_line(
    stream: Stream, log_format: Any
) -> None:
    logs.configure("info", log_format, stream=stream)

    def fail() -> None:
        local = "very-local"
        raise RuntimeError(f"postgresql://relay:{SECRET}@db {len(local)}")

    try:
        fail()
    except RuntimeError:
        structlog.get_logger("relay.x").exception("failed")
    written = stream.getvalue()
    assert written.count("\n") == 1
    assert "RuntimeError" in written
    assert SECRET not in written
    assert "very-local" not in written


@given(st.text(), st.text())
@example('\n{"level": "error"}\r\x1b[2J\x85\u2028\u202e', "\x00\ud800\x9b")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_no_data_can_forge_a_line_or_move_the_cursor(
    stream: Stream, value: str, other: str
) -> None:
    for log_format in ("json", "text"):
        stream.seek(0)
        stream.truncate()
        logs.configure("info", log_format, stream=stream)  # type: ignore[arg-type]
        structlog.get_logger("relay.x").info(value, order_id=other, more={value: [other]})
        written = stream.getvalue()
        assert written.endswith("\n")
        assert len(written.splitlines()) == 1
        assert written[:-1].isprintable()
        if log_format == "json":
            json.loads(written)


def test_an_object_that_cannot_be_shown_breaks_nothing(stream: Stream) -> None:
    class Broken:
        def __str__(self) -> str:
            raise OSError

    logs.configure("info", "json", stream=stream)
    structlog.get_logger("relay.x").info("odd", thing=Broken(), number=float("nan"))
    assert stream.lines()[0]["thing"] == "[Broken: OSError]"


@pytest.mark.parametrize(
    ("terminal", "environment", "colored"),
    [(True, {}, True), (True, {"NO_COLOR": "1"}, False), (False, {}, False)],
)
def test_color_is_for_terminals_that_want_it(
    stream: Stream, terminal: bool, environment: dict[str, str], colored: bool
) -> None:
    stream.terminal = terminal
    logs.configure("info", "text", stream=stream, environment=environment)
    structlog.get_logger("relay.x").warning("careful", events=3, reason="too large")
    written = stream.getvalue()
    assert ("\x1b[" in written) is colored
    assert 'careful events=3 reason="too large" (relay.x)' in written


def test_a_library_says_the_same_thing_once_in_a_while() -> None:
    now = [0.0]
    repeats = logs.LibraryRepeats(clock=lambda: now[0])

    def passes(logger: str, message: str) -> bool:
        return repeats.filter(logging.LogRecord(logger, 40, "", 1, message, (), None))

    assert [passes("aiokafka.cluster", "Topic %s not found") for _ in range(3)] == [
        True,
        False,
        False,
    ]
    assert not passes("aiokafka.cluster", "something else"), "an outage writes few lines"
    assert passes("aiokafka.conn", "another part of it")
    assert all(passes("relay.publish", "waiting") for _ in range(3))
    now[0] = 61.0
    assert passes("aiokafka.cluster", "Topic %s not found")
