# ruff: noqa: PT017 - a refusal is one of two good ends, and is judged where it is caught
"""What parses others' words answers, or refuses in words; and what it says is printable.

Bounded: some hundred examples of each.
"""

from __future__ import annotations

import io
import json
import logging
import ssl
import tomllib
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
import structlog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from relay.cli.errors import as_data, as_text
from relay.cli.output import harmless
from relay.kafka.ranges import seen
from relay.outbox import EventRefusedError
from relay.outbox.payload import Limits, check, encode
from relay.publish.sending.record import own_headers
from relay.runtime.database import connection_error, shown_dsn
from relay.runtime.kafka_connection import KafkaConnection, KafkaSettingsError
from relay.runtime.printable import printable
from relay.runtime.settings import load_settings
from relay.runtime.settings_sources import SettingsError
from relay.runtime.tls import TlsProblem, said_by_tls, tls_problem
from relay.sample.processor.decision import decide, read_event
from relay.sample.serve_body import order_of
from relay.telemetry import logs, transport
from relay.telemetry.export_settings import ExportSettingsError, from_environment
from relay.telemetry.redaction import redact
from relay.telemetry.traceparent import from_header, parse, tracestate

FUZZ = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

ANY = st.text(st.characters(), max_size=80)  # lone surrogates, controls and all
HOSTILE = st.sampled_from(
    [
        "\x1b[2J\x1b[1;1H",
        "\x9b31m",
        "a\n ok 5 confirm  fine",
        "\r\x1b[K",
        "\u202eevil",
        "\u2028line",
        "\x00",
        "\ud800",
        "'; DROP TABLE orders; --",
        '"',
        "$(touch /tmp/x)",
        "--help",
        "{order}",
        "%s%n",
        "[bold]",
    ]
)
TEXTS = ANY | HOSTILE | st.tuples(ANY, HOSTILE, ANY).map("".join)
BYTES = st.binary(max_size=120) | TEXTS.map(lambda one: one.encode("utf-8", "surrogatepass"))
JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)
BAD_JSON = st.sampled_from(
    [
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e400}',
        b'{"a": 1' + b"0" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b'{"a": 1, "a": 2}',
        b'{"a": "\\u0000"}',
        b'{"\\ud800": 1}',
        b'{"a": "\xff"}',
        b"\xef\xbb\xbf{}",
        b"",
    ]
)
DOCUMENTS = BAD_JSON | BYTES | JSON_LIKE.map(lambda one: json.dumps(one).encode())


def is_clean(text: str) -> bool:
    """No character that a terminal acts on; line ends are judged by the caller."""
    return text.replace("\n", "").isprintable()


# --- hop 1 and the sample's HTTP body -----------------------------------------------------------


@FUZZ
@given(DOCUMENTS)
def test_a_payload_is_strict_json_or_refused_with_its_code(document: bytes) -> None:
    try:
        found = check(encode(document), Limits(max_bytes=200_000))
    except EventRefusedError as refused:
        assert refused.code != "outbox_error"
        assert is_clean(as_text(refused))
    else:
        again = json.loads(document)
        assert found == again
        assert b"\\u0000" not in document


@FUZZ
@given(DOCUMENTS, st.none() | TEXTS)
def test_an_http_body_is_an_order_or_refused(body: bytes, key: str | None) -> None:
    with pytest.raises(EventRefusedError) as refused:
        order_of(body, key, Limits(max_bytes=200_000))
    assert is_clean(as_text(refused.value))


def test_too_large_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda *_args, **_more: pytest.fail("it was parsed"))
    with pytest.raises(EventRefusedError) as refused:
        check("[" * 300_000)
    assert refused.value.code == "payload_too_large"


# --- hop 2: rows by foreign writers -------------------------------------------------------------


@FUZZ
@given(DOCUMENTS)
@example(b'{"a": 1e400, "b": "kept"}')
@example(b'{"CE_ID": "mine", "Traceparent": "mine", "x": "\\r\\ny: z"}')
def test_a_row_s_own_headers_are_strings_that_replace_none_of_ours(document: bytes) -> None:
    for name, value in own_headers(document):
        assert isinstance(value, bytes)
        lowered = name.decode().lower()
        assert not lowered.startswith("ce_")
        assert lowered not in {"traceparent", "tracestate", "relay_epoch", "content-type"}


# --- traces -------------------------------------------------------------------------------------

PARENTS = TEXTS | st.from_regex(r"[0-9a-fA-F]{2}-[0-9a-fA-F]{32}-[0-9a-fA-F]{16}-..(-.*)?")


