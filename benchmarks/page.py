"""The operator's page among ten million orders: first paint in Chromium, and two hundred open tabs.

`relay web` runs as its users run it. A paint is what the browser itself reports
(`performance.getEntriesByType("paint")`), from the click on, and so is when all of the page is
there: the head of one that takes a while comes first. A tab is one open connection that is pushed
to, as an open page has; what the page's process costs is the kernel's account of it.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import psutil
from playwright.async_api import Page, async_playwright

from benchmarks.diagnosis import LOST, RELAY
from benchmarks.diagnosis_data import Month
from benchmarks.quiet import wait_for_quiet
from benchmarks.report import Report, say
from benchmarks.servers import Servers
from benchmarks.settings import Settings
from relay.diagnose.watch.round import WatchOptions
from relay.diagnose.watch.watchdog import watch_once
from relay.runtime.settings import load_settings

TABS: Final = 200
_VISITS: Final = 7
_SETTLE_SECONDS: Final = 15
_PAINT: Final = """
() => {
  const paint = performance.getEntriesByType("paint").find(one => one.name === "first-paint");
  const loaded = performance.getEntriesByType("navigation")[0];
  return paint && loaded.domInteractive
    ? [paint.startTime, loaded.responseStart, loaded.domInteractive] : null;
}
"""
_ARGUMENTS: Final = ("--no-sandbox", "--disable-gpu", "--no-first-run")


def run(servers: Servers, settings: Settings) -> None:
    """First paint of the operator's page among ten million orders; 200 open tabs."""
    url = servers.database("bench_page")
    month = Month(url, servers.bootstrap_servers, settings.retained, LOST)
    say(f"making {settings.retained:,} orders")
    month.make()
    measure(month.environment, month.order_id(month.one_in), settings)
    servers.drop("bench_page")


def measure(environment: Mapping[str, str], lost: str, settings: Settings) -> None:
    """Let a watchdog look, then time every page, then many tabs; print the table.

    Args:
        environment: the settings of the installation.
        lost: an order that did not come back.
        settings: `retained`, `seconds` and `patience_seconds` are used.
    """
    report = Report("page", f"{settings.retained:,} orders, {LOST:,} of them unreturned.")
    os.environ.update(environment)
    relay = load_settings()
    asyncio.run(watch_once(relay.database.dsn, relay.kafka, relay.flow, WatchOptions()))
    with _served(environment) as (url, pid):
        wait_for_quiet(settings.patience_seconds)
        asyncio.run(_paints(report, url, lost))
        asyncio.run(_tabs(report, url, pid, settings.seconds))
    report.show()


@contextmanager
def _served(environment: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Run `relay web` while the block runs; yield its address and process."""
    ports = {"RELAY_WEB_PORT": "0", "RELAY_METRICS_PORT": "0", "RELAY_LOG_FORMAT": "json"}
    environment = {**os.environ, **environment, **ports}
    with subprocess.Popen(
        [RELAY, "web"], env=environment, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stderr is not None
        for line in program.stderr:
            found = re.search(
                r'"page_ready".*?"url": ?"([^"]+)"|"url": ?"([^"]+)".*"page_ready"', line
            )
            if found:
                break
        else:
            sys.exit("relay web did not start")
        # What it says further is read, lest it waits for room.
        drain = subprocess.Popen(["cat"], stdin=program.stderr, stdout=subprocess.DEVNULL)
        yield found[1] or found[2], program.pid
        program.terminate()
        program.wait(30)
        drain.wait(10)


async def _paints(report: Report, url: str, lost: str) -> None:
    paths = {
        "Night": "/", "incidents": "/incidents", "one incident": "/incidents/I-1",
        "unreturned": "/unreturned", "a lost order": f"/orders/{lost}", "audit": "/audit",
    }  # fmt: skip
    chromium = shutil.which("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=[*_ARGUMENTS])
        page = await browser.new_page()
        await page.goto(url)  # the process's first look at everything is no page's
        for what, path in paths.items():
            times = [await _paint(page, url + path) for _ in range(_VISITS)]
            for paint, begun, whole in times:
                report.add(
                    f"first paint, {what}",
                    paint_ms=round(paint), first_byte_ms=round(begun), whole_ms=round(whole),
                )  # fmt: skip
        await browser.close()


async def _paint(page: Page, address: str) -> tuple[float, float, float]:
    await page.goto("about:blank")
    await page.goto(address)
    found = None
    while found is None:
        found = await page.evaluate(_PAINT)
    return found[0], found[1], found[2]


async def _tabs(report: Report, url: str, pid: int, seconds: int) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    for count in (0, 1, TABS):
        tabs = [await asyncio.open_connection(host, int(port)) for _ in range(count)]
        reading = [asyncio.create_task(_read(reader)) for reader, _ in tabs]
        for _, writer in tabs:
            request = f"GET /live?page=night HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"
            writer.write(request.encode())
        await asyncio.sleep(_SETTLE_SECONDS)
        process = psutil.Process(pid)
        before, started = _cpu(process), time.monotonic()
        await asyncio.sleep(seconds)
        share = (_cpu(process) - before) / (time.monotonic() - started)
        for _, writer in tabs:
            writer.close()
        got = [await one for one in reading]
        pushed = round(statistics.mean(got)) if got else None
        report.add(f"{count} open tabs", percent_of_a_core=round(100 * share, 2), bytes_each=pushed)


async def _read(reader: asyncio.StreamReader) -> int:
    got = 0
    try:
        while chunk := await reader.read(65_536):
            got += len(chunk)
    except ConnectionError:
        pass
    return got


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
