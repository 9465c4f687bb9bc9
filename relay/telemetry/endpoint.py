"""Every hop's HTTP port: `/metrics`, `/livez`, `/readyz`, answered by the process's own event loop.

Invariant: an answer means that the loop turns: a process that hangs does not answer, and its
supervisor notices. Only GET and HEAD are known, requests are small and short-lived, and a client
that misbehaves is hung up on: a probe is answered beside any number of connections that say nothing
(when there are too many, the one that has been silent for longest goes). A port that cannot be had
is an error at start that says which.

`/livez` (and `/healthz`) fails when a restart would help: the process makes no progress. `/readyz`
fails while its work cannot be done: a relay without its broker is alive and not ready.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from relay.runtime.tasks import background

_REQUEST_BYTES: Final = 16 * 1024
_REQUEST_SECONDS: Final = 5.0
_BACKLOG: Final = 1024
_CLIENTS: Final = 128


class EndpointError(Exception):
    """The HTTP port cannot be had; choose another one, or none, in the settings `metrics`."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether all is well, and what was looked at.

    Attributes:
        checks: name of each thing looked at, and how it is; shown, so without secrets.
    """

    ok: bool
    checks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Routes:
    registry: CollectorRegistry
    live: Callable[[], Health]
    ready: Callable[[], Health]

    def answer(self, path: str, accept: str) -> tuple[HTTPStatus, str, bytes]:
        match path:
            case "/metrics":
                # OpenMetrics for who asks for it: the older format has no exemplars.
                encode, content_type = choose_encoder(accept)
                return HTTPStatus.OK, content_type, encode(self.registry)
            case "/livez" | "/healthz":
                return _health(self.live())
            case "/readyz":
                return _health(self.ready())
            case _:
                return HTTPStatus.NOT_FOUND, "text/plain", b"/metrics /livez /readyz\n"


def _health(health: Health) -> tuple[HTTPStatus, str, bytes]:
    status = HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE
    body = {"status": "ok" if health.ok else "unavailable", "checks": dict(health.checks)}
    return status, "application/json", json.dumps(body).encode() + b"\n"


@asynccontextmanager
async def serving(
    host: str,
    port: int,
    registry: CollectorRegistry,
    live: Callable[[], Health],
    ready: Callable[[], Health],
) -> AsyncIterator[int]:
    """Serve while the block runs; yields the port, which the system chose if `port` is 0.

    Args:
        host: address to listen on.
        port: TCP port.
        registry: of `Metrics`.
        live: whether the process makes progress; called at each request, must not block.
        ready: whether it can do its work; the same.

    Raises:
        EndpointError: the address or the port cannot be had.
    """
    clients: dict[asyncio.Task[None], None] = {}  # the oldest first
    routes = _Routes(registry, live, ready)

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(clients) >= _CLIENTS:
            # A probe asks at once and is gone within its turn: the oldest is none.
            oldest = next(iter(clients))
            del clients[oldest]
            oldest.cancel()
        task = background(_converse(routes, reader, writer), "http request")
        clients[task] = None
        task.add_done_callback(lambda ended: clients.pop(ended, None))

    server = await _listening(connected, host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def _listening(
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None], host: str, port: int
) -> asyncio.Server:
    try:
        server = await asyncio.start_server(
            connected, host, port, limit=_REQUEST_BYTES, backlog=_BACKLOG
        )
    except OSError as error:
        raise _cannot_listen(host, port, error.strerror or str(error)) from error
    if None in server.sockets:
        # uvloop says nothing where another process began to listen between bind and listen.
        server.close()
        raise _cannot_listen(host, port, "somebody else was quicker")
    return server


def _cannot_listen(host: str, port: int, why: str) -> EndpointError:
    return EndpointError(
        f"cannot listen on {host}:{port} for /metrics ({why}): choose another RELAY_METRICS_PORT,"
        " or turn it off with RELAY_METRICS_ENABLED=false"
    )


async def _converse(
    routes: _Routes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer one request and hang up."""
    try:
        async with asyncio.timeout(_REQUEST_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(_response(routes, head))
            await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # the client is gone, slow or no HTTP client: nobody is left to be told
    finally:
        writer.close()


def _response(routes: _Routes, head: bytes) -> bytes:
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):  # noqa: PLR2004 - RFC 9112
        return _encoded(HTTPStatus.BAD_REQUEST, "text/plain", b"not HTTP/1\n", body=True)
    if words[0] not in (b"GET", b"HEAD"):
        return _encoded(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"GET only\n", body=True)
    path = words[1].split(b"?", 1)[0].decode("latin-1")
    return _encoded(*routes.answer(path, _accept(head)), body=words[0] == b"GET")


def _accept(head: bytes) -> str:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"accept":
            return value.strip().decode("latin-1")
    return ""


def _encoded(status: HTTPStatus, content_type: str, content: bytes, *, body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(content)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (content if body else b"")
