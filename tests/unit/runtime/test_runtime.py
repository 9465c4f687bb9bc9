"""What every process stands on: back-off, Kafka connection, flow, resources, errors."""

import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.runtime.backoff import Backoff
from relay.runtime.database import connection_error, shown_dsn
from relay.runtime.flow import EventRoute, Flow, FlowError
from relay.runtime.kafka_connection import KafkaConnection, KafkaSettingsError
from relay.runtime.resources import schemas_folder, sql_folder


@given(st.floats(0.001, 10), st.floats(1, 1000), st.integers(-5, 10**9), st.floats(0, 1))
def test_a_wait_never_exceeds_its_ceiling_nor_the_cap(
    first: float, factor: float, attempt: int, draw: float
) -> None:
    backoff = Backoff(first, first * factor)
    wait = backoff.delay_seconds(attempt, lambda low, high: low + (high - low) * draw)
    assert 0 <= wait <= backoff.ceiling_seconds(attempt) <= backoff.cap_seconds


def test_ceilings_double_up_to_the_cap() -> None:
    backoff = Backoff(0.1, 1.0)
    assert [backoff.ceiling_seconds(n) for n in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_the_jitter_is_full() -> None:
    backoff, asked = Backoff(0.1, 1.0), []
    backoff.delay_seconds(2, lambda low, high: asked.append((low, high)) or 0.0)
    assert asked == [(0.0, 0.4)]


@pytest.mark.parametrize(("first", "cap"), [(0, 1), (-1, 1), (2, 1)])
def test_a_back_off_that_cannot_be_is_refused(first: float, cap: float) -> None:
    with pytest.raises(ValueError, match="back-off"):
        Backoff(first, cap)


def test_a_plain_connection_is_what_aiokafka_takes() -> None:
    assert KafkaConnection("a:1,b:2").client_options("me") == {
        "bootstrap_servers": "a:1,b:2",
        "client_id": "me",
        "security_protocol": "PLAINTEXT",
    }


def test_sasl_and_tls_are_passed_on() -> None:
    connection = KafkaConnection("a:1", "SASL_SSL", "SCRAM-SHA-512", "u", "p")
    options = connection.client_options("me")
    assert options["sasl_plain_username"] == "u"
    assert options["sasl_plain_password"] == "p"
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    context = options["ssl_context"]
    assert isinstance(context, ssl.SSLContext)
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)


def test_a_certificate_that_is_none_is_an_error_that_names_it(tmp_path: Path) -> None:
    nothing = tmp_path / "ca.pem"
    nothing.write_text("no certificate")
    for path in (nothing, tmp_path / "missing.pem"):
        connection = KafkaConnection("a:1", "SSL", ssl_ca_location=str(path))
        with pytest.raises(KafkaSettingsError, match=path.name):
            connection.client_options("me")


@pytest.mark.parametrize(
    ("problem", "named"),
    [
        ({"events": {}}, "events"),
        ({"events": {"a": EventRoute("")}}, "no topic"),
        ({"events": {"a": EventRoute("orders.returns")}}, "returns topic"),
        ({"events": {"a": EventRoute("e", 0)}}, "deadline_seconds"),
        ({"initial_status": "x"}, "initial_status"),
        ({"terminal_statuses": frozenset()}, "terminal_statuses"),
        ({"terminal_statuses": frozenset({"x"})}, "'x'"),
        ({"terminal_statuses": frozenset({"processing"})}, "highest rank"),
        ({"status_ranks": {"submitted": 0, "confirmed": 1, "rejected": 2}}, "'confirmed'"),
    ],
)
def test_a_flow_that_contradicts_itself_is_refused(problem: dict[str, object], named: str) -> None:
    with pytest.raises(FlowError, match=named):
        Flow(**problem)  # type: ignore[arg-type]


def test_the_contract_is_found() -> None:
    assert (sql_folder() / "0001_relay.sql").is_file()
    assert schemas_folder() == sql_folder().parent


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:geheim@h:5/d?sslpassword=geheim", "h:5/d"),
        ("postgresql://u:ge@heim@h/d", "h/d"),
        ("postgresql:///d", "the local socket/d"),
        (None, "the server that PGHOST and PGDATABASE name"),
        ("postgresql://u:geheim@[bad", "the server that DATABASE_URL names"),
    ],
)
def test_a_dsn_is_shown_without_its_secrets(dsn: str | None, shown: str) -> None:
    assert shown_dsn(dsn) == shown


def test_an_error_of_somebody_else_is_not_translated() -> None:
    assert connection_error(RuntimeError("x"), None) is None
