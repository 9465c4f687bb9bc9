"""Every hop: one GET of somebody's REST interface, with the login that the URL holds.

Invariant: reads only, within seconds and a bounded size; the login is in no error.
"""

from __future__ import annotations

import base64
import http.client
import ssl
from typing import Final
from urllib.parse import unquote, urlsplit

REST_FAILURES: Final = (OSError, http.client.HTTPException, ValueError)
"""How a request fails: no answer, no HTTP, an address that is none."""

_SECONDS: Final = 2.0
_LARGEST_ANSWER: Final = 1_000_000


def get(
    url: str, path: str, *, accept: str = "application/json", ca_location: str | None = None
) -> tuple[int, bytes]:
    """Return status and body of what stands under a path.

    Args:
        url: with user and password in it where they are asked for.
        path: behind the URL's own, beginning with a slash.
        accept: the media type.
        ca_location: certificates to trust, for https; None: the system's.

    Raises:
        REST_FAILURES: there was no answer.
    """
    connection = _connection(url, ca_location)
    parts, headers = urlsplit(url), {"Accept": accept}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    try:
        connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(_LARGEST_ANSWER)
    finally:
        connection.close()


def _connection(url: str, ca_location: str | None) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    if parts.scheme != "https":
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_SECONDS)
    trusted = ssl.create_default_context(cafile=ca_location)
    return http.client.HTTPSConnection(
        parts.hostname or "", parts.port, timeout=_SECONDS, context=trusted
    )


def without_login(url: str) -> str:
    """Return an address for people."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
