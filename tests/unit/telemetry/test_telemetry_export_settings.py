"""Where spans go, by the standard variables; and with none of them, nowhere."""

from __future__ import annotations

import pytest

from relay.telemetry.export_settings import ExportSettings, ExportSettingsError, from_environment

O = "OTEL_EXPORTER_OTLP_"  # noqa: E741


def read(**given: str) -> ExportSettings | None:
    return from_environment({O + key if key.isupper() else key: v for key, v in given.items()})


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"},
        {"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"},
    ],
)
def test_off(environment: dict[str, str]) -> None:
    assert from_environment(environment) is None


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        ({"ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces"),
        ({"ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({"ENDPOINT": "https://c/otlp/"}, "https://c/otlp/v1/traces"),
        ({"TRACES_ENDPOINT": "http://c:4318/x"}, "http://c:4318/x"),
        ({"TRACES_ENDPOINT": "http://t/", "ENDPOINT": "http://all"}, "http://t/"),
        ({"PROTOCOL": "grpc", "ENDPOINT": "http://c:4317"}, "http://c:4317"),
        ({"PROTOCOL": "grpc", "ENDPOINT": "c:4317"}, "https://c:4317"),
        ({"PROTOCOL": "grpc", "ENDPOINT": "c:4317", "INSECURE": "true"}, "http://c:4317"),
        (
            {"TRACES_PROTOCOL": "grpc", "PROTOCOL": "http/protobuf", "ENDPOINT": "http://c"},
            "http://c",
        ),
    ],
)
def test_endpoints(given: dict[str, str], endpoint: str) -> None:
    settings = read(**given)
    assert settings is not None
    assert settings.endpoint == endpoint
    assert settings.secure is endpoint.startswith("https")


@pytest.mark.parametrize(
    ("protocol", "endpoint"),
    [("", "http://localhost:4318/v1/traces"), ("grpc", "http://localhost:4317")],
)
def test_asked_for_without_an_address_it_is_the_default_one(protocol: str, endpoint: str) -> None:
    found = from_environment({"OTEL_TRACES_EXPORTER": "otlp", O + "PROTOCOL": protocol})
    assert found is not None
    assert found.endpoint == endpoint


def test_everything_else_is_read_and_the_value_for_traces_wins() -> None:
    settings = read(
        ENDPOINT="http://c",
        HEADERS="A=1",
        TRACES_HEADERS=" Authorization = Bearer%20x%3Dy , x-tenant=blue,",
        COMPRESSION="gzip",
        TRACES_TIMEOUT="2.5",
        TIMEOUT="9",
        CERTIFICATE="/ca",
        CLIENT_CERTIFICATE="/cert",
        CLIENT_KEY="/key",
    )
    assert settings == ExportSettings(
        "http://c/v1/traces",
        headers={"authorization": "Bearer x=y", "x-tenant": "blue"},
        timeout_seconds=2.5,
        gzip=True,
        ca_file="/ca",
        client_certificate_file="/cert",
        client_key_file="/key",
    )
    assert "Bearer" not in repr(settings)


@pytest.mark.parametrize(("text", "seconds"), [("10", 10), ("0.5", 0.5), ("10000", 10)])
def test_timeouts_are_seconds_or_milliseconds(text: str, seconds: float) -> None:
    settings = read(ENDPOINT="http://c", TIMEOUT=text)
    assert settings is not None
    assert settings.timeout_seconds == seconds


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"PROTOCOL": "http/json"}, "PROTOCOL"),
        ({"ENDPOINT": "c:4318"}, "ENDPOINT"),
        ({"ENDPOINT": "ftp://c"}, "ENDPOINT"),
        ({"ENDPOINT": "http://c:99999"}, "ENDPOINT"),
        ({"ENDPOINT": "http://[::1"}, "ENDPOINT"),
        ({"COMPRESSION": "zstd"}, "COMPRESSION"),
        ({"TIMEOUT": "soon"}, "TIMEOUT"),
        ({"TIMEOUT": "0"}, "TIMEOUT"),
        ({"TIMEOUT": "inf"}, "TIMEOUT"),
        ({"HEADERS": "a=1,secret-without-name"}, "HEADERS: entry 2"),
        ({"HEADERS": "a=x%0d%0ay"}, "HEADERS: entry 1"),
        ({"HEADERS": "a=%C3%BC"}, "HEADERS: entry 1"),
        ({"HEADERS": "=x"}, "HEADERS: entry 1"),
    ],
)
def test_what_cannot_be_used_is_named(given: dict[str, str], named: str) -> None:
    with pytest.raises(ExportSettingsError, match=named) as error:
        read(**{"ENDPOINT": "http://c", **given})
    assert "secret" not in str(error.value)


def test_an_exporter_that_is_not_known_is_named() -> None:
    with pytest.raises(ExportSettingsError, match="OTEL_TRACES_EXPORTER='zipkin'"):
        from_environment({"OTEL_TRACES_EXPORTER": "zipkin"})
