"""Hop 1 of the sample over HTTP: `relay sample serve`, from start to drain.

Invariant: once it says that it listens, it answers; asked to stop, it takes no new connection,
finishes what it began, within a time, and only then closes the database. A taken port, or a
database that is away or no sample, is a typed error at start.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette

from relay.runtime.database import connect
from relay.runtime.process import program_version
from relay.runtime.tasks import awaited
from relay.sample.installation import require_sample
from relay.sample.serve_app import application
from relay.sample.serve_protocol import HeadTimeoutProtocol
from relay.sample.serve_store import OrderStore
from relay.telemetry.metrics import Metrics
from relay.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How the sample order service listens, and what it allows.

    `port` 0 takes any free one. `connections` is the size of the database pool; `wait_seconds` is
    how long a request may wait for one, for a statement, and for its body's last byte.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    connections: int = 8
    max_body_bytes: int = 262_144
    wait_seconds: float = 10.0
    drain_seconds: float = 10.0


class ListenError(Exception):
    """The address cannot be listened on; the message says which and why."""


async def run_serve(
    dsn: str | None,
    options: ServeOptions,
    tracing: Tracing,
    stop: asyncio.Event,
    listening: Callable[[str], None],
) -> None:
    """Serve orders until `stop` is set, then drain.

    Args:
        dsn: the orders' database; None: libpq's variables say where.
        options: how.
        tracing: of this process; not closed here.
        stop: asks to drain.
        listening: called with the URL once requests are answered.

    Raises:
        ListenError: the address is taken, or is not one of this machine.
        DatabaseError: the database cannot be reached at start.
        NotSampleError: it is not a sample installation.
    """
    await _refuse_production(dsn)
    with _listener(options) as listener:
        store = await OrderStore.open(dsn, options.connections, options.wait_seconds)
        try:
            app = application(
                store,
                tracing.tracer(),
                Metrics("sample-serve", program_version(), tracing.counts).registry,
                max_body_bytes=options.max_body_bytes,
                body_seconds=options.wait_seconds,
            )
            await _serve(app, listener, options, stop, listening)
        finally:
            await store.close()


async def _refuse_production(dsn: str | None) -> None:
    connection = await connect(dsn, "relay sample serve")
    try:
        await require_sample(connection)
    finally:
        await connection.close()


@contextmanager
def _listener(options: ServeOptions) -> Iterator[socket.socket]:
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.create_server((options.host, options.port), family=family, backlog=2048)
    except OSError as error:
        raise ListenError(
            f"cannot listen on {options.host}:{options.port}: {error.strerror}; choose another"
            " with --host and --port (0: any free port)"
        ) from error
    with listener:
        yield listener


class _Server(uvicorn.Server):
    """uvicorn, but signals are the process's own business (`relay.runtime.shutdown`)."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(
    app: Starlette,
    listener: socket.socket,
    options: ServeOptions,
    stop: asyncio.Event,
    listening: Callable[[str], None],
) -> None:
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            http=HeadTimeoutProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, round(options.drain_seconds)),
        )
    )
    serving = awaited(server.serve(sockets=[listener]), "serve")
    stopping = awaited(stop.wait(), "stop")
    try:
        # create_server listens already: a request sent from now on waits to be accepted.
        host, port = listener.getsockname()[:2]
        listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.should_exit = True
        stopping.cancel()
        with suppress(asyncio.CancelledError):
            await stopping
        await serving
