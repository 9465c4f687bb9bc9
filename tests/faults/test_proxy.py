"""The suite's own proxy does what it says: a fault that does not happen proves nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.proxy import LOOPBACK, Proxy, is_commit, is_commit_offsets, is_produce

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def shouting_server() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that answers each line in capitals, and remembers what it heard."""
    heard: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while line := await reader.readline():
                heard.append(line)
                writer.write(line.upper())
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    yield server.sockets[0].getsockname()[1], heard
    server.close()
    for writer in writers:
        writer.transport.abort()


async def ask(streams: Streams, line: bytes, seconds: float = 5.0) -> bytes:
    reader, writer = streams
    writer.write(line)
    return await asyncio.wait_for(reader.readline(), seconds)


async def nothing_more(streams: Streams, line: bytes) -> bool:
    """Whether the connection ends instead of an answer."""
    try:
        return await ask(streams, line) == b""
    except OSError:
        return True
    finally:
        streams[1].transport.abort()


async def test_it_passes_on_and_cuts() -> None:
    async with shouting_server() as (port, _), Proxy(port) as proxy:
        streams = await asyncio.open_connection(LOOPBACK, proxy.port)
        assert await ask(streams, b"one\n") == b"ONE\n"
        proxy.cut()
        assert await nothing_more(streams, b"two\n")
        again = await asyncio.open_connection(LOOPBACK, proxy.port)
        assert await ask(again, b"three\n") == b"THREE\n"
        again[1].close()


async def test_it_refuses_until_it_is_healed() -> None:
    async with shouting_server() as (port, heard), Proxy(port) as proxy:
        proxy.refuse()
        streams = await asyncio.open_connection(LOOPBACK, proxy.port)
        assert await nothing_more(streams, b"one\n")
        assert not heard
        proxy.heal()
        again = await asyncio.open_connection(LOOPBACK, proxy.port)
        assert await ask(again, b"two\n") == b"TWO\n"
        again[1].close()


async def test_a_stalled_reply_comes_late_and_the_server_has_heard() -> None:
    async with shouting_server() as (port, heard), Proxy(port) as proxy:
        streams = await asyncio.open_connection(LOOPBACK, proxy.port)
        proxy.stall(up=False)
        with pytest.raises(TimeoutError):
            await ask(streams, b"one\n", 0.3)
        assert heard == [b"one\n"]
        proxy.heal()
        assert await asyncio.wait_for(streams[0].readline(), 5) == b"ONE\n"
        streams[1].close()


async def test_a_stalled_request_is_not_heard() -> None:
    async with shouting_server() as (port, heard), Proxy(port) as proxy:
        streams = await asyncio.open_connection(LOOPBACK, proxy.port)
        proxy.stall(down=False)
        with pytest.raises(TimeoutError):
            await ask(streams, b"one\n", 0.3)
        assert not heard
        proxy.heal()
        assert await asyncio.wait_for(streams[0].readline(), 5) == b"ONE\n"
        streams[1].close()


async def test_a_swallowed_reply_was_acted_on_and_the_connection_is_gone() -> None:
    async with shouting_server() as (port, heard), Proxy(port) as proxy:
        streams = await asyncio.open_connection(LOOPBACK, proxy.port)
        proxy.swallow_reply(lambda data: data.startswith(b"commit"))
        assert await ask(streams, b"begin\n") == b"BEGIN\n"
        assert await nothing_more(streams, b"commit\n")
        assert heard == [b"begin\n", b"commit\n"]
        assert proxy.swallowed == 1


def test_what_is_a_commit() -> None:
    assert is_commit(b"Q\x00\x00\x00\x0cCOMMIT;\x00")
    assert not is_commit(b"Q\x00\x00\x00\x0cSELECT;\x00")
    assert is_produce(b"\x00\x00\x01\x00\x00\x00\x00\x09....")
    assert not is_produce(b"\x00\x00\x01\x00\x00\x01\x00\x09....")
    assert is_commit_offsets(b"\x00\x00\x01\x00\x00\x08\x00\x09....")
