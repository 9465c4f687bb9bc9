"""A small TCP proxy that does to a connection what networks do: cut, stall, lose one direction.

It also swallows replies: the server does what it was told, and the client never hears of it.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

LOOPBACK = "127.0.0.1"
_CHUNK_BYTES = 65_536
_SWALLOWED_SECONDS = 0.3

Matches = Callable[[bytes], bool]


@dataclass(eq=False)
class _Pair:
    """One client's connection and the one made for it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    muted: bool = False

    def abort(self) -> None:
        for one in (self.client, self.server):
            one.transport.abort()


@dataclass
class Proxy:
    """Listens on loopback and passes bytes on to `target_port`, unless told otherwise."""

    target_port: int
    port: int = 0
    swallowed: int = 0
    _server: asyncio.Server | None = None
    _pairs: set[_Pair] = field(default_factory=set)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    _up: asyncio.Event = field(default_factory=asyncio.Event)
    _down: asyncio.Event = field(default_factory=asyncio.Event)
    _refusing: bool = False
    _swallow: Matches | None = None

    async def __aenter__(self) -> Self:
        self._up.set()
        self._down.set()
        self._server = await asyncio.start_server(self._accepted, LOOPBACK, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        return len(self._pairs)

    # --- faults

    def cut(self) -> None:
        """Reset every connection; new ones are taken."""
        for pair in tuple(self._pairs):
            pair.abort()

    def refuse(self) -> None:
        """Reset every connection, and each new one, until `heal`."""
        self._refusing = True
        self.cut()

    def stall(self, *, up: bool = True, down: bool = True) -> None:
        """Pass nothing on to the server (`up`), to the client (`down`), or both, until `heal`."""
        if up:
            self._up.clear()
        if down:
            self._down.clear()

    def swallow_reply(self, matches: Matches) -> None:
        """Let the next request that matches reach the server, lose its reply, and cut."""
        self._swallow = matches

    def heal(self) -> None:
        """Pass everything on again; what was stalled arrives late."""
        self._refusing, self._swallow = False, None
        self._up.set()
        self._down.set()

    # --- passing on

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            from_server, to_server = await asyncio.open_connection(LOOPBACK, self.target_port)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(writer, to_server)
        self._pairs.add(pair)
        up = asyncio.create_task(self._pump_up(pair, reader))
        down = asyncio.create_task(self._pump_down(pair, from_server))
        for task in (up, down):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        self._pairs.discard(pair)
        pair.abort()

    async def _pump_up(self, pair: _Pair, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._up.wait()
                if self._swallow is not None and self._swallow(data):
                    self._swallow, pair.muted = None, True
                    self.swallowed += 1
                    asyncio.get_running_loop().call_later(_SWALLOWED_SECONDS, pair.abort)
                pair.server.write(data)
                await pair.server.drain()

    async def _pump_down(self, pair: _Pair, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._down.wait()
                if not pair.muted:
                    pair.client.write(data)
                    await pair.client.drain()


def is_commit(data: bytes) -> bool:
    """Whether a PostgreSQL client sends COMMIT (asyncpg's and psycopg's: a simple query)."""
    return data[:1] == b"Q" and b"COMMIT" in data[:32].upper()


def is_checkpoint(data: bytes) -> bool:
    """Whether a PostgreSQL client executes a prepared statement with many parameters."""
    return data[:1] == b"B" and len(data) > 200


def is_produce(data: bytes) -> bool:
    """Whether a Kafka client's request is Produce (API key 0)."""
    return len(data) > 6 and data[4:6] == b"\0\0"


def is_commit_offsets(data: bytes) -> bool:
    """Whether a Kafka client's request is OffsetCommit (API key 8)."""
    return len(data) > 6 and data[4:6] == b"\0\x08"
