"""Hop 1 of the sample, client's side: one kept connection that submits and asks for orders.

Invariant: a request that is sent again after a broken connection carries the same Idempotency-Key,
so that it makes no second order. Answers are read whole, up to a cap. Failures are typed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import h11

_ANSWER_BYTES: Final = 1_000_000
_READ_BYTES: Final = 65_536
_SCHEMES: Final = {"http": 80, "https": 443}


class ServiceUrlError(Exception):
    """The order service's URL cannot be used."""


class ServiceUnreachableError(Exception):
    """The order service does not answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer whose body is a JSON object."""

    status: int
    body: Mapping[str, Any]


class OrderClient:
    """One HTTP/1.1 connection to the order service, opened at need and kept."""

    def __init__(self, url: str, timeout_seconds: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES or not parts.hostname:
            raise ServiceUrlError(f"{url!r} is no http:// or https:// URL of an order service")
        self._url = url
        self._host = parts.hostname
        self._port = parts.port or _SCHEMES[parts.scheme]
        self._tls = parts.scheme == "https"
        self._path = parts.path.rstrip("/")
        self._authority = parts.netloc.rpartition("@")[2]
        self._timeout_seconds = timeout_seconds
        self._open: _Exchange | None = None

    async def submit(self, order: Mapping[str, Any], idempotency_key: str) -> Answer:
        """POST an order.

        Raises:
            ServiceUnreachableError: no answer within the time.
        """
        headers = [("Content-Type", "application/json"), ("Idempotency-Key", idempotency_key)]
        return await self._request("POST", "/orders", headers, json.dumps(order).encode())

    async def get(self, order_id: str) -> Answer:
        """GET an order.

        Raises:
            ServiceUnreachableError: no answer within the time.
        """
        return await self._request("GET", f"/orders/{order_id}", [], b"")

    async def close(self) -> None:
        """Hang up."""
        if self._open is not None:
            self._open.close()
            self._open = None

    async def _request(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes
    ) -> Answer:
        request = h11.Request(
            method=method,
            target=f"{self._path}{path}",
            headers=[("Host", self._authority), ("Content-Length", str(len(body))), *headers],
        )
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._sent(request, body)
        except (OSError, TimeoutError, EOFError, h11.ProtocolError) as error:
            await self.close()
            why = str(error) or f"no answer within {self._timeout_seconds:g} s"
            raise ServiceUnreachableError(f"the order service at {self._url}: {why}") from error

    async def _sent(self, request: h11.Request, body: bytes) -> Answer:
        if self._open is not None:
            # The server may have closed a kept connection meanwhile: once more, on a new one.
            try:
                return await self._exchanged(self._open, request, body)
            except (OSError, EOFError):
                await self.close()
        self._open = await _Exchange.connect(self._host, self._port, tls=self._tls)
        return await self._exchanged(self._open, request, body)

    async def _exchanged(self, exchange: _Exchange, request: h11.Request, body: bytes) -> Answer:
        answer = await exchange.ask(request, body)
        if not exchange.reusable():
            await self.close()
        return answer


class _Exchange:
    """h11's state machine over one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)

    @classmethod
    async def connect(cls, host: str, port: int, *, tls: bool) -> _Exchange:
        return cls(*await asyncio.open_connection(host, port, ssl=tls or None))

    async def ask(self, request: h11.Request, body: bytes) -> Answer:
        events: list[h11.Event] = [request, h11.Data(data=body), h11.EndOfMessage()]
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))
        await self._writer.drain()
        status, received = 0, bytearray()
        while not isinstance(event := await self._next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                received += event.data
                if len(received) > _ANSWER_BYTES:
                    raise OSError(f"an answer larger than {_ANSWER_BYTES} bytes")
        return Answer(status, _object(bytes(received)))

    async def _next_event(self) -> h11.Event:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = await self._reader.read(_READ_BYTES)
                if not data and self._http.their_state is h11.SEND_RESPONSE:
                    raise EOFError("the connection was closed without an answer")
                self._http.receive_data(data)
            elif isinstance(event, h11.Event):
                return event
            else:
                raise EOFError("the connection was closed")

    def reusable(self) -> bool:
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            return True
        return False

    def close(self) -> None:
        self._writer.close()


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"detail": body[:200].decode("utf-8", "replace")}
