"""What is pushed to whoever has a page open: the time of the last look, and the Night.

Invariant: a fragment is drawn once for each language and sent to all; a viewer that does not read
is dropped by the server's own time. At most VIEWERS are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from relay.web.pages.find import night_data
from relay.web.people import NotAllowedError
from relay.web.render import render
from relay.web.site import Site, language_of
from relay.web.snapshot import VIEWERS

_QUIET_SECONDS: Final = 20.0


class Fragments:
    """The drawn fragments of the last look, by name and language."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._looks = -1
        self._drawn: dict[tuple[str, str], str] = {}

    def get(self, name: str, language: str) -> str:
        """Return a fragment of the last look."""
        if self._looks != self._site.watcher.looks:
            self._looks, self._drawn = self._site.watcher.looks, {}
        key = name, language
        if key not in self._drawn:
            data: dict[str, Any] = {
                "site": self._site,
                **night_data(self._site, self._site.watcher.night),
            }
            self._drawn[key] = render(
                language, f"fragments/{name}.html", {"away": None, "as_of": None, **data}
            )
        return self._drawn[key]


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
    seen, mark, shown = watcher.looks, _mark(site), ""
    async with watcher.viewer():
        yield b"retry: 5000\n\n"
        while not stop.is_set():
            if not await watcher.next_look(seen, _QUIET_SECONDS):
                yield b": still here\n\n"
                continue
            seen = watcher.looks
            if stop.is_set() or not _may_look(site, request):
                return
            yield _event("asof", fragments.get("asof", language))
            if wants_night:
                drawn = fragments.get("night", language)
                if drawn != shown:
                    shown = drawn
                    yield _event("night", drawn)
            elif mark != (now := _mark(site)):
                mark = now
                yield _event("changed", "1")


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