@FUZZ
@given(PARENTS, TEXTS, BYTES)
def test_a_trace_context_is_valid_or_none(parent: str, state: str, header: bytes) -> None:
    context = parse(parent)
    if context is not None:
        assert parse(context.header()) is not None
        assert int(context.trace_id, 16) > 0
        assert int(context.span_id, 16) > 0
    passed = tracestate(state)
    assert passed is None or (passed.isascii() and len(passed) <= 512)
    assert from_header(header) is None or header.isascii()


# --- settings -----------------------------------------------------------------------------------

KEYS = st.sampled_from(
    ["kafka", "flow", "orders", "events", "columns", "publish", "page_rows", "status_ranks", "url"]
)
TABLES = st.recursive(
    TEXTS | st.integers() | st.booleans() | st.floats() | st.lists(TEXTS, max_size=2),
    lambda inner: st.dictionaries(KEYS | TEXTS, inner, max_size=3),
    max_leaves=6,
)
VARIABLES = st.sampled_from(
    [
        "DATABASE_URL",
        "KAFKA_BOOTSTRAP_SERVERS",
        "KAFKA_SECURITY_PROTOCOL",
        "KAFKA_SASL_PASSWORD",
        "RELAY_FLOW_EVENTS",
        "RELAY_FLOW_STATUS_RANKS",
        "RELAY_FLOW_PROCESSOR_GROUPS",
        "RELAY_PUBLISH_PAGE_ROWS",
        "RELAY_CONFIRM_DRAIN_SECONDS",
        "RELAY_METRICS_PORT",
        "RELAY_FLOW_APPLY",
        "RELAY_TRACE_URL",
    ]
)


def toml(table: dict[str, Any]) -> str:
    """The least of a writer: JSON's strings and numbers are TOML's, tables are inline."""
    return "".join(f"{json.dumps(key)} = {_inline(value)}\n" for key, value in table.items())


def _inline(value: Any) -> str:
    match value:
        case dict():
            inside = ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items())
            return f"{{{inside}}}"
        case list():
            return f"[{', '.join(map(_inline, value))}]"
        case float():
            return repr(value)
        case _:
            return json.dumps(value)


@FUZZ
@given(
    table=st.dictionaries(KEYS | TEXTS, TABLES, max_size=4).map(toml) | TEXTS,
    variables=st.dictionaries(VARIABLES, TEXTS | st.integers().map(str), max_size=3),
)
def test_settings_are_read_or_refused_in_words(
    tmp_path: Path, table: str, variables: dict[str, str]
) -> None:
    file = tmp_path / "relay.toml"
    file.write_bytes(table.encode("utf-8", "surrogatepass"))
    try:
        found = load_settings(file, variables)
    except SettingsError as refused:
        assert is_clean(as_text(refused))
        for name in ("DATABASE_URL", "KAFKA_SASL_PASSWORD"):
            secret = variables.get(name, "")
            assert len(secret) < 12 or secret not in str(refused)
    else:
        assert found.flow.status_ranks


@FUZZ
@given(TEXTS, TEXTS)
def test_an_address_is_shown_without_its_password(text: str, password: str) -> None:
    secret = f"s3cr3t{password}s3cr3t"
    for dsn in (
        text,
        f"postgresql://u:{secret}@h/d",
        f"postgresql://u:{secret}{text}@h/d",
        f"postgresql://h/d?password={secret}",
        f"host=h password={secret}",
        f"{text}://u:{secret}@h",
    ):
        shown = shown_dsn(dsn)
        error = connection_error(ValueError(secret), dsn)
        for said in (as_text(RuntimeError(shown)), str(error)):
            assert "s3cr3t" not in said or "s3cr3t" in text, dsn


@FUZZ
@given(TEXTS, st.sampled_from(["PLAINTEXT", "SSL", "SASL_SSL", "x"]), st.none() | TEXTS, TEXTS)
def test_kafka_s_settings_contradict_or_connect(
    servers: str, protocol: str, mechanism: str | None, password: str
) -> None:
    secret = f"{password}s3cr3t"
    try:
        made = KafkaConnection(servers, protocol, mechanism, "user", secret)
    except KafkaSettingsError as refused:
        assert "s3cr3t" not in str(refused) or "s3cr3t" in servers + (mechanism or "")
    else:
        assert "s3cr3t" not in repr(made)


@FUZZ
@given(st.dictionaries(st.sampled_from(["ENDPOINT", "HEADERS", "TIMEOUT", "PROTOCOL"]), TEXTS))
def test_the_exporter_s_settings_are_read_or_refused(given_texts: dict[str, str]) -> None:
    environment = {f"OTEL_EXPORTER_OTLP_{name}": text for name, text in given_texts.items()}
    try:
        from_environment(environment)
    except ExportSettingsError as refused:
        assert is_clean(as_text(refused))


