"""The operator's page in a real browser: Debian's Chromium, driven by Playwright.

Where there is no Chromium these tests are skipped; in CI, which installs it, they must run.
"""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from relay.runtime.settings import load_settings
from relay.web.service import WebService
from tests.integration.web.test_pages import CASE, INCIDENT, fill

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
if CHROMIUM is None and os.environ.get("RELAY_TEST_REQUIRE_BROWSER") == "1":
    raise RuntimeError("RELAY_TEST_REQUIRE_BROWSER=1, and there is no chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install the package")
AXE = Axe()


@pytest.fixture
async def page_url(pg, database) -> AsyncIterator[str]:
    """Serve the page, which may act, on a database with an incident; Kafka is away."""
    await fill(pg, evil="plain", cases=120)
    environment = {
        "DATABASE_URL": database, "RELAY_WEB_OPERATOR_URL": database, "RELAY_WEB_PORT": "0",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "RELAY_WEB_POLL_SECONDS": "1",
    }  # fmt: skip
    stop = asyncio.Event()
    service = WebService(load_settings("/dev/null", environment), stop, environment)
    running = asyncio.create_task(service.run())
    while service.url is None:
        assert not running.done(), running
        await asyncio.sleep(0.02)
    yield service.url
    stop.set()
    await running


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS])
        yield opened
        await opened.close()


async def tab(browser: Browser, **context: object) -> tuple[BrowserContext, Page, list[str]]:
    """Open a tab; what its console complains of is collected."""
    made = await browser.new_context(**context)
    page = await made.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None,
    )
    return made, page, complaints


PATHS = (
    *("/", "/incidents", "/incidents/I-1", "/unreturned", "/replays", "/quarantine", "/checks"),
    *("/probes", "/reconcile", "/processes", "/audit", "/orders?q=order-2+nobody", "/nope"),
)


WIDE = """
wide => [...document.querySelectorAll("main *")]
    .filter(one => one.getBoundingClientRect().right > wide && !one.closest(".scroll, .picture"))
    .map(one => one.outerHTML.slice(0, 100))
"""


async def test_every_page_fits_a_phone_and_has_no_barrier(browser, page_url) -> None:
    # 180 units are 360 pixels at 200%.
    for wide, scheme, locale, paths in (
        (360, "light", "en", PATHS),
        (360, "dark", "zh-CN", ("/unreturned", "/audit")),
        (180, "dark", "zh-CN", ("/", "/incidents/I-1")),
    ):
        context, page, complaints = await tab(
            browser, viewport={"width": wide, "height": 740}, color_scheme=scheme, locale=locale
        )
        for path in paths:
            await page.goto(page_url + path)
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= wide, (path, width, await page.evaluate(WIDE, wide))
            found = await AXE.run(page)
            broken = [
                (one["id"], [node["html"][:200] for node in one["nodes"]])
                for one in found.response["violations"]
            ]
            assert broken == [], (path, scheme)
        assert [one for one in complaints if "404" not in one] == []
        await context.close()


async def test_what_changes_is_pushed_and_a_second_click_does_nothing(
    browser, page_url, pg
) -> None:
    context, page, complaints = await tab(browser)
    await page.goto(page_url)
    await page.wait_for_selector("#incident-1")
    number = await pg.fetchval(INCIDENT, "another night", 5)
    await pg.execute(CASE.replace("'e' || n", "'f' || n"), "other", number, 5)
    await page.wait_for_selector(f"#incident-{number}", timeout=30_000)  # nobody reloaded it
    await page.click(f"#incident-{number}")
    await page.fill("form[action='/acts/close-incident'] input[name=reason]", "told them")
    await page.dblclick("form[action='/acts/close-incident'] button")
    await page.wait_for_selector("text=told them")
    closed = "SELECT count(*) FROM relay.audit_log WHERE subject = $1 AND action = 'close'"
    assert await pg.fetchval(closed, f"I-{number}") == 1
    assert complaints == []
    await context.close()


async def test_the_worst_incident_is_found_by_keyboard_and_without_javascript(
    browser, page_url
) -> None:
    context, page, _complaints = await tab(browser)
    await page.goto(page_url)
    await page.keyboard.press("/")
    await page.keyboard.type("I-1")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/incidents/I-1")
    await context.close()
    context, page, _complaints = await tab(browser, java_script_enabled=False)
    await page.goto(page_url)
    assert re.search("119 orders\\s+LOST\\s+at\\s+4 return", await page.inner_text("h1"))
    await page.click("#incident-1")
    assert "relay replay --incident I-1" in await page.inner_text("main")
    await page.click("form[action='/acts/plan'] button")
    assert "Nothing is sent yet." in await page.inner_text("main")
    await context.close()


async def test_two_browsers_a_stale_tab_and_the_back_button_do_nothing_twice(
    browser, page_url, pg
) -> None:
    number = await pg.fetchval(INCIDENT, "another night", 5)
    await pg.execute(CASE.replace("'e' || n", "'f' || n"), "other", number, 5)
    form = "form[action='/acts/close-incident']"
    both = [await tab(browser, java_script_enabled=False) for _ in range(2)]
    for _context, page, _complaints in both:
        await page.goto(f"{page_url}/incidents/I-{number}")
    (_, first, _), (_, second, _) = both
    await first.fill(f"{form} input[name=reason]", "told the customers")
    await first.click(f"{form} button")
    await second.fill(f"{form} input[name=reason]", "did not know")
    await second.click(f"{form} button")
    assert "closed already by" in await second.inner_text("main")
    assert "told the customers" in await second.inner_text("main")
    await second.go_back()  # no cache has the form as it was drawn
    assert await second.locator(form).count() == 0
    assert "told the customers" in await second.inner_text("main")
    done = await pg.fetch(
        "SELECT why FROM relay.audit_log WHERE subject = $1 AND action = 'close'", f"I-{number}"
    )
    assert [row["why"] for row in done] == ["told the customers"]
    for context, _page, _complaints in both:
        await context.close()


async def test_an_act_is_done_by_keyboard_alone(browser, page_url, pg) -> None:
    context, page, _complaints = await tab(browser)
    await page.goto(f"{page_url}/incidents/I-1")
    for _ in range(200):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.matches('[action$=note] [name=reason]')"):
            break
    ring = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert ring == "solid"  # whoever tabs sees where he is
    await page.keyboard.type("asked the warehouse")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("text=asked the warehouse")
    who = "SELECT count(*) FROM relay.audit_log WHERE action = 'note' AND subject = 'I-1'"
    assert await pg.fetchval(who) == 1
    await context.close()
