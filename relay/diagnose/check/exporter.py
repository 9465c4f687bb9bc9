"""Whether the collector takes spans: an empty request, which stores nothing.

Invariant: bounded in time; nothing here raises for what the collector does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

from relay.diagnose.check.result import Result, ok, warning
from relay.telemetry.export_settings import ExportSettingsError, from_environment

_SECONDS = 3.0


async def check_exporter(environment: Mapping[str, str]) -> Result:
    """Connect to where `OTEL_*` says that spans go."""
    name = "traces.exporter"
    try:
        settings = from_environment(environment)
    except ExportSettingsError as error:
        return warning(name, str(error), "correct the variable; until then no service starts")
    if settings is None:
        return ok(name, "off: no OTEL_EXPORTER_OTLP_ENDPOINT")
    url = urlsplit(settings.endpoint)
    port = url.port or (443 if settings.secure else 80)
    where = f"{url.hostname}:{port}"
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(url.hostname, port)
        writer.close()
    except (OSError, TimeoutError) as error:
        return warning(
            name,
            f"{where} does not answer ({str(error) or 'timed out'}): spans are dropped and counted",
            "start the collector, or correct OTEL_EXPORTER_OTLP_ENDPOINT",
        )
    return ok(name, f"{where} answers ({settings.protocol})")
