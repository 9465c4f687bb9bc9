"""Connections that are kept for whoever asks again soon: a login costs more than most questions.

Invariant: a connection is used by one at a time, and comes back only from a block that ended well,
outside of any transaction; its server is asked for a word before it is lent again. After a failure
none that was kept before is used: what ended one (a restart, another schema) may have ended all.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import asyncpg

KEPT_AT_MOST: Final = 4
IDLE_SECONDS: Final = 60.0
"""One that nobody used for so long is closed: the server's connections are for others, too."""

ANSWER_SECONDS: Final = 2.0
_ASK: Final = "SELECT 1"


@dataclass(slots=True)
class KeptConnections:
    """A few open connections.

    Attributes:
        open: makes a new one.
    """

    open: Callable[[], Awaitable[asyncpg.Connection]]
    clock: Callable[[], float] = time.monotonic
    _idle: list[tuple[float, asyncpg.Connection]] = field(default_factory=list)
    _ended: bool = False

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection while the block runs.

        Raises:
            DatabaseError: none is kept, and none can be had.
        """
        connection = await self._answering() or await self.open()
        try:
            yield connection
        except BaseException as error:
            connection.terminate()
            if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError | OSError):
                self.close()
            raise
        lasts = not (connection.is_closed() or connection.is_in_transaction() or self._ended)
        if not lasts or len(self._idle) >= KEPT_AT_MOST:
            connection.terminate()
        else:
            self._idle.append((self.clock(), connection))

    async def _answering(self) -> asyncpg.Connection | None:
        """Return a kept connection whose server answers: the way to it may be cut silently."""
        self.close_idle()
        while self._idle:
            _since, connection = self._idle.pop()
            try:
                await connection.execute(_ASK, timeout=ANSWER_SECONDS)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                connection.terminate()
                self.close()
            else:
                return connection
        return None

    def close_idle(self) -> None:
        """Close those that were idle for IDLE_SECONDS; forget those that the server closed."""
        now, kept = self.clock(), []
        for since, connection in self._idle:
            if connection.is_closed() or now - since > IDLE_SECONDS:
                connection.terminate()
            else:
                kept.append((since, connection))
        self._idle = kept

    def close(self) -> None:
        """Close those that are kept; those that are lent stay with who has them."""
        idle, self._idle = self._idle, []
        for _since, connection in idle:
            connection.terminate()

    def end(self) -> None:
        """Close those that are kept, and keep none from now on."""
        self._ended = True
        self.close()
