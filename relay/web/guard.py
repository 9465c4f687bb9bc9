"""What every request and every answer of the page has to meet.

Invariant: no page can be framed, run a script of others, or be read under another host's name; a
POST comes from one of our own forms, drawn for the same person not long ago. Requests are small.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from itsdangerous import BadData, SignatureExpired, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.runtime.settings_web import WebSettings, is_loopback
from relay.web.people import NotAllowedError, Person

BODY_BYTES: Final = 256 * 1024
BODY_SECONDS: Final = 10.0
"""A form has to be here in so many seconds from its head on."""
FORM_SECONDS: Final = 600
"""A form is good for so long: what it shows is too old afterwards."""

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final[Sequence[tuple[bytes, bytes]]] = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)


@dataclass(frozen=True, slots=True)
class WithHeaders:
    """Adds the headers to every answer, an error's too; nothing is kept by caches but files."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message["headers"])
                if not any(name == b"cache-control" for name, _value in headers):
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*headers, *_HEADERS]}
            await send(message)

        await self.app(scope, receive, with_headers)


def require_host(request: Request, settings: WebSettings) -> None:
    """Refuse another host's name: a page elsewhere that points its own name here (DNS rebinding).

    Raises:
        NotAllowedError: the name is none of ours.
    """
    try:
        name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        name = ""
    public = urlsplit(settings.public_url).hostname if settings.public_url else None
    # Behind a proxy or a password the name is anybody's choice, unless the settings say it.
    if name == public or is_loopback(name) or (public is None and settings.auth != "none"):
        return
    raise NotAllowedError("unknown host: set web.public_url to the page's address", status=421)


def require_own_origin(request: Request, settings: WebSettings) -> None:
    """Refuse a POST of another site.

    Raises:
        NotAllowedError: it does not come from one of our pages.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        raise NotAllowedError("this came from another site")
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    public = settings.public_url.rstrip("/") if settings.public_url else None
    if origin is None or (origin != public and urlsplit(origin).netloc != host):
        raise NotAllowedError("this came from another site, or from a program without Origin")


@dataclass(frozen=True, slots=True)
class Form:
    """What a form was drawn with, and what was filled in.

    Attributes:
        act: what is to be done, with its subject: `close I-17`.
        once: this drawing of the form: it is done once, however often it is sent.
        shown: what the page showed when it was drawn.
    """

    act: str
    once: str
    shown: Mapping[str, Any]
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Forms:
    """Draws and reads the hidden field of every form."""

    key: str

    def token(self, person: Person, act: str, shown: Mapping[str, Any] | None = None) -> str:
        """Return the hidden field of a form."""
        data = {"who": person.name, "act": act, "once": secrets.token_urlsafe(12)}
        return str(self._signer().dumps({**data, "shown": dict(shown or {})}))

    def read(self, person: Person, act: str, fields: Mapping[str, str]) -> Form:
        """Return a form that was sent.

        Raises:
            NotAllowedError: it is not one of ours, not this person's, for another act, or too old.
        """
        try:
            data = self._signer().loads(fields.get("token", ""), max_age=FORM_SECONDS)
        except SignatureExpired:
            raise NotAllowedError(
                "this page is older than ten minutes: reload it, look again, and decide",
                status=409,
            ) from None
        except BadData:
            raise NotAllowedError("this form is not one of this page's") from None
        if data["who"] != person.name or data["act"] != act:
            raise NotAllowedError("this form was drawn for somebody, or something, else")
        return Form(act, data["once"], data["shown"], fields)

    def _signer(self) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self.key, salt="relay-form")


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            raise NotAllowedError("this form is too large", status=413)
    return bytes(body)


async def read_fields(request: Request) -> dict[str, str]:
    """Read a form's fields, each once.

    Raises:
        NotAllowedError: it is too large, takes longer than BODY_SECONDS, or is no form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise NotAllowedError("this is no form", status=415)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await _read_body(request)
    except TimeoutError:
        raise NotAllowedError("this form took too long to come", status=408) from None
    try:
        found = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=2000)
    except ValueError:
        raise NotAllowedError("this form cannot be read", status=400) from None
    return {name: "\n".join(values) for name, values in found.items()}
