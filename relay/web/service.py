"""The page as a service: from start to drain.

Invariant: it works, and says so, with the database or Kafka away; asked to stop it ends what is
pushed, finishes what it began within a time, and leaves no task behind.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from relay.runtime.flow_record import as_recorded
from relay.runtime.heartbeat import Heartbeat
from relay.runtime.http_server import listener, serve_application
from relay.runtime.outage import OutageLog
from relay.runtime.process import ProcessRecord
from relay.runtime.settings import Settings
from relay.runtime.tasks import background, end
from relay.telemetry.metrics import Metrics
from relay.web.acts import Acts
from relay.web.app import application
from relay.web.guard import Forms
from relay.web.oidc import Provider
from relay.web.people import Gate
from relay.web.site import Site
from relay.web.snapshot import Watcher

_LOG: Final = structlog.get_logger("relay.web")
_DRAIN_SECONDS: Final = 5.0
_HOW: Final = "choose another port: RELAY_WEB_PORT, or web.port in the file (0: any free one)"


@dataclass(slots=True)
class WebService:
    """The operator's page, with a process record of its own where it may act."""

    settings: Settings
    stop: asyncio.Event
    environment: Mapping[str, str]
    metrics: Metrics | None = None
    config: str | None = None
    process: ProcessRecord = field(default_factory=lambda: ProcessRecord("web"))
    site: Site = field(init=False)
    url: str | None = None
    listening: Callable[[str], None] = lambda _url: None

    def __post_init__(self) -> None:
        key = secrets.token_urlsafe(32)
        web = self.settings.web
        flow = self.settings.flow
        self.process.flow = as_recorded(flow)
        # Each look asks for the flow several times: it is judged once.
        settings = self.settings.going_by(flow)
        self.site = Site(
            settings,
            Watcher(settings, web.poll_seconds),
            Gate(web),
            Forms(key),
            self.environment,
            self.config,
            provider=Provider(web, key) if web.auth == "oidc" else None,
        )

    @property
    def state(self) -> str:
        """What it is doing."""
        return "starting" if self.url is None else "serving"

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self.url is not None

    @property
    def waiting_for(self) -> str | None:
        """What it cannot show everything without."""
        night = self.site.watcher.night
        return "database" if night is not None and night.away else None

    def detail(self) -> Mapping[str, Any]:
        """What `relay status` shows of it."""
        return {"state": self.state, "viewers": self.site.watcher.viewers, "url": self.url}

    async def run(self) -> None:
        """Serve until told to stop.

        Raises:
            ListenError: the port cannot be had.
        """
        web, beat = self.settings.web, self._heartbeat()
        with listener(web.host, web.port, _HOW) as opened:
            if beat is None:
                await self._serve(opened)
            else:
                await beat.beside(lambda: self._serve(opened), self.stop)

    async def _serve(self, opened: socket.socket) -> None:
        acts = Acts(self.site, self.stop)
        watching = background(self.site.watcher.run(self.stop), "watcher")
        try:
            await serve_application(
                application(self.site, self.stop, acts),
                opened,
                self.stop,
                self._listening,
                drain_seconds=_DRAIN_SECONDS,
            )
        finally:
            await acts.end()
            await self.site.comparison.end()
            await end(watching)

    def _listening(self, url: str) -> None:
        self.url = url
        self.listening(url)
        acts = "acts" if self.site.may_act else "only reads"
        _LOG.info("page_ready", url=url, auth=self.settings.web.auth, acts=acts)

    def _heartbeat(self) -> Heartbeat | None:
        """An observer may not write that it lives; an operator may."""
        operator = self.settings.web.operator_url
        if operator is None:
            return None
        dsn = operator.get_secret_value()
        return Heartbeat(dsn, self.process, OutageLog(self.process), detail=self.detail)
