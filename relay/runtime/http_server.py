"""An ASGI application on a port of this machine.

It serves the sample's order service, and the operator's page.

Invariant: once it says that it listens, it answers; asked to stop, it takes no new connection and
finishes what it began, within a time. A taken port is a typed error at start.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import uvicorn

from relay.runtime.http_protocol import HeadTimeoutProtocol
from relay.runtime.tasks import awaited

_BACKLOG: Final = 2048
_KEEP_ALIVE_SECONDS: Final = 30


class ListenError(Exception):
    """The address cannot be listened on; the message says which and why."""


@contextmanager
def listener(host: str, port: int, how: str) -> Iterator[socket.socket]:
    """Open the port while the block runs; 0 takes any free one.

    Args:
        host: an address of this machine, IPv4 or IPv6.
        port: TCP port.
        how: how to choose another one, for the error.

    Raises:
        ListenError: the address is taken, or is not one of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror}; {how}") from error
    with opened:
        yield opened


class _Server(uvicorn.Server):
    """uvicorn, but signals are the process's own business (`relay.runtime.shutdown`)."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ended = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def end(self) -> None:
        """Take no new connection, and finish what was begun."""
        self.should_exit = True
        self._ended.set()

    async def main_loop(self) -> None:
        """Keep the Date header right; uvicorn's own wakes ten times a second (0.2% of a core)."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._ended.wait()


async def serve_application(
    app: Any,
    opened: socket.socket,
    stop: asyncio.Event,
    listening: Callable[[str], None],
    *,
    drain_seconds: float,
) -> None:
    """Answer requests until `stop` is set, then drain.

    Args:
        app: an ASGI application.
        opened: what `listener` gave.
        stop: asks to drain.
        listening: called with the URL once requests are answered.
        drain_seconds: for what is being answered at stop.
    """
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            http=HeadTimeoutProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(drain_seconds)),
        )
    )
    serving = awaited(server.serve(sockets=[opened]), "serve")
    stopping = awaited(stop.wait(), "stop")
    try:
        # create_server listens already: a request sent from now on waits to be accepted.
        host, port = opened.getsockname()[:2]
        listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.end()
        stopping.cancel()
        with suppress(asyncio.CancelledError):
            await stopping
        await serving
