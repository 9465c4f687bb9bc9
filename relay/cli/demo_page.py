"""Setup: the operator's page of `relay demo --web`, with a button that loses orders.

Invariant: the button exists nowhere else: the page itself has none, the demo gives it one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import click

from relay.cli.demo_text import lines
from relay.diagnose.verdicts import Hop
from relay.runtime.settings import load_settings
from relay.sample.demo import Standing
from relay.sample.demo_mishaps import lose_at
from relay.web.service import WebService

LOST_AT_ONCE: Final = 20


@dataclass(slots=True)
class DemoPage:
    """Shows the demo's summary, then serves the page until the demo is told to stop."""

    stop: asyncio.Event
    trace_url: str | None
    shown: bool = False

    async def serve(self, standing: Standing) -> None:
        """Serve; returns when the demo is told to stop."""
        url = standing.settings.database.dsn
        environment = {
            **standing.environment,
            "RELAY_WEB_PORT": "0",
            "RELAY_WEB_OPERATOR_URL": url or "",
            **({"RELAY_TRACE_URL": self.trace_url} if self.trace_url else {}),
        }
        settings = load_settings("/dev/null", environment)
        service = WebService(settings, self.stop, environment)

        async def lose(hop: str) -> None:
            await lose_at(url, Hop(hop), LOST_AT_ONCE)

        service.site.lose = lose
        service.listening = self._show_address
        click.echo("\n".join(lines(standing.result, self.trace_url)))
        self.shown = True
        await service.run()

    def _show_address(self, url: str) -> None:
        click.echo(f"\nThe operator's page: {url}   (Ctrl-C ends everything)", err=True)
