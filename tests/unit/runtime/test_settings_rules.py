"""Settings that contradict each other, or that would fail later, are refused by name."""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.cli.confirm import confirm_options
from relay.publish.maintenance.duties import maintenance_options
from relay.publish.maintenance.partition_days import plan
from relay.publish.options import publish_options
from relay.runtime.kafka_names import brokers
from relay.runtime.settings import Settings, load_settings
from relay.runtime.settings_limits import FOREVER_DAYS
from relay.runtime.settings_sources import SettingsError, variables

LONGEST_INTEGER = 2**31 - 1


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No relay.toml of this machine is read."""
    monkeypatch.chdir(tmp_path)


def load(**environment: str) -> Settings:
    return load_settings(None, environment)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"RELAY_FLOW_CONFIRM_GROUP": "order-processor"}, "confirm_group"),
        ({"RELAY_FLOW_PROCESSOR_GROUPS": "a,order-confirmation"}, "confirm_group"),
        ({"RELAY_FLOW_PROCESSOR_GROUPS": "a,a"}, "names one twice"),
        ({"RELAY_FLOW_CONFIRM_GROUP": "  "}, "confirm_group"),
        ({"RELAY_FLOW_CONFIRM_GROUP": "a\tb"}, "confirm_group"),
        ({"RELAY_FLOW_PROBE_TOPIC": "orders.events"}, "probe_topic"),
        ({"RELAY_FLOW_PROBE_TOPIC": "orders.returns"}, "probe_topic"),
        (
            {"RELAY_FLOW_EVENTS": '{"a": {"topic": "x"}}', "RELAY_FLOW_PROBE_TOPIC": "x"},
            "probe_topic",
        ),
        (
            {"RELAY_FLOW_EVENTS": '{"a": {"topic": "x"}}', "RELAY_FLOW_EVENTS_TOPIC": "t.r"}
            | {"RELAY_FLOW_RETURNS_TOPIC": "t.r"},
            "events_topic and returns_topic",
        ),
        ({"RELAY_FLOW_RETURNS_TOPIC": "bad topic!"}, "returns_topic"),
        ({"RELAY_FLOW_EVENTS_TOPIC": ".."}, "events_topic"),
        ({"RELAY_FLOW_PROBE_TOPIC": "x" * 250}, "probe_topic"),
        ({"RELAY_FLOW_EVENTS": '{"a": {"topic": "größe"}}'}, "the topic of event 'a'"),
        ({"RELAY_FLOW_PROBE_TOPIC": "orders_events"}, "collide"),
        ({"RELAY_FLOW_STATUS_RANKS": '{"submitted": 1, "confirmed": 1}'}, "initial_status"),
        ({"RELAY_FLOW_STATUS_RANKS": '{"submitted": 1}'}, "initial_status"),
        ({"RELAY_FLOW_STATUS_RANKS": "{}"}, "initial_status"),
        ({"RELAY_FLOW_STATUS_RANKS": '{"submitted": 0, "done": 9999999999}'}, "rank"),
        ({"RELAY_FLOW_STATUS_RANKS": '{"submitted": 0, "": 1}'}, "a status is a word"),
        ({"RELAY_FLOW_STATUS_RANKS": '{"submitted": 0, "submitted": 1}'}, "twice"),
        ({"RELAY_FLOW_EVENTS": '{"a": {"deadline_seconds": 1e300}}'}, "deadline_seconds"),
        ({"RELAY_FLOW_EVENTS": '{"a": {"deadline_seconds": Infinity}}'}, "RELAY_FLOW_EVENTS"),
        ({"RELAY_FLOW_EVENTS": '{"a": {"deadline_seconds": NaN}}'}, "RELAY_FLOW_EVENTS"),
        ({"RELAY_FLOW_EVENTS": '{"a": {"deadline_seconds": 1e999}}'}, "RELAY_FLOW_EVENTS"),
        ({"RELAY_FLOW_EVENTS": '{"relay.canary": {}}'}, "relay.canary"),
        ({"RELAY_FLOW_EVENTS": "[" * 100_000}, "RELAY_FLOW_EVENTS"),
        ({"RELAY_FLOW_AGGREGATE_TYPE": "relay.probe"}, "aggregate_type"),
        ({"RELAY_PUBLISH_POLL_SECONDS": "inf"}, "RELAY_PUBLISH_POLL_SECONDS"),
        ({"RELAY_PUBLISH_LEASE_SECONDS": "nan"}, "RELAY_PUBLISH_LEASE_SECONDS"),
        ({"RELAY_WATCH_ROUND_SECONDS": "1e300"}, "RELAY_WATCH_ROUND_SECONDS"),
        ({"RELAY_CONFIRM_SESSION_TIMEOUT_SECONDS": "9999"}, "SESSION_TIMEOUT"),
        ({"RELAY_CONFIRM_CONNECTIONS": "100000"}, "RELAY_CONFIRM_CONNECTIONS"),
        ({"RELAY_PUBLISH_BATCH_BYTES": "99999999999"}, "RELAY_PUBLISH_BATCH_BYTES"),
        ({"RELAY_MAINTENANCE_DAYS_AHEAD": "100000"}, "RELAY_MAINTENANCE_DAYS_AHEAD"),
        ({"RELAY_MAINTENANCE_OUTBOX_DAYS": "999999"}, "outbox_days"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:notaport"}, "KAFKA_BOOTSTRAP_SERVERS"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:99999"}, "KAFKA_BOOTSTRAP_SERVERS"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "::1:9092"}, "brackets"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "[nonsense]:9092"}, "KAFKA_BOOTSTRAP_SERVERS"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "PLAINTEXT://a:9092"}, "KAFKA_BOOTSTRAP_SERVERS"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "a b:9092"}, "KAFKA_BOOTSTRAP_SERVERS"),
        ({"KAFKA_BOOTSTRAP_SERVERS": " , "}, "KAFKA_BOOTSTRAP_SERVERS"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "a:"}, "KAFKA_BOOTSTRAP_SERVERS"),
        ({"DATABASE_URL": "postgresql://h/d?conect_timeout=5"}, "connect_timeout"),
        ({"DATABASE_URL": "postgresql://h/d?search_path=shop"}, "options="),
        ({"DATABASE_URL": "postgresql://h/d?connect_timeout=soon"}, "connect_timeout"),
        ({"DATABASE_URL": "postgresql://h/d?sslmode=on"}, "sslmode"),
        ({"DATABASE_URL": "postgresql://h/d?channel_binding=require"}, "channel_binding"),
        ({"DATABASE_URL": "postgresql://h/d?require_auth=scram-sha-256"}, "require_auth"),
        ({"DATABASE_URL": "postgresql://h:notaport/d"}, "port"),
        ({"DATABASE_URL": "postgresql://h:70000/d"}, "port"),
        ({"DATABASE_URL": "mysql://h/d"}, "postgresql://"),
        ({"DATABASE_URL": "host=h dbname=d"}, "postgresql://"),
        ({"DATABASE_URL": "postgresql://h/d\nx"}, "postgresql://"),
        ({"PGPORT": "x"}, "PGPORT"),
        ({"PGSSLMODE": "on"}, "PGSSLMODE"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_read(
    environment: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(**environment)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:ge@heim@h/d",
        "postgresql://u:ge/heim@h/d",
        "postgresql://u:ge?heim=1@h/d",
        "postgresql://u:ge#heim@h/d",
        "postgresql://u:geheim@h:geheim/d",
        "postgresql://h/d?password=geheim&conect_timeout=geheim",
        "postgresql://h/d?sslmode=geheim",
    ],
)
def test_no_error_shows_a_part_of_the_url(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(DATABASE_URL=url)
    assert "heim" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_for_ever_means_something() -> None:
    names = ("OUTBOX", "LEDGER", "INBOX", "KEPT", "POSITION", "RECORD")
    settings = load(**{f"RELAY_MAINTENANCE_{name}_DAYS": "999999999" for name in names})
    assert settings.maintenance.outbox_days == FOREVER_DAYS
    assert maintenance_options(settings).kept_days == FOREVER_DAYS
    today = datetime.now(UTC).date()
    assert plan([], today, days_ahead=7, keep_days=FOREVER_DAYS).drop == ()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a:1", ("a:1",)),
        (" a:1 , b:2, ", ("a:1", "b:2")),
        ("kafka", ("kafka:9092",)),
        ("[::1]:9094,[fe80::1]", ("[::1]:9094", "[fe80::1]:9092")),
        ("my_broker-1.example.:65535", ("my_broker-1.example.:65535",)),
    ],
)
def test_addresses_of_brokers(text: str, meant: tuple[str, ...]) -> None:
    assert brokers(text) == meant
    given = load(KAFKA_BOOTSTRAP_SERVERS=text).kafka.client_options("me")["bootstrap_servers"]
    assert given == ",".join(meant)


# --- Kubernetes ---------------------------------------------------------------------------------


def links(service: str, port: int = 8080, name: str | None = None) -> dict[str, str]:
    """Return what Kubernetes gives each container of a namespace with such a Service."""
    prefix, host = service.upper().replace("-", "_"), "10.96.12.7"
    one = f"{prefix}_PORT_{port}_TCP"
    return {
        f"{prefix}_SERVICE_HOST": host,
        f"{prefix}_SERVICE_PORT": str(port),
        **({f"{prefix}_SERVICE_PORT_{name.upper()}": str(port)} if name else {}),
        f"{prefix}_PORT": f"tcp://{host}:{port}",
        one: f"tcp://{host}:{port}",
        f"{one}_PROTO": "tcp",
        f"{one}_PORT": str(port),
        f"{one}_ADDR": host,
    }


@pytest.mark.parametrize(
    "service",
    ["relay", "relay-confirm", "relay-metrics", "relay-publish", "relay-port", "kafka", "relay-2"],
)
def test_a_service_of_that_name_stops_nothing(service: str) -> None:
    settings = load(**links(service, name="http-metrics".replace("-", "_")))
    assert settings.metrics.port is None
    assert settings.flow == load().flow


def test_a_service_over_ipv6_stops_nothing() -> None:
    given = links("relay")
    ours = {name: value.replace("10.96.12.7", "fd00::7") for name, value in given.items()}
    for name in ("RELAY_PORT", "RELAY_PORT_8080_TCP"):
        ours[name] = "tcp://[fd00::7]:8080"
    assert load(**ours).flow == load().flow


def test_a_setting_beside_the_links_counts() -> None:
    """What a pod's own `env` names wins over the link of the same name."""
    settings = load(**(links("relay-metrics") | {"RELAY_METRICS_PORT": "9470"}))
    assert settings.metrics.port == 9470


