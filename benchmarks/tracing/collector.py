"""A collector that reads OTLP over HTTP and keeps nothing: the least that a span can cost to take.

Run by `benchmarks/tracing/measure.py`; prints its port. A real Jaeger on two shared cores takes
some 65,000 spans a second and would measure itself.
"""

from __future__ import annotations

import asyncio

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Taking(asyncio.BufferedProtocol):
    """One connection: heads are searched for their length, bodies are counted off."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = bytearray(256 * 1024)
        self.head = b""
        self.missing = 0

    def get_buffer(self, _sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(memoryview(self.buffer)[:nbytes])
        while data:
            data = self.body(data) if self.missing else self.heading(data)

    def body(self, data: bytes) -> bytes:
        taken = min(self.missing, len(data))
        self.missing -= taken
        if not self.missing:
            self.transport.write(ANSWER)
        return data[taken:]

    def heading(self, data: bytes) -> bytes:
        head, end, rest = (self.head + data).partition(b"\r\n\r\n")
        if not end:
            self.head = head
            return b""
        self.head = b""
        self.missing = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        return rest


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Taking, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
