"""Every hop's spans: one request to a collector, over HTTP or gRPC, and what came of it.

Invariant: `send` returns an `Answer` whatever happens on the wire; it decides nothing about another
attempt but says whether one makes sense. It blocks, and belongs into the exporter's thread.

Source: OTLP specification (opentelemetry-proto, docs/specification.md): failures and throttling.
"""

from __future__ import annotations

import gzip
import http.client
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from relay.telemetry.export_settings import ExportSettings, ExportSettingsError

if TYPE_CHECKING:
    import grpc

_RETRYABLE_STATUS: Final = frozenset({429, 502, 503, 504})
_RETRYABLE_CODES: Final = frozenset(
    {
        "CANCELLED",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNAVAILABLE",
        "DATA_LOSS",
    }
)
_ANSWER_BYTES: Final = 64 * 1024
# Level 1 takes spans to about an eighth; level 6 costs three times as much for little more.
_GZIP_LEVEL: Final = 1
_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request.

    Attributes:
        problem: why it was not taken; empty when it was.
        again: whether another attempt makes sense.
        rejected_spans: taken, but for so many spans.
        wait_seconds: how long the collector asked us to wait; 0 when it did not.
    """

    problem: str = ""
    again: bool = False
    rejected_spans: int = 0
    wait_seconds: float = 0.0


class Transport(Protocol):
    """Sends ExportTraceServiceRequests, one at a time."""

    def send(self, request: bytes) -> Answer:
        """Send one and wait for the answer."""
        ...

    def close(self) -> None:
        """Drop the connection."""
        ...


def connect(settings: ExportSettings) -> Transport:
    """Prepare the transport that the settings name; nothing is sent yet.

    Raises:
        ExportSettingsError: a certificate or a key cannot be read.
    """
    try:
        return GrpcTransport(settings) if settings.protocol == "grpc" else HttpTransport(settings)
    except OSError as error:
        named = ", ".join(
            file
            for file in (
                settings.ca_file,
                settings.client_certificate_file,
                settings.client_key_file,
            )
            if file is not None
        )
        raise ExportSettingsError(
            f"OTEL_EXPORTER_OTLP_CERTIFICATE or its client variables ({named}): {error}"
        ) from error


class HttpTransport:
    """OTLP over HTTP/1.1, on one connection that is kept open."""

    def __init__(self, settings: ExportSettings) -> None:
        url = urlsplit(settings.endpoint)
        self._settings = settings
        self._target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._headers = {**settings.headers, "content-type": "application/x-protobuf"}
        if settings.gzip:
            self._headers["content-encoding"] = "gzip"
        self._connection = _http_connection(settings, url.hostname or "", url.port)

    def send(self, request: bytes) -> Answer:
        """Post it; a kept connection that turns out closed is opened once more."""
        body = gzip.compress(request, _GZIP_LEVEL) if self._settings.gzip else request
        kept = self._connection.sock is not None
        try:
            try:
                return self._post(body)
            except (ConnectionError, http.client.BadStatusLine):
                self._connection.close()
                if not kept:
                    raise
                return self._post(body)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return Answer(_described(error), again=True)

    def _post(self, body: bytes) -> Answer:
        self._connection.request("POST", self._target, body, self._headers)
        response = self._connection.getresponse()
        content = response.read(_ANSWER_BYTES)
        if not response.isclosed():
            self._connection.close()
        if 200 <= response.status < 300:  # noqa: PLR2004 - success, RFC 9110
            return _taken(content)
        problem = f"HTTP {response.status} {response.reason}"
        again = response.status in _RETRYABLE_STATUS
        return Answer(problem, again, wait_seconds=_retry_after(response.getheader("retry-after")))

    def close(self) -> None:
        """Drop the connection."""
        self._connection.close()


def _http_connection(
    settings: ExportSettings, host: str, port: int | None
) -> http.client.HTTPConnection:
    timeout = settings.timeout_seconds
    if not settings.secure:
        return http.client.HTTPConnection(host, port, timeout=timeout)
    context = ssl.create_default_context(cafile=settings.ca_file)
    if settings.client_certificate_file:
        context.load_cert_chain(settings.client_certificate_file, settings.client_key_file)
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)


def _described(error: Exception) -> str:
    return str(error) or type(error).__name__


def _retry_after(value: str | None) -> float:
    """Read Retry-After in seconds; a date (RFC 9110 allows one) counts as not asked."""
    return float(value) if value and value.isascii() and value.isdigit() else 0.0


def _taken(content: bytes) -> Answer:
    """Read the partial success of an answer; one that cannot be read took everything."""
    if not content:
        return Answer()
    # Imported here: protobuf takes 0.2 s, and a collector that takes everything answers nothing.
    from google.protobuf.message import DecodeError  # noqa: PLC0415
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415
        ExportTraceServiceResponse,
    )

    try:
        answer = ExportTraceServiceResponse.FromString(content)
    except DecodeError:
        return Answer()
    return Answer(rejected_spans=max(0, answer.partial_success.rejected_spans))


class GrpcTransport:
    """OTLP over gRPC: the same bytes, handed through as they are."""

    def __init__(self, settings: ExportSettings) -> None:
        # Imported here: it takes 20 MB and 0.2 s that a process without it need not pay.
        import grpc  # noqa: PLC0415

        self._settings = settings
        self._metadata = tuple(settings.headers.items())
        compression = grpc.Compression.Gzip if settings.gzip else grpc.Compression.NoCompression
        self._failure: type[Exception] = grpc.RpcError
        self._channel = _grpc_channel(settings, compression)
        self._export: Any = self._channel.unary_unary(_METHOD)

    def send(self, request: bytes) -> Answer:
        """Call Export once."""
        timeout = self._settings.timeout_seconds
        try:
            return _taken(self._export(request, timeout=timeout, metadata=self._metadata))
        except self._failure as error:
            code = error.code().name  # type: ignore[attr-defined]
            details = error.details()  # type: ignore[attr-defined]
            return Answer(f"gRPC {code}: {details}", again=code in _RETRYABLE_CODES)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def _grpc_channel(settings: ExportSettings, compression: grpc.Compression) -> grpc.Channel:
    import grpc  # noqa: PLC0415

    target = urlsplit(settings.endpoint).netloc
    if not settings.secure:
        return grpc.insecure_channel(target, compression=compression)
    credentials = grpc.ssl_channel_credentials(
        *map(_file, (settings.ca_file, settings.client_key_file, settings.client_certificate_file))
    )
    return grpc.secure_channel(target, credentials, compression=compression)


def _file(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()