# --- what servers answer ------------------------------------------------------------------------


@FUZZ
@given(BYTES, st.none() | TEXTS)
def test_a_collector_s_answer_is_taken_as_it_comes(content: bytes, retry_after: str | None) -> None:
    taken = transport._taken(content)
    assert taken is not None
    seconds = transport._retry_after(retry_after)
    assert seconds >= 0


@FUZZ
@given(TEXTS)
def test_a_tls_error_is_named_or_left_alone(text: str) -> None:
    assert tls_problem(OSError(text)) is None
    assert tls_problem(ssl.SSLError(1, text)) in {None, *TlsProblem}
    assert isinstance(said_by_tls(ssl.SSLError(1, text)), str)


@FUZZ
@given(TEXTS)
def test_a_server_s_words_become_one_error(text: str) -> None:
    for kind in (asyncpg.PostgresError, asyncpg.InvalidPasswordError, OSError, TimeoutError):
        error = connection_error(kind(text), "postgresql://u:p@h/d")
        if error is not None:
            assert is_clean(as_text(error))
            json.dumps(as_data(error))


# --- hops 3 to 5: records of foreign producers ----------------------------------------------------


@FUZZ
@given(
    key=st.none() | BYTES,
    value=st.none() | DOCUMENTS,
    headers=st.lists(st.tuples(TEXTS, st.none() | BYTES), max_size=4),
    timestamp=st.integers(-(2**63), 2**63 - 1),
)
def test_a_record_read_back_is_looked_at_whatever_it_holds(
    key: bytes | None, value: bytes | None, headers: list[Any], timestamp: int
) -> None:
    record = SimpleNamespace(
        offset=0, timestamp=timestamp, key=key, value=value, headers=tuple(headers)
    )
    read = seen(("t", 0), record)
    assert read.recorded_at is not None
    read.header("ce_id")
    event = read_event(record)
    assert event is None or event.order_id is not None
    answers = decide(value or b"", reject_above=Decimal(1000), processing_first=True)
    assert answers[-1].status in {"confirmed", "rejected"}


# --- what people and log stores are shown -------------------------------------------------------


class Kind(StrEnum):
    """An enumeration is left as it is."""

    ONE = "one"


@dataclass(frozen=True, slots=True)
class Shown:
    """As the diagnosis holds what it found."""

    order: str
    lines: tuple[str, ...]
    counts: dict[str, int]
    kind: Kind = Kind.ONE


@FUZZ
@given(TEXTS, st.lists(TEXTS, max_size=3))
def test_what_is_shown_is_printable_and_one_line(order: str, lines: list[str]) -> None:
    found = harmless([Shown(order, tuple(lines), Counter({order: 1}))])[0]
    assert found.kind is Kind.ONE
    assert found.counts == {printable(order): 1}
    for text in (found.order, *found.lines):
        assert text.isprintable()
        text.encode()


@FUZZ
@given(TEXTS, TEXTS)
def test_a_log_line_is_one_line_and_forges_none(order: str, reason: str) -> None:
    root, formats = logging.getLogger(), ("json", "text")
    before = (list(root.handlers), root.level)
    try:
        for log_format in formats:
            stream = io.StringIO()
            logs.configure("debug", log_format, stream=stream)  # type: ignore[arg-type]
            structlog.get_logger("relay.test").info(order, order_id=order, reason=reason)
            logging.getLogger("aiokafka").error("%s", reason)
            lines = stream.getvalue().split("\n")
            assert [len(lines), lines[-1]] in ([3, ""], [2, ""])
            assert all(line.isprintable() for line in lines)
            if log_format == "json":
                assert json.loads(lines[0])["level"] == "info"
    finally:
        root.handlers, root.level = before
        structlog.reset_defaults()


@FUZZ
@given(st.text("abcXYZ019-_.~!*", min_size=8, max_size=20))
def test_a_password_is_hidden_wherever_it_stands(secret: str) -> None:
    for text in (
        f"postgresql://user:{secret}@host/db",
        f"password={secret}",
        f"Authorization: Bearer {secret}",
        f"sasl_password='{secret}'",
        f'{{"password": "{secret}"}}',
    ):
        assert secret not in redact(text), text


def test_toml_of_these_tests_is_toml() -> None:
    assert tomllib.loads(toml({"a": {"b": [1, "x"]}})) == {"a": {"b": [1, "x"]}}