@pytest.mark.parametrize(
    "environment",
    [
        {"RELAY_PORT": "9464"},
        {"RELAY_PORT": "tcp://10.0.0.1:9464"},  # without its host: somebody wrote it by hand
        {"RELAY_SERVICE_HOST": "confirm.example"},
        {"RELAY_SERVICE_PORT": "9464"},
        links("relay") | {"RELAY_METRIC_PORT": "9464"},
        links("relay") | {"RELAY_PORTS": "1"},
        links("relay") | {"RELAY_METRICS_PROT": "9464"},
        links("relay-metrics") | {"RELAY_METRICS_PORT": "tcp://9464"},
    ],
)
def test_a_misspelling_is_refused_beside_links(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError):
        load(**environment)


def test_an_event_type_that_no_row_would_be_read_with_is_refused() -> None:
    def events(event_type: str) -> str:
        return json.dumps({event_type: {"deadline_seconds": 60}}, ensure_ascii=False)

    assert "\u00e9" * 512 in load(RELAY_FLOW_EVENTS=events("\u00e9" * 512)).flow.events
    with pytest.raises(SettingsError, match=r"a type of 1026 bytes; at most 1024"):
        load(RELAY_FLOW_EVENTS=events("\u00e9" * 513))


# --- whatever is accepted works ------------------------------------------------------------------

