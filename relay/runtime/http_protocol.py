"""Every hop over HTTP: how long a client may take to send the head of a request.

Invariant: a connection on which no request is being answered, and none was begun within the time,
is closed; what a client sends piece by piece can hold no connection open.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle


class HeadTimeoutProtocol(H11Protocol):
    """uvicorn's protocol: it has a time for idle connections and none for unfinished heads."""

    head_seconds: ClassVar[float] = 10.0
    _giving_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first head from here on."""
        super().connection_made(transport)
        self._wait_for_a_head()

    def data_received(self, data: bytes) -> None:
        """Read on; the time for a head runs from its first byte to its last."""
        super().data_received(data)
        if self._is_answering():
            self._stop_waiting()
        elif self._giving_up is None:
            self._wait_for_a_head()

    def on_response_complete(self) -> None:
        """Wait for the rest of a head whose beginning came with the request just answered."""
        super().on_response_complete()
        begun = bool(self.conn.trailing_data[0])
        if begun and self._giving_up is None and not self._is_answering():
            self._wait_for_a_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer with the connection."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _wait_for_a_head(self) -> None:
        self._giving_up = self.loop.call_later(self.head_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    def _give_up(self) -> None:
        self._giving_up = None
        if not self._is_answering():
            self.transport.close()
