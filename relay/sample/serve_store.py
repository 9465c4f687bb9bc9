"""Hop 1 of the sample over HTTP: the orders' database, by a small pool.

Invariant: an order is answered as placed only after its commit. When the database is away, slow or
full, the request fails as `UnavailableError` within its time; whether a commit that was under way
came through is then unknown, and a repeated submission under the same key finds out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg
from opentelemetry.trace import Tracer

from relay.outbox import NewOrder, PlacedOrder, place_order
from relay.runtime.database import create_pool, is_connection_loss
from relay.sample.serve_problem import UnavailableError

_GET: Final = """
    SELECT order_id::text, customer_id, items::text, total::text, currency, status, version,
           to_char(submitted_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
               AS submitted_at,
           to_char(returned_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
               AS returned_at,
           return_reason, traceparent
    FROM public.orders
    WHERE order_id = $1
"""

_ALIVE: Final = "SELECT 1"

# The server's own refusals that another attempt may not meet.
_PASSING: Final = (
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.TargetServerAttributeNotMatched,
)


class OrderStore:
    """Orders in PostgreSQL. `open` it, `close` it; one per process."""

    def __init__(self, pool: asyncpg.Pool, wait_seconds: float) -> None:
        self._pool = pool
        self._wait_seconds = wait_seconds

    @classmethod
    async def open(cls, dsn: str | None, connections: int, wait_seconds: float) -> OrderStore:
        """Make the pool; it connects when it is first used, and again after each loss.

        Args:
            dsn: where; None: libpq's variables say.
            connections: at most so many at once.
            wait_seconds: for a free connection, and for each statement.
        """
        pool = await create_pool(
            dsn,
            "relay sample serve",
            connections=connections,
            timeout_seconds=wait_seconds,
            # The server's own limit comes first: it leaves the connection usable.
            command_timeout_seconds=wait_seconds + 1,
            reset=_leave_as_it_is,
            server_settings={
                "statement_timeout": f"{int(wait_seconds * 1000)}",
                "idle_in_transaction_session_timeout": f"{int(wait_seconds * 2000)}",
            },
        )
        return cls(pool, wait_seconds)

    async def place(self, order: NewOrder, tracer: Tracer) -> PlacedOrder:
        """Place an order and its event in one transaction, and commit it.

        Raises:
            UnavailableError: the database cannot take it now.
            OutboxError: its subclass for what is wrong with the order.
        """
        async with self._connection() as connection, connection.transaction():
            return await place_order(connection, order, tracer=tracer)

    async def get(self, order_id: UUID) -> dict[str, Any] | None:
        """Return an order's columns; None when there is no such order."""
        async with self._connection() as connection:
            row = await connection.fetchrow(_GET, order_id)
        return None if row is None else dict(row)

    async def require_alive(self) -> None:
        """Raise UnavailableError unless the database answers."""
        async with self._connection() as connection:
            await connection.fetchval(_ALIVE)

    async def close(self) -> None:
        """Close the pool; connections still in use are cut after the time of one statement."""
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncpg.Connection]:
        try:
            async with self._pool.acquire(timeout=self._wait_seconds) as connection:
                yield connection
        except Exception as error:
            if _is_passing(error):
                raise UnavailableError(f"{type(error).__name__}: {error}") from error
            raise


async def _leave_as_it_is(_connection: asyncpg.Connection) -> None:
    """Skip asyncpg's RESET ALL, a round trip an order: nothing here changes a session."""


def _is_passing(error: Exception) -> bool:
    return isinstance(error, (*_PASSING, TimeoutError)) or is_connection_loss(error)