_ODD = st.one_of(
    st.text(max_size=12).filter(lambda text: "\0" not in text),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["1e300", "0", "-1", "true", "[]", "{}", '{"a": 1}', "9" * 400, "½", "٣"]),
)
_NAMES = sorted(set(variables(Settings)) - {"DATABASE_URL"})


@given(st.dictionaries(st.sampled_from(_NAMES), _ODD, max_size=3))
@example({"RELAY_MAINTENANCE_KEPT_DAYS": "9" * 30})
@example({"RELAY_FLOW_EVENTS": '{"a": {"deadline_seconds": 316224000}}'})
def test_what_is_accepted_survives_every_sum(environment: dict[str, str]) -> None:
    try:
        settings = load(**environment)
    except SettingsError:
        return
    now = datetime.now(UTC)
    for section in (settings.publish, settings.confirm, settings.maintenance, settings.watch):
        for name, value in section:
            check_sums(name, value, now)
    for seconds in settings.flow.deadlines.values():
        check_sums("deadline_seconds", seconds, now)
    publish_options(settings), maintenance_options(settings), confirm_options(settings)
    assert brokers(settings.kafka.bootstrap_servers)


def check_sums(name: str, value: Any, now: datetime) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    assert math.isfinite(value)
    if name.endswith("_seconds"):
        assert now - timedelta(seconds=value) < now + timedelta(seconds=value) or value < 1e-6
        # Of clients, in milliseconds; deadlines are PostgreSQL's, in microseconds of 64 bits.
        assert name == "deadline_seconds" or 0 <= int(value * 1000) <= LONGEST_INTEGER
    elif name.endswith("_days"):
        assert now.date() - timedelta(days=value) < now.date()
    else:
        assert 0 < value <= LONGEST_INTEGER
