"""The three nights of docs/first-night.md, made with real processes and solved with the page alone.

What is done beside the page is what its owner does elsewhere: a grant, a setting and a restart.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from relay.runtime.settings import load_settings
from relay.web.service import WebService
from tests.corpus.scenes.refused import consumer_may_again, consumer_may_not_update
from tests.corpus.scenes.single import answer
from tests.corpus.scenes.skipped import processor_gone
from tests.corpus.world import World, new_ids
from tests.e2e.test_web_browser import CHROMIUM, browser, tab

__all__ = ["browser"]  # a fixture, used by its name
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install the package"),
    pytest.mark.timeout(300),
]
ORDERS = 12
SOON = 60_000


@pytest.fixture
async def world(
    database, service_pg, kafka_bootstrap, topics, relay_process, relay_command, eventually
) -> AsyncIterator[World]:
    """A loop on the run's servers, its processes with least rights."""
    made = World(
        database, service_pg, kafka_bootstrap, topics, relay_process, relay_command, eventually
    )
    await made.least_privilege()
    yield made
    await made.doing.aclose()


@pytest.fixture
async def page_of(world: World) -> AsyncIterator[Callable[..., Any]]:
    """Serve the page of the world: it reads as observer and acts as operator."""
    stop, running = asyncio.Event(), []

    async def serve() -> str:
        environment = world.environment | {
            "DATABASE_URL": await world.login_as("relay_observer"),
            "RELAY_WEB_OPERATOR_URL": await world.login_as("relay_operator"),
            "KAFKA_BOOTSTRAP_SERVERS": world.bootstrap,
            "RELAY_WEB_PORT": "0", "RELAY_WEB_POLL_SECONDS": "1",
        }  # fmt: skip
        service = WebService(load_settings("/dev/null", environment), stop, environment)
        running.append(asyncio.create_task(service.run()))
        await world.eventually(lambda: service.url, 30)
        assert service.url is not None
        return service.url

    yield serve
    stop.set()
    await asyncio.gather(*running)


def orders_of(count: int = ORDERS) -> list[str]:
    return new_ids(count, lambda _order: True)


async def to_incident(page: Page, url: str, fate: str, hop: str, cause: str) -> str:
    """Open the Night page, read its sentence, and follow it to the incident; return its text.

    The first look at a hop whose process has just met its trouble may say that it lags; the
    watchdog looks again within seconds.
    """
    async with asyncio.timeout(SOON / 1000):
        text = ""
        while cause not in text:
            await page.goto(url)
            await expect(page.locator("h1")).to_contain_text(re.compile(fate), timeout=SOON)
            await expect(page.locator("h1")).to_contain_text(hop)
            await page.locator(".cards a.title", has_text="I-").first.click(timeout=SOON)
            await page.wait_for_url("**/incidents/I-*")
            text = await page.inner_text("main")
    return text


async def all_is_well(page: Page, url: str) -> None:
    await page.goto(url)
    await expect(page.locator("main")).to_contain_text("No order is overdue.", timeout=SOON)
    await expect(page.locator("main")).to_contain_text("None is open.", timeout=SOON)


async def returned(world: World, orders: Sequence[str]) -> None:
    await world.until_returned(orders, 60)


async def test_a_group_that_came_back_past_its_records(world, page_of, browser: Browser) -> None:
    orders = orders_of()
    world.begin_all()
    await world.until_up()
    await world.until_returned(await world.place_everywhere())
    await processor_gone(world)
    await world.place_these(orders)
    await world.until_published(orders)
    world.skip_to_end(world.group, world.events)
    await world.until_position(world.group, members=0)
    world.begin("processor")
    await world.until_joined()
    url = await page_of()
    context, page, complaints = await tab(browser)
    text = await to_incident(page, url, "LOST", "4 return", "offsets_skipped")
    assert world.group in text
    assert "the settings name it" in text
    assert "Do not set the group's offset back" in text
    await page.click("form[action='/acts/plan'] button")
    await page.wait_for_url("**/replays/*")
    plan = await page.inner_text("main")
    assert "Nothing is sent yet." in plan
    assert f"{ORDERS} events" in plan
    await page.fill("form[action='/acts/run'] input[name=reason]", "group reset by mistake")
    await page.click("form[action='/acts/run'] button")
    await returned(world, orders)
    await expect(page.locator(".counts")).to_contain_text(
        re.compile(rf"{ORDERS}\s*/\s*{ORDERS}"), timeout=SOON
    )
    await all_is_well(page, url)
    assert complaints == []
    await context.close()


async def test_a_status_that_nobody_knows(world, page_of, browser: Browser) -> None:
    orders = orders_of()
    world.faults += [part for one in orders for part in ("--lose-order", one)]
    world.begin_all()
    await world.until_up()
    await world.place_these(orders)
    await world.until_answered(orders)
    for one in orders:
        world.send(world.returns, one, answer(one, "accepted"))
    await world.until_quarantined(orders)
    await world.until_overdue(orders)
    url = await page_of()
    context, page, complaints = await tab(browser)
    await to_incident(page, url, "LOST", "5 confirm", "return_unknown_status")
    assert "Do not discard what is in quarantine" in await page.inner_text("main")
    await page.click("text=Look at the bytes that are held")
    await page.click("main table td.n a")
    listed = page.url
    await page.click("main table a[href^='/quarantine/']")
    await page.click("form[action='/acts/look'] button")
    assert '"status": "accepted"' in await page.inner_text("pre")
    # Its owner says what the word means: an alias, and the consumer is started anew.
    aliases = {"RELAY_FLOW_STATUS_ALIASES": json.dumps({"accepted": "confirmed"})}
    world.environment |= aliases
    world.restart("consumer")
    await page.goto(listed)
    await page.fill("form[action='/acts/release'] input[name=reason]", "alias added")
    await page.click("form[action='/acts/release'] button")
    await returned(world, orders)
    await all_is_well(page, url)
    assert complaints == []
    await context.close()


async def test_a_permission_that_somebody_took_away(world, page_of, browser: Browser) -> None:
    orders = orders_of()
    world.begin_all()
    await world.until_up()
    await consumer_may_not_update(world, orders)
    await world.until_complaining("confirm", "permission denied")
    await world.until_overdue(orders)
    url = await page_of()
    context, page, complaints = await tab(browser, locale="zh-CN")
    text = await to_incident(page, url, "延迟", "5 confirm", "permission_denied")
    assert "permission denied for table orders" in text
    assert "不要重放" in text
    assert await page.locator("form[action='/acts/plan']").count() == 0
    await consumer_may_again(world)
    await returned(world, orders)
    await page.goto(url)
    await expect(page.locator("main")).to_contain_text("没有逾期的订单", timeout=SOON)
    assert complaints == []
    await context.close()
