"""What a process needs to trace, made once at its start from the `OTEL_*` variables.

Invariant: per-event spans (encoded by `otlp`) and the rare ones of the SDK leave by one exporter,
with one resource, one sampler and one count of what was lost. With exporting off everything here
still works, contexts flow on, and no span is made. Only bad settings raise, at start.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from opentelemetry import trace
from opentelemetry.sdk.version import __version__ as sdk_version

from relay.telemetry import export_settings, names, sampling
from relay.telemetry.exporter import ExportCounts, SpanExporter
from relay.telemetry.identities import Identities
from relay.telemetry.names import SpanKind
from relay.telemetry.otlp import Origin, SpanBatch, SpanEncoder
from relay.telemetry.protobuf import DEFAULT_VALUE_LENGTH_LIMIT, AttributeValue

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_SCOPE: Final = "outbox-relay"


@dataclass(frozen=True, slots=True)
class Tracing:
    """A process's tracing.

    Attributes:
        identities: decides which span of which trace an event gets.
        origin: who writes the spans.
        exporter: delivers them; None when exporting is off.
        provider: of the SDK, for rare spans; None when exporting is off.
    """

    identities: Identities
    origin: Origin
    exporter: SpanExporter | None
    provider: TracerProvider | None
    value_limit: int = DEFAULT_VALUE_LENGTH_LIMIT

    def encoder(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, AttributeValue],
        *,
        linked: bool = False,
    ) -> SpanEncoder:
        """Prepare the encoder of one kind of per-event span; `linked`: to its parent, too."""
        return SpanEncoder(self.origin, name, kind, attributes, self.value_limit, linked)

    def as_service(self, name: str) -> Tracing:
        """Return the same tracing for per-event spans of another service, whoever runs it.

        `OTEL_SERVICE_NAME` names the process; what is written for a part of the system that any of
        several processes may hold goes by one name, so that one search finds all of it.
        """
        resource = {**self.origin.resource, "service.name": name}
        return replace(self, origin=replace(self.origin, resource=resource))

    def tracer(self) -> trace.Tracer:
        """Return the tracer for rare spans; it makes none when exporting is off."""
        if self.provider is None:
            return trace.NoOpTracer()
        return self.provider.get_tracer(_SCOPE, self.origin.version, schema_url=names.SCHEMA_URL)

    def export(self, batches: Iterable[SpanBatch]) -> None:
        """Offer encoded spans for delivery; never waits and never raises."""
        if self.exporter is not None:
            for batch in batches:
                self.exporter.offer(batch)

    def counts(self) -> ExportCounts:
        """Return what became of the spans so far."""
        return ExportCounts(0, {}, 0, 0) if self.exporter is None else self.exporter.counts()

    def close(self, deadline_seconds: float) -> bool:
        """Deliver what waits, at most so long; tell whether all of it was decided. Blocks."""
        return self.exporter is None or self.exporter.close(deadline_seconds)


def configure(
    service_name: str,
    environment: Mapping[str, str],
    *,
    version: str,
    instance_id: str,
    install: bool = True,
) -> Tracing:
    """Make a process's tracing.

    Args:
        service_name: used unless `OTEL_SERVICE_NAME` says otherwise.
        environment: usually `os.environ`.
        version: of this program.
        instance_id: unique among the processes of that name.
        install: make the provider the global one, for libraries that trace by themselves.

    Raises:
        SamplerError: `OTEL_TRACES_SAMPLER` cannot be used.
        ExportSettingsError: another `OTEL_*` variable cannot be used.
    """
    sampler = sampling.from_environment(environment)
    settings = export_settings.from_environment(environment)
    own = {"service.version": version, "service.instance.id": instance_id}
    origin = Origin(_resource(service_name, own, environment), _SCOPE, version)
    exporter = None if settings is None else SpanExporter(settings)
    provider = None
    if exporter is not None:
        # Imported here: the SDK takes longer than everything else of this package together.
        from relay.telemetry.sdk_spans import make_provider  # noqa: PLC0415

        provider = make_provider(origin, sampler, exporter)
        if install:
            trace.set_tracer_provider(provider)
    identities = Identities(sampler, recording=exporter is not None)
    return Tracing(identities, origin, exporter, provider, _value_limit(environment))


def _resource(
    service_name: str, own: Mapping[str, str], environment: Mapping[str, str]
) -> dict[str, AttributeValue]:
    """Describe this process; what the operator says in the environment wins."""
    said = dict(_pairs(environment.get("OTEL_RESOURCE_ATTRIBUTES", "")))
    if name := environment.get("OTEL_SERVICE_NAME", "").strip():
        said["service.name"] = name
    sdk_itself = {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": sdk_version,
    }
    # Trace viewers take two processes of one host to have one clock.
    host = {"host.name": socket.gethostname()}
    return {**sdk_itself, "service.name": service_name, **host, **own, **said}


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    """Read `key=value,key=value` with URL-encoded values, as the SDK does."""
    for pair in text.split(","):
        key, equals, value = pair.partition("=")
        if equals and key.strip():
            yield key.strip(), unquote(value.strip())


def _value_limit(environment: Mapping[str, str]) -> int:
    for name in ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"):
        text = environment.get(name, "").strip()
        if text and not (text.isascii() and text.isdigit()):
            raise export_settings.ExportSettingsError(
                f"{name}={text!r} is not a number of characters"
            )
        if text:
            return int(text)
    return DEFAULT_VALUE_LENGTH_LIMIT
