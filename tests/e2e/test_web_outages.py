"""The page in Chromium: the database goes and comes back, a provider's login, 180 pixels."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from relay.runtime.settings import load_settings
from relay.web.service import WebService
from tests.e2e.test_web_browser import CHROMIUM, PATHS, WIDE, browser, page_url, tab
from tests.oidc_provider import CLIENT_ID, CLIENT_SECRET, openid_provider

__all__ = ["browser", "page_url"]  # fixtures, used by their names
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install the package")
SOON = 60_000
Served = Callable[..., Awaitable[str]]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """Serve the page with these settings; Kafka is away."""
    stop, running = asyncio.Event(), []

    async def serve(**settings: str) -> str:
        environment = {
            "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "RELAY_WEB_PORT": "0",
            "RELAY_WEB_POLL_SECONDS": "1", **settings,
        }  # fmt: skip
        service = WebService(load_settings("/dev/null", environment), stop, environment)
        running.append(asyncio.create_task(service.run()))
        while service.url is None:
            assert not running[0].done(), running
            await asyncio.sleep(0.02)
        return service.url

    yield serve
    stop.set()
    await asyncio.gather(*running)


async def test_the_database_goes_and_comes_back(
    browser: Browser, served: Served, private_postgres: Any, private_database: str
) -> None:
    url = await served(DATABASE_URL=private_database)
    _context, night, _complaints = await tab(browser)
    context, page, complaints = await tab(browser)
    banner = "The database cannot be read."
    await night.goto(url)
    await page.goto(f"{url}/audit")
    await expect(night.locator("main")).not_to_contain_text(banner)
    private_postgres.kill()
    await expect(night.locator("main")).to_contain_text(banner, timeout=SOON)  # pushed
    await page.reload()
    await expect(page.locator("main")).to_contain_text(banner)
    await expect(page.locator("main")).to_contain_text("This is what was seen last")
    await page.goto(f"{url}/quarantine")  # never read
    await expect(page.locator("main")).to_contain_text(banner)
    private_postgres.start()
    await expect(night.locator("main")).not_to_contain_text(banner, timeout=SOON)  # pushed
    for path in ("/audit", "/quarantine", "/unreturned"):
        await page.goto(url + path)
        await expect(page.locator("main")).not_to_contain_text(banner)
    assert [one for one in complaints if "503" not in one] == []
    await context.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return int(opened.getsockname()[1])


async def test_a_person_logs_in_at_the_provider_and_out_again(
    browser: Browser, served: Served, database: str
) -> None:
    port = free_port()
    own = f"http://127.0.0.1:{port}"
    async with openid_provider(f"{own}/login/done") as provider:
        provider.says(
            preferred_username="anna", realm_access={"roles": ["default", "relay-operator"]}
        )
        url = await served(
            DATABASE_URL=database, RELAY_WEB_OPERATOR_URL=database, RELAY_WEB_PORT=str(port),
            RELAY_WEB_AUTH="oidc", RELAY_WEB_OIDC_ISSUER=provider.url, RELAY_WEB_PUBLIC_URL=own,
            RELAY_WEB_OIDC_CLIENT_ID=CLIENT_ID, RELAY_WEB_OIDC_CLIENT_SECRET=CLIENT_SECRET,
            RELAY_WEB_OIDC_ROLES_CLAIM="realm_access.roles",
        )  # fmt: skip
        context, page, complaints = await tab(browser)
        await page.goto(f"{url}/checks")
        await page.click("main a, main button")  # to the provider
        await page.wait_for_url(f"{own}/checks", timeout=SOON)
        await expect(page.locator("footer")).to_contain_text("You are anna.")
        await expect(page.locator("form[action='/acts/check'] button")).to_be_enabled()
        await page.click("form[action='/logout'] button")
        await page.wait_for_url(f"{own}/login*", timeout=SOON)
        await page.goto(f"{url}/checks")
        await page.wait_for_url(f"{own}/login*")
        assert provider.ended
        assert complaints == []
        await context.close()


async def test_every_page_fits_360_pixels_at_200_percent(browser: Browser, page_url: str) -> None:
    context, page, _complaints = await tab(browser, viewport={"width": 180, "height": 400})
    for path in (*PATHS, "/quarantine/1", "/orders/order-2", "/orders", "/incidents?all=1"):
        await page.goto(page_url + path)
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width <= 180, (path, width, await page.evaluate(WIDE, 180))
    await context.close()
