"""Hop 2: runs the duties of upkeep now and then, beside the active relay, on their own connection.

Invariant: nothing here disturbs publishing: a run that fails is logged and tried again later, and
one that is cancelled ends at once, whatever the database does.
"""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg
import structlog

from relay.publish.maintenance import MaintenanceOptions, run_once
from relay.runtime.database import DatabaseError, connect

_LOG: Final = structlog.get_logger("relay.publish")
_FAILURES: Final = (
    DatabaseError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)


async def keep_up(dsn: str | None, options: MaintenanceOptions) -> None:
    """Run until cancelled."""
    while True:
        try:
            await _run(dsn, options)
        except _FAILURES as error:
            _LOG.warning("upkeep_failed", error=str(error) or repr(error))
        await asyncio.sleep(options.every_seconds)


async def _run(dsn: str | None, options: MaintenanceOptions) -> None:
    connection = await connect(dsn, "relay-run-upkeep")
    running = asyncio.ensure_future(run_once(connection, options))
    try:
        # Cancelled itself, it would wait for a ROLLBACK that a frozen server never answers.
        report = await asyncio.shield(running)
        if report.busy:
            _LOG.warning("upkeep_busy", waiting_for="another process that does the upkeep")
        else:
            _LOG.debug("upkeep", report=report)
    finally:
        connection.terminate()
        await asyncio.gather(running, return_exceptions=True)
