"""A command's settings, compared with what the running processes recorded.

Invariant: reads only. The database away, nothing is compared: the command itself says that it is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from relay.runtime.database import DATABASE_FAILURES
from relay.runtime.flow_record import Difference, Running, compared
from relay.runtime.process import read_running

if TYPE_CHECKING:
    from relay.runtime.settings import Settings

_SECONDS: Final = 2.0


def by_processes(settings: Settings) -> tuple[Settings, list[Difference]]:
    """Return the settings to go by, and what differs from the processes'."""
    flow, differing = compared(settings.flow, asyncio.run(_running(settings.database.dsn)))
    return (settings.going_by(flow) if differing else settings), differing


async def _running(dsn: str | None) -> list[Running]:
    try:
        async with asyncio.timeout(_SECONDS):
            return [Running(*row) for row in await read_running(dsn)]
    except DATABASE_FAILURES:
        return []
