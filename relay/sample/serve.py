"""Hop 1 of the sample over HTTP: `relay sample serve`, from start to drain.

Invariant: once it says that it listens, it answers; asked to stop, it takes no new connection,
finishes what it began, within a time, and only then closes the database. A taken port, or a
database that is away or no sample, is a typed error at start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from relay.runtime.database import connect
from relay.runtime.http_server import listener, serve_application
from relay.runtime.process import program_version
from relay.sample.installation import require_sample
from relay.sample.serve_app import application
from relay.sample.serve_store import OrderStore
from relay.telemetry.metrics import Metrics
from relay.telemetry.tracing import Tracing

_ANOTHER_PORT: Final = "choose another with --host and --port (0: any free port)"


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
    with listener(options.host, options.port, _ANOTHER_PORT) as opened:
        store = await OrderStore.open(dsn, options.connections, options.wait_seconds)
        try:
            app = application(
                store,
                tracing.tracer(),
                Metrics("sample-serve", program_version(), tracing.counts).registry,
                max_body_bytes=options.max_body_bytes,
                body_seconds=options.wait_seconds,
            )
            await serve_application(
                app, opened, stop, listening, drain_seconds=options.drain_seconds
            )
        finally:
            await store.close()


async def _refuse_production(dsn: str | None) -> None:
    connection = await connect(dsn, "relay sample serve")
    try:
        await require_sample(connection)
    finally:
        await connection.close()
