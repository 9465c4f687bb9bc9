"""Every hop's spans: where they are sent, by the standard `OTEL_*` variables.

Invariant: with nothing configured, nothing is sent: a machine without a collector must not log its
absence for ever. `OTEL_EXPORTER_OTLP_ENDPOINT` (or the one for traces) turns exporting on, and so
does `OTEL_TRACES_EXPORTER=otlp`, to the default address; `OTEL_SDK_DISABLED=true` and
`OTEL_TRACES_EXPORTER=none` turn it off. A value that cannot be used is an error at start that names
the variable.

Source: OpenTelemetry specification, protocol/exporter.md and sdk-environment-variables.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

_PREFIX: Final = "OTEL_EXPORTER_OTLP_"
_TRACES_PATH: Final = "/v1/traces"
_DEFAULT_PORTS: Final = {"http/protobuf": 4318, "grpc": 4317}
_DEFAULT_TIMEOUT_SECONDS: Final = 10.0
# The specification counts milliseconds, Python's SDK seconds: no one means 1000 seconds.
_FIRST_MILLISECONDS: Final = 1000.0


class ExportSettingsError(ValueError):
    """An `OTEL_*` variable cannot be used: correct it or unset it."""


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """Where and how spans are sent.

    Attributes:
        endpoint: URL; for HTTP with its path.
        protocol: OTLP over HTTP or gRPC.
        headers: sent with every request; they may hold secrets and are never printed.
        timeout_seconds: for one request.
        gzip: whether requests are compressed.
        ca_file: certificates to trust, in PEM.
        client_certificate_file: with `client_key_file`, who we are (mTLS), in PEM.
    """

    endpoint: str
    protocol: Literal["http/protobuf", "grpc"] = "http/protobuf"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: float = _DEFAULT_TIMEOUT_SECONDS
    gzip: bool = False
    ca_file: str | None = None
    client_certificate_file: str | None = None
    client_key_file: str | None = None

    @property
    def secure(self) -> bool:
        """Whether the connection is TLS."""
        return urlsplit(self.endpoint).scheme == "https"


def from_environment(environment: Mapping[str, str]) -> ExportSettings | None:
    """Read the standard variables; None when nothing is to be sent.

    Raises:
        ExportSettingsError: a variable holds something that cannot be used.
    """
    if not _wanted(environment):
        return None
    protocol = _protocol(environment)
    return ExportSettings(
        endpoint=_endpoint(environment, protocol),
        protocol=protocol,
        headers=_headers(_read(environment, "HEADERS")),
        timeout_seconds=_timeout_seconds(_read(environment, "TIMEOUT")),
        gzip=_gzip(_read(environment, "COMPRESSION")),
        ca_file=_read(environment, "CERTIFICATE") or None,
        client_certificate_file=_read(environment, "CLIENT_CERTIFICATE") or None,
        client_key_file=_read(environment, "CLIENT_KEY") or None,
    )


def _read(environment: Mapping[str, str], name: str) -> str:
    """Read a variable's value for traces, else its value for every signal, else nothing."""
    own = environment.get(f"{_PREFIX}TRACES_{name}", "").strip()
    return own or environment.get(_PREFIX + name, "").strip()


def _wanted(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter not in ("", "otlp", "none"):
        raise ExportSettingsError(
            f"OTEL_TRACES_EXPORTER={exporter!r}: only otlp and none are known"
        )
    if not exporter:
        return bool(_read(environment, "ENDPOINT"))
    return exporter == "otlp"


def _protocol(environment: Mapping[str, str]) -> Literal["http/protobuf", "grpc"]:
    match _read(environment, "PROTOCOL").lower():
        case "" | "http/protobuf":
            return "http/protobuf"
        case "grpc":
            return "grpc"
        case other:
            raise ExportSettingsError(
                f"OTEL_EXPORTER_OTLP_PROTOCOL={other!r}: only http/protobuf and grpc are known"
            )


def _endpoint(environment: Mapping[str, str], protocol: str) -> str:
    own = environment.get(f"{_PREFIX}TRACES_ENDPOINT", "").strip()
    given = own or environment.get(f"{_PREFIX}ENDPOINT", "").strip()
    url = given or f"http://localhost:{_DEFAULT_PORTS[protocol]}"
    if protocol == "grpc" and "://" not in url:
        insecure = _read(environment, "INSECURE").lower() == "true"
        url = f"{'http' if insecure else 'https'}://{url}"
    _check_url(url)
    if protocol == "grpc" or own:
        return url
    return url.rstrip("/") + _TRACES_PATH


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ExportSettingsError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT={url!r} is not a URL such as http://localhost:4318"
        )


def _headers(value: str) -> dict[str, str]:
    """Read `name=value,name=value`, values URL-encoded. A malformed one is named, never printed."""
    headers = {}
    for number, pair in enumerate(filter(None, map(str.strip, value.split(","))), 1):
        name, equals, text = pair.partition("=")
        name, text = unquote(name).strip().lower(), unquote(text).strip()
        plain = (name + text).isascii() and (name + text).isprintable()
        if not (equals and name and plain) or " " in name:
            raise ExportSettingsError(
                f"OTEL_EXPORTER_OTLP_HEADERS: entry {number} is not name=value (URL-encoded)"
            )
        headers[name] = text
    return headers


def _timeout_seconds(value: str) -> float:
    try:
        timeout = float(value) if value else _DEFAULT_TIMEOUT_SECONDS
    except ValueError:
        timeout = 0.0
    if not 0 < timeout < float("inf"):
        raise ExportSettingsError(f"OTEL_EXPORTER_OTLP_TIMEOUT={value!r} is not a time above 0")
    return timeout if timeout < _FIRST_MILLISECONDS else timeout / 1000


def _gzip(value: str) -> bool:
    if value.lower() not in ("", "none", "gzip"):
        raise ExportSettingsError(
            f"OTEL_EXPORTER_OTLP_COMPRESSION={value!r}: only none and gzip are known"
        )
    return value.lower() == "gzip"
