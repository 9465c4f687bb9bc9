"""The head of a page that takes a while is sent before it is known what the page shows.

Invariant: a browser that opens a page sees after EARLY_SECONDS where it is, and the rest follows in
the same answer, without a script. The head holds the page's address and nothing that was read;
whoever may not look was refused before. Programs, which go by the status, wait for the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from relay.runtime.language import in_language
from relay.runtime.tasks import awaited
from relay.web.people import Person
from relay.web.render import render
from relay.web.site import Site, language_of, page_data

EARLY_SECONDS: Final = 0.05
_CUT: Final = b'<main id="main"'
"""What follows depends on what was read."""
_NAMES: Final[Mapping[str, str]] = {
    "/": "Night",
    "/incidents": "Incidents",
    "/orders": "Orders",
    "/unreturned": "Unreturned",
    "/replays": "Replays",
    "/quarantine": "Quarantine",
    "/checks": "Checks",
    "/probes": "Probes",
    "/reconcile": "Reconcile",
    "/processes": "Processes",
    "/audit": "Audit",
}


async def early(
    site: Site, request: Request, person: Person | None, answering: Coroutine[Any, Any, Response]
) -> Response:
    """Return the answer, or one that begins with the head and goes on with it.

    Args:
        site: what its pages are made with.
        request: what is asked for.
        person: who asks; None: nobody who may look.
        answering: makes the answer; it turns every failure into a page.
    """
    if person is None or not _is_opened(request):
        return await answering
    task = awaited(answering, "page")
    try:
        done, _ = await asyncio.wait({task}, timeout=EARLY_SECONDS)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if done:
        return task.result()
    head = _head(site, request, person)
    return StreamingResponse(_parts(head, task), media_type="text/html; charset=utf-8")


def _is_opened(request: Request) -> bool:
    """Tell whether a browser opens the page: not a program, and no script that swaps a part."""
    return (
        request.method == "GET"
        and "text/html" in request.headers.get("accept", "")
        and "hx-request" not in request.headers
    )


def _head(site: Site, request: Request, person: Person) -> bytes:
    language = language_of(request)
    asked = next(iter(request.path_params.values()), None)
    title = asked or in_language(language, _NAMES.get(request.url.path, "relay"))
    data = {**page_data(site, request, person), "title": title, "away": None, "as_of": None}
    text = render(language, "early.html", data).encode()
    return text.partition(_CUT)[0]


async def _parts(head: bytes, task: asyncio.Task[Response]) -> AsyncIterator[bytes]:
    try:
        yield head
        answer = await task
        _, cut, rest = bytes(answer.body).partition(_CUT)
        yield cut + rest
    finally:
        task.cancel()
