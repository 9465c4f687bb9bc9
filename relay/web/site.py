"""What every page of a site is made with, and how a page is read and shown.

Invariant: a page that cannot be read now is shown as it was last read, under a banner that says
since when and why; where it never was read, the reason alone. Nothing is shown as "none" that was
not looked for.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.gather.logs import LogReading
from relay.diagnose.gather.orders import GatherOptions
from relay.diagnose.session import Session, UnreachableError, session
from relay.runtime.command_line import GlobalOptions
from relay.runtime.database import DATABASE_FAILURES
from relay.runtime.language import LANGUAGES, accepted, preferred
from relay.runtime.migration_files import MigrationError
from relay.runtime.migrations import require_schema
from relay.runtime.settings import Settings
from relay.runtime.settings_web import WebSettings
from relay.web.comparison import Comparison
from relay.web.guard import Forms
from relay.web.oidc import Provider
from relay.web.people import Gate, Person
from relay.web.render import render
from relay.web.snapshot import Watcher

LANGUAGE_COOKIE: Final = "relay_language"
_AT_ONCE: Final = 4
_KEPT: Final = 50
# Somebody waits for the page: a longer scan is the command line's.
SCAN: Final = LogReading(scan_seconds=5.0)


class NotFoundError(Exception):
    """There is no such page, incident, replay or row."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a page shows, and in which template."""

    template: str
    data: Mapping[str, Any]
    status: int = 200


@dataclass(slots=True)
class Site:
    """The page's parts.

    Attributes:
        config: the settings file that was named, for where each setting comes from.
        lose: loses orders at a hop: a demo's, and nobody else's.
        provider: where people log in; None: not elsewhere.
        last: path and query -> when it was last read, and what it showed.
    """

    settings: Settings
    watcher: Watcher
    gate: Gate
    forms: Forms
    environment: Mapping[str, str]
    config: str | None = None
    lose: Callable[[str], Awaitable[None]] | None = None
    provider: Provider | None = None
    comparison: Comparison = field(default_factory=Comparison)
    last: OrderedDict[str, tuple[datetime, Page]] = field(default_factory=OrderedDict)
    _reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    @property
    def web(self) -> WebSettings:
        """The page's own settings."""
        return self.settings.web

    @property
    def options(self) -> GlobalOptions:
        """What the commands that it shows have to say, so that they look where it looks."""
        return GlobalOptions(self.config, self.settings.flow_to_name)

    @property
    def may_act(self) -> bool:
        """Whether there is a login to act with."""
        return self.web.operator_url is not None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Session]:
        """Open a session that only reads; so many at a time.

        Raises:
            UnreachableError, MigrationError: the database is away, or of another version.
        """
        settings = self.settings
        async with (
            self._reading,
            session(
                settings.database.dsn,
                settings.kafka,
                settings.flow,
                GatherOptions(logs=SCAN),
                kept=self.watcher.kept,
            ) as opened,
        ):
            if isinstance(opened.connection, Missing):
                raise UnreachableError(opened.connection.detail)
            await require_schema(opened.connection)
            yield opened

    def keep(self, key: str, page: Page) -> None:
        """Keep what a page showed, for when it cannot be read."""
        self.last[key] = (datetime.now(UTC), page)
        self.last.move_to_end(key)
        while len(self.last) > _KEPT:
            self.last.popitem(last=False)


Read = Callable[[Site, Request], Awaitable[Page]]


def language_of(request: Request) -> str:
    """Return the language that somebody chose, else what the browser asks for."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    if chosen is not None and chosen in LANGUAGES:
        return chosen
    return preferred(accepted(request.headers.get("accept-language", "")))


async def read_page(site: Site, request: Request, read: Read) -> tuple[Page, dict[str, Any]]:
    """Read a page, or return what it showed last, with the banner's facts."""
    key = f"{request.url.path}?{request.url.query}"
    try:
        page = await read(site, request)
    except (*DATABASE_FAILURES, UnreachableError, MigrationError) as error:
        why = str(error) or type(error).__name__
        known = site.last.get(key)
        if known is None:
            return Page("away.html", {}, 503), {"away": why, "as_of": None}
        return known[1], {"away": why, "as_of": known[0]}
    if page.status == 200:  # noqa: PLR2004 - only what was found
        site.keep(key, page)
    return page, {"away": None, "as_of": datetime.now(UTC)}


def respond(
    site: Site, request: Request, page: Page, person: Person | None, facts: Mapping[str, Any]
) -> Response:
    """Show a page to a person."""
    data = {**page_data(site, request, person), **facts, **page.data}
    text = render(language_of(request), page.template, data)
    return HTMLResponse(text, page.status)


def page_data(site: Site, request: Request, person: Person | None) -> dict[str, Any]:
    """Return what every page is drawn with, whatever it shows."""
    return {
        "site": site,
        "person": person,
        "path": request.url.path,
        "night": site.watcher.night,
        "token": lambda act, shown=None: site.forms.token(person, act, shown) if person else "",
        "may_act": site.may_act and person is not None and person.role == "operator",
        "why_not": _why_not(site, person),
        "again": request.query_params.get("again") == "1",
    }


def _why_not(site: Site, person: Person | None) -> str:
    if not site.may_act:
        return "this page only reads: RELAY_WEB_OPERATOR_URL is not set"
    if person is None or person.role != "operator":
        return "your role may look and not act"
    return ""
