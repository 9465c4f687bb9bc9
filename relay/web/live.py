"""What is pushed to whoever has a page open: the time of the last look, and the Night.

Invariant: what is pushed is drawn and encoded once a look, for all who see the same; a viewer costs
one write. One that does not read is dropped by the server's own time. At most VIEWERS are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from relay.web.pages.find import night_data
from relay.web.people import NotAllowedError
from relay.web.render import render
from relay.web.site import Site, language_of
from relay.web.snapshot import VIEWERS

_QUIET_SECONDS: Final = 20.0


@dataclass(slots=True)
class _Pushed:
    """What is pushed in one language.

    Attributes:
        night: as it was at its last change.
        events: those of the last look, by what they tell.
    """

    night: str = ""
    night_looks: int = -1
    night_changes: int = 0
    events: dict[str, bytes] = field(default_factory=dict)


class Fragments:
    """What the last look has to tell, drawn once for each language, and only if it is asked for."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._pushed: dict[str, _Pushed] = {}
        self._looks, self._mark, self._mark_changes = -1, _mark(site), 0

    def list_changes(self, _language: str) -> int:
        """Return how often the lists changed since the start."""
        self._begin_look()
        return self._mark_changes

    def night_changes(self, language: str) -> int:
        """Return how often the Night's picture changed since the start."""
        pushed = self._of(language)
        if pushed.night_looks != self._looks:
            pushed.night_looks = self._looks
            drawn = self._draw("night", language)
            if drawn != pushed.night:
                pushed.night, pushed.night_changes = drawn, pushed.night_changes + 1
        return pushed.night_changes

    def event(self, language: str, what: str) -> bytes:
        """Return the last look's time as an event, with `night`, `changed` or nothing beside it."""
        pushed = self._of(language)
        if what not in pushed.events:
            more = {"night": pushed.night, "changed": "1"}.get(what)
            asof = _event("asof", self._draw("asof", language))
            pushed.events[what] = asof + (b"" if more is None else _event(what, more))
        return pushed.events[what]

    def _of(self, language: str) -> _Pushed:
        self._begin_look()
        return self._pushed.setdefault(language, _Pushed())

    def _begin_look(self) -> None:
        if self._looks == self._site.watcher.looks:
            return
        self._looks = self._site.watcher.looks
        for pushed in self._pushed.values():
            pushed.events = {}
        if self._mark != (now := _mark(self._site)):
            self._mark, self._mark_changes = now, self._mark_changes + 1

    def _draw(self, name: str, language: str) -> str:
        seen = self._site.watcher.night
        data: dict[str, Any] = {
            "site": self._site,
            "away": None,
            "as_of": None,
            **(night_data(self._site, seen) if name == "night" else {"night": seen}),
        }
        return render(language, f"fragments/{name}.html", data)


async def live(site: Site, request: Request, fragments: Fragments, stop: asyncio.Event) -> Response:
    """Push to one viewer until he goes, or the server stops."""
    if site.watcher.viewers >= VIEWERS:
        return PlainTextResponse("too many viewers; the page works without\n", 503)
    wants_night = request.query_params.get("page") == "night"
    language = language_of(request)
    return StreamingResponse(
        _events(site, request, fragments, stop, language, wants_night=wants_night),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def _events(
    site: Site,
    request: Request,
    fragments: Fragments,
    stop: asyncio.Event,
    language: str,
    *,
    wants_night: bool,
) -> AsyncIterator[bytes]:
    watcher = site.watcher
    changes = fragments.night_changes if wants_night else fragments.list_changes
    # The Night is sent once in any case: the page may have been drawn some looks ago.
    seen, known = watcher.looks, 0 if wants_night else changes(language)
    async with watcher.viewer():
        yield b"retry: 5000\n\n"
        while not stop.is_set():
            if not await watcher.next_look(seen, _QUIET_SECONDS):
                yield b": still here\n\n"
                continue
            seen = watcher.looks
            if stop.is_set() or not _may_look(site, request):
                return
            changed = known != (known := changes(language))
            what = ("night" if wants_night else "changed") if changed else "asof"
            yield fragments.event(language, what)


def _may_look(site: Site, request: Request) -> bool:
    """Tell whether the viewer is still somebody: he may have logged out since."""
    try:
        site.gate.person(request)
    except NotAllowedError:
        return False
    return True


def _mark(site: Site) -> Any:
    return None if site.watcher.night is None else site.watcher.night.fingerprint()


def _event(name: str, data: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in data.splitlines())
    return f"event: {name}\n{lines}\n".encode()
