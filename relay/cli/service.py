"""Hops 2 and 5: what every service needs context it: logs, traces, metrics, health, signals.

Invariant: settings are read and judged before anything is connected; SIGTERM drains and ends with
0; the last spans are delivered, within seconds. A service that cannot work ends with the reason.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import click
import structlog
import uvloop

from relay.cli.errors import FAILURE, Found, as_data
from relay.cli.output import typed
from relay.runtime.heartbeat import stop_reason
from relay.runtime.memory import share_freed_memory
from relay.runtime.process import instance_name, program_version
from relay.runtime.settings import Settings
from relay.runtime.settings_model import MetricsSettings
from relay.runtime.settings_origin import settings_with_origin
from relay.runtime.shutdown import stop_on_signals
from relay.runtime.tasks import log_unobserved
from relay.telemetry import logs
from relay.telemetry.endpoint import EndpointError, Health, serving
from relay.telemetry.metrics import Metrics
from relay.telemetry.tracing import Tracing, configure

SPANS_DEADLINE_SECONDS = 5.0

_LOG = structlog.get_logger("relay")


class Service(Protocol):
    """What a service shows of itself."""

    @property
    def state(self) -> str:
        """Return what it is doing, in a word."""
        ...

    @property
    def ready(self) -> bool:
        """Tell whether it does its work now, or stands by for another that does."""
        ...

    @property
    def waiting_for(self) -> str | None:
        """Return what it cannot go on without."""
        ...

    def detail(self) -> Mapping[str, Any]:
        """Return what it does, for people."""
        ...

    async def run(self) -> None:
        """Work until told to stop."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """What a service is made with."""

    settings: Settings
    tracing: Tracing
    metrics: Metrics
    stop: asyncio.Event


@contextmanager
def logged() -> Iterator[None]:
    """Let a service's last words be a line of its log, too.

    Whoever reads a JSON log can read each of its lines. In the text format an error is said as by
    every command. What is wrong with the command line itself is said before there is a log.
    """
    # Until the settings are read, by the environment alone.
    log_format: logs.Format = "text" if os.environ.get("RELAY_LOG_FORMAT") == "text" else "json"
    configure_logs("info", log_format)
    try:
        yield
    except (click.ClickException, Found):
        raise
    except Exception as error:
        if logs.is_text():
            raise
        data = as_data(error)
        _LOG.critical(
            "fatal",
            code=data["code"],
            error=data["message"],
            details=dict(data["details"]),
            hint=typed(str(hint)) if (hint := getattr(error, "hint", None)) else None,
            exc_info=error if os.environ.get("RELAY_TRACEBACK") else None,
        )
        sys.exit(FAILURE)


def configure_logs(level: str, log_format: logs.Format) -> None:
    """Send a service's logs to stderr, each line of JSON with the instance and the version."""
    always = {"instance": instance_name(), "version": program_version()}
    logs.configure(level, log_format, environment=os.environ, always=always)


def log_as_service(kind: str, settings: Settings) -> None:
    """Send this process's logs where the settings say; the first line says with which it starts."""
    configure_logs(settings.log.level, settings.log.format)
    config = click.get_current_context().find_root().obj["config"]
    _LOG.info("starting", kind=kind, settings=settings_with_origin(config))


def serve(
    kind: str, settings: Settings, default_port: int, build: Callable[[ServiceContext], Service]
) -> None:
    """Run a service until it is told to stop.

    Args:
        kind: of the process: `relay`, `confirm`, ...; its traces' service name is `relay-KIND`.
        settings: judged already.
        default_port: of /metrics, /livez and /readyz.
        build: makes the service.
    """
    began = time.monotonic()
    share_freed_memory()
    log_as_service(kind, settings)
    name = kind if kind.startswith("relay") else f"relay-{kind}"
    tracing = configure(name, os.environ, version=program_version(), instance_id=instance_name())
    metrics = Metrics(kind, program_version(), tracing.counts)
    try:
        reason = uvloop.run(_serve(settings, tracing, metrics, default_port, build))
    finally:
        tracing.close(SPANS_DEADLINE_SECONDS)
    _LOG.info("stopped", kind=kind, reason=reason, ran_seconds=round(time.monotonic() - began, 3))


async def _serve(
    settings: Settings,
    tracing: Tracing,
    metrics: Metrics,
    default_port: int,
    build: Callable[[ServiceContext], Service],
) -> str:
    log_unobserved(asyncio.get_running_loop())
    with stop_on_signals() as stop:
        service = build(ServiceContext(settings, tracing, metrics, stop))
        async with _endpoint(settings.metrics, default_port, metrics, service):
            await service.run()
        return stop_reason(stop)


@asynccontextmanager
async def _endpoint(
    wanted: MetricsSettings, default_port: int, metrics: Metrics, service: Service
) -> AsyncIterator[None]:
    if not wanted.enabled:
        yield
        return
    health = (lambda: alive(service), lambda: readiness(service))
    async with AsyncExitStack() as stack:
        port = default_port if wanted.port is None else wanted.port
        try:
            found = await stack.enter_async_context(
                serving(wanted.host, port, metrics.registry, *health)
            )
        except EndpointError:
            if wanted.port is not None:
                raise
            # Nobody asked for that port: a second relay on this machine, a standby, takes another.
            found = await stack.enter_async_context(
                serving(wanted.host, 0, metrics.registry, *health)
            )
        _LOG.info("listening", host=wanted.host, port=found)
        yield


def alive(service: Service) -> Health:
    """Say whether its work's loop turns; that the event loop does, the answer itself says.

    A service without a loop of its own (it only answers requests) is alive when it answers.
    """
    checks = {"state": service.state}
    stalled: float | None = getattr(service, "stalled_seconds", None)
    if stalled is not None:
        checks["stalled"] = f"no progress for {stalled:.0f} s"
    return Health(stalled is None, checks)


def readiness(service: Service) -> Health:
    """Say whether it does its work, or stands by for another that does."""
    checks = {"state": service.state}
    if service.waiting_for:
        checks["waiting_for"] = service.waiting_for
    return Health(service.ready, checks)
