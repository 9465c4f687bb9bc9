"""The page on a real database, asked in this process; Kafka is away unless a test has one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import pytest

from relay.runtime.settings import load_settings
from relay.web.acts import Acts
from relay.web.app import application
from relay.web.service import WebService

NOBODY = "127.0.0.1:1"


@pytest.fixture
async def login(
    pg: asyncpg.Connection, database: str
) -> AsyncIterator[Callable[..., Awaitable[str]]]:
    """Make a login of a role, and return its URL."""
    made: list[str] = []

    async def make(role: str) -> str:
        name = f"{role}_{urlsplit(database).path[-8:]}_{len(made)}"
        await pg.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE {role}")
        made.append(name)
        parts = urlsplit(database)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{name}:x@{host}"))

    yield make
    for name in made:
        await pg.execute(f"DROP ROLE {name}")


class Visit:
    """A page that is served, and one who asks for it."""

    def __init__(self, service: WebService, client: httpx.AsyncClient) -> None:
        self.service = service
        self.client = client

    async def get(self, path: str, **other: object) -> httpx.Response:
        return await self.client.get(path, **other)


@pytest.fixture
async def visit(login) -> AsyncIterator[Callable[..., Awaitable[Visit]]]:
    """Serve the page with these settings (reading as observer), and return a visitor."""
    async with AsyncExitStack() as stack:

        async def make(headers: dict[str, str] | None = None, **settings: str) -> Visit:
            environment = {"KAFKA_BOOTSTRAP_SERVERS": NOBODY, **settings}
            if "DATABASE_URL" not in environment:
                environment["DATABASE_URL"] = await login("relay_observer")
            stop = asyncio.Event()
            service = WebService(load_settings("/dev/null", environment), stop, environment)
            looking = asyncio.create_task(service.site.watcher.run(stop))

            async def end() -> None:
                await acts.end()
                await looking

            stack.push_async_callback(end)
            acts = Acts(service.site, stop)
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(application(service.site, stop, acts)),
                base_url="http://localhost",
                headers=headers,
                timeout=60,
            )
            await stack.enter_async_context(client)
            return Visit(service, client)

        yield make
