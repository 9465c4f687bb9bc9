"""Every hop's rare spans: the OpenTelemetry SDK, with our exporter behind it.

Invariant: imported only where spans are exported; a span that ended waits for nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import sampling as sdk

from relay.telemetry.exporter import SpanExporter
from relay.telemetry.otlp import Origin
from relay.telemetry.sampling import Sampler

# What a span is counted as while it waits to be encoded.
_SPAN_BYTES: Final = 2048


def make_provider(origin: Origin, sampler: Sampler, exporter: SpanExporter) -> TracerProvider:
    """Make a provider whose spans leave by `exporter`, sampled as the per-event ones are."""
    provider = TracerProvider(
        sampler=_sdk_sampler(sampler),
        resource=Resource(dict(origin.resource)),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(_Offering(exporter))
    return provider


def _sdk_sampler(sampler: Sampler) -> sdk.Sampler:
    root: sdk.Sampler = sdk.TraceIdRatioBased(sampler.ratio)
    if sampler.ratio in (0, 1):
        root = sdk.ALWAYS_ON if sampler.ratio else sdk.ALWAYS_OFF
    return sdk.ParentBased(root) if sampler.parent_based else root


@dataclass(frozen=True, slots=True)
class _SdkSpan:
    """An ended span of the SDK, encoded (some 50 us) in the exporter's thread."""

    span: ReadableSpan
    spans: int = 1
    size_bytes: int = _SPAN_BYTES

    @property
    def request(self) -> bytes:
        # Imported here: it takes 0.2 s that a process without spans of the SDK need not pay.
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import (  # noqa: PLC0415
            encode_spans,
        )

        encoded: bytes = encode_spans([self.span]).SerializeToString()
        return encoded


class _Offering(SpanProcessor):
    """Hands ended spans to the exporter; the SDK's batch processor drops them in silence."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing to do before a span ends."""

    def on_end(self, span: ReadableSpan) -> None:
        """Offer it, if it was sampled."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._exporter.offer(_SdkSpan(span))

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Wait until everything offered is decided. Blocks."""
        return self._exporter.flush(timeout_millis / 1000)
