"""Diagnosis among ten million orders of which ten thousand are unreturned, as a month left them.

What is asked of a program that runs already is timed in this process; what somebody types is timed
as a process, its start apart. The broker's own time is that between its first question and its last
answer.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.diagnosis_data import Month
from benchmarks.quiet import wait_for_quiet
from benchmarks.report import Report, say
from benchmarks.servers import Servers
from benchmarks.settings import Settings
from relay.diagnose.gather import orders as gathering
from relay.diagnose.gather.orders import GatherOptions
from relay.diagnose.session import Session, session
from relay.diagnose.status.reading import read_status
from relay.diagnose.unreturned import QUICK, list_unreturned
from relay.diagnose.watch.round import WatchOptions
from relay.diagnose.watch.watchdog import watch_once
from relay.runtime.settings import Settings as RelaySettings
from relay.runtime.settings import load_settings

RELAY = Path(sys.executable).with_name("relay")
LOST = 10_000
_ONE_RUNS = 7


def run(servers: Servers, settings: Settings) -> None:
    """`diagnose` of one and of 10,000, `unreturned` and `status` among ten million orders."""
    url = servers.database("bench_diagnosis")
    month = Month(url, servers.bootstrap_servers, settings.retained, LOST)
    say(f"making {settings.retained:,} orders")
    month.make()
    measure(month, settings)
    servers.drop("bench_diagnosis")


def measure(month: Month, settings: Settings) -> None:
    """Time everything; print the table."""
    report = Report(
        "diagnosis", f"{month.orders:,} orders, {month.lost:,} unreturned, 14 days of positions."
    )
    os.environ.update(month.environment)
    relay = load_settings()
    wait_for_quiet(settings.patience_seconds)
    asyncio.run(_in_process(month, report, relay, settings.runs))
    _as_typed(month, report, settings.runs)
    report.show()


@dataclass(slots=True)
class _BrokerTime:
    """How long the broker was asked, within a diagnosis."""

    seconds: float = 0.0
    _real: Any = field(default=None)

    def __enter__(self) -> Self:
        self._real = gathering.read_broker

        async def timed(*args: Any, **given: Any) -> Any:
            started = time.perf_counter()
            try:
                return await self._real(*args, **given)
            finally:
                self.seconds += time.perf_counter() - started

        gathering.read_broker = timed  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        gathering.read_broker = self._real


async def _in_process(month: Month, report: Report, relay: RelaySettings, runs: int) -> None:
    async with _opened(relay) as opened:
        found = await opened.open_orders(at_most=2 * LOST)
        lost = [one.order_id for one in found]
        assert len(lost) == month.lost, f"{len(lost)} are open"
        ones = {
            "a returned order": month.order_id(month.orders // 2 + 1),
            "a lost one, 15 days old": lost[len(lost) // 2],
            "a lost one of today": lost[-1],
        }
        for what, order_id in ones.items():
            for _ in range(_ONE_RUNS):
                await _diagnose(opened, report, f"diagnose, {what}", [order_id])
        for _ in range(runs):
            await _diagnose(opened, report, f"diagnose, {len(lost):,} together", lost)
    for _ in range(runs):
        await _unreturned(report, relay, "unreturned, nobody watched")
    started = time.perf_counter()
    await watch_once(relay.database.dsn, relay.kafka, relay.flow, WatchOptions())
    report.add("the watchdog's first round", seconds=time.perf_counter() - started)
    for _ in range(runs):
        await _unreturned(report, relay, "unreturned, a watchdog watched")
    for _ in range(runs):
        started = time.perf_counter()
        status = await read_status(relay.database.dsn, relay.kafka, relay.flow)
        assert not status.missing, status.missing
        report.add("status", seconds=time.perf_counter() - started)


@asynccontextmanager
async def _opened(
    relay: RelaySettings, options: GatherOptions | None = None
) -> AsyncIterator[Session]:
    async with session(relay.database.dsn, relay.kafka, relay.flow, options) as opened:
        yield opened


async def _diagnose(opened: Session, report: Report, what: str, ids: Sequence[str]) -> None:
    with _BrokerTime() as broker:
        started = time.perf_counter()
        diagnoses = await opened.diagnose(ids)
        seconds = time.perf_counter() - started
    verdicts = Counter(f"{one.verdict.value} / {one.cause.value}" for one in diagnoses)
    report.add(
        what,
        seconds=seconds,
        of_it_broker=broker.seconds,
        without_broker=seconds - broker.seconds,
        verdicts=", ".join(f"{count:,} {verdict}" for verdict, count in verdicts.items()),
    )


async def _unreturned(report: Report, relay: RelaySettings, what: str) -> None:
    async with _opened(relay, GatherOptions(None, QUICK)) as opened:
        started = time.perf_counter()
        found = await list_unreturned(opened, None, 100_000)
        seconds = time.perf_counter() - started
    by_hop = ", ".join(f"{count:,} {hop}" for hop, count in found.by_hop().items())
    report.add(what, seconds=seconds, verdicts=by_hop)


def _as_typed(month: Month, report: Report, runs: int) -> None:
    lost = month.order_id(month.one_in * (month.lost // 2))
    commands = {
        "typed: relay --version (start-up)": ["--version"],
        "typed: relay diagnose ONE": ["diagnose", lost],
        "typed: relay unreturned": ["unreturned"],
        "typed: relay status": ["status"],
    }
    env = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
    for what, arguments in commands.items():
        for _ in range(runs):
            report.add(what, seconds=_typed(arguments, env | month.environment))


def _typed(arguments: Sequence[str], env: Mapping[str, str]) -> float:
    started = time.perf_counter()
    done = subprocess.run([RELAY, *arguments], check=False, capture_output=True, env=dict(env))
    seconds = time.perf_counter() - started
    assert done.returncode in (0, 3), done.stderr.decode()
    return seconds
