"""A process's tracing: who it says it is, and what it does with exporting off."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased

from relay.telemetry.export_settings import ExportSettingsError
from relay.telemetry.names import SpanKind
from relay.telemetry.tracing import Tracing, configure

ON = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


def configured(**environment: str) -> Tracing:
    return configure("relay", environment, version="1.2", instance_id="i-1", install=False)


def test_the_operators_words_about_the_resource_win() -> None:
    resource = configured(
        OTEL_SERVICE_NAME="theirs",
        OTEL_RESOURCE_ATTRIBUTES="service.name=no,deployment.environment=prod%20eu,broken,=x",
    ).origin.resource
    assert resource["service.name"] == "theirs"
    assert resource["deployment.environment"] == "prod eu"
    assert (resource["service.version"], resource["service.instance.id"]) == ("1.2", "i-1")
    assert configured().origin.resource["service.name"] == "relay"


def test_with_exporting_off_everything_still_works() -> None:
    tracing = configured()
    header, _, identity = tracing.identities.of_row(None, None, b"e" * 16)
    assert header == f"00-{b'e'.hex() * 16}-{b'e'.hex() * 8}-01".encode()
    assert identity is None
    encoder = tracing.encoder("send", SpanKind.CLIENT, {})
    tracing.export(encoder.encode(identities=[None], order_ids=[b""], started_ns=1, ended_ns=2))
    with tracing.tracer().start_as_current_span("rare") as span:
        assert not span.get_span_context().is_valid
    assert tracing.counts().exported == 0
    assert tracing.close(0)


def test_the_sdk_samples_as_the_rest_does() -> None:
    for name, expected in (
        ("parentbased_traceidratio", ParentBased(TraceIdRatioBased(0.5))),
        ("always_off", ALWAYS_OFF),
    ):
        tracing = configured(**ON, OTEL_TRACES_SAMPLER=name, OTEL_TRACES_SAMPLER_ARG="0.5")
        assert tracing.provider is not None
        found = tracing.provider.sampler
        assert found.get_description() == expected.get_description()
        tracing.close(0)


def test_spans_that_the_sdk_did_not_sample_are_not_offered() -> None:
    tracing = configured(**ON, OTEL_TRACES_SAMPLER="always_off")
    with tracing.tracer().start_as_current_span("rare"):
        pass
    counts = tracing.counts()
    tracing.close(0)
    assert (counts.waiting, dict(counts.dropped)) == (0, {})


def test_the_provider_is_installed_only_when_asked() -> None:
    before = trace.get_tracer_provider()
    configured(**ON).close(0)
    assert trace.get_tracer_provider() is before


@pytest.mark.parametrize(
    "name", ["OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT"]
)
def test_the_length_limit_of_attributes(name: str) -> None:
    assert configured(**{name: "7"}).value_limit == 7
    with pytest.raises(ExportSettingsError, match=name):
        configured(**{name: "many"})
