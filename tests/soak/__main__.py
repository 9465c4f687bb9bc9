"""Steady load for a chosen time: `python -m tests.soak --minutes 60`.

Watches memory, file handles and connections of every process; afterwards all orders must have come
back, and the verdict is by slope. Every so often connections are cut: what is made anew must not
leave the old behind. With `--foreign-transaction` somebody's transaction stays open for the whole
time, and nothing is cut: it must not delay anybody's events. How long they take without it is
measured first, under the same load.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil

from benchmarks.collecting import collecting
from tests.faults.__main__ import end_on_sigterm
from tests.faults.client import Client, Habits
from tests.faults.report import quantile
from tests.faults.rounds import Result, Round
from tests.faults.stage import Stage, a_stage, until
from tests.soak.slopes import Finding, Sample, judge, verdict

_CUT_SECONDS = 45.0


def sample(pid: int, began: float) -> Sample:
    process = psutil.Process(pid)
    with process.oneshot():
        return Sample(
            time.monotonic() - began,
            process.memory_info().rss,
            process.num_fds(),
            len(process.net_connections("tcp")),
        )


async def watch(
    stage: Stage, seconds: float, every: float, *, cuts: bool
) -> dict[str, list[Sample]]:
    """Sample every process until the time is over; cut connections now and then."""
    began, samples = time.monotonic(), {name: list[Sample]() for name in stage.programs}
    cut_at = began + (_CUT_SECONDS if cuts else float("inf"))
    while time.monotonic() - began < seconds:
        await asyncio.sleep(every)
        for name, program in stage.programs.items():
            samples[name].append(await asyncio.to_thread(sample, program.pid, began))
        if time.monotonic() >= cut_at:
            cut_at = time.monotonic() + _CUT_SECONDS
            for proxy in stage.all_proxies():
                proxy.cut()
    return samples


@asynccontextmanager
async def foreign_transaction(stage: Stage) -> AsyncIterator[None]:
    """Hold a transaction with a number of its own open."""
    connection = await asyncpg.connect(stage.dsn)
    await connection.execute("BEGIN")
    await connection.execute("SELECT pg_current_xact_id()")
    yield
    await connection.execute("ROLLBACK")
    await connection.close()


@dataclass(frozen=True)
class Delays:
    """How long events took from COMMIT's reply to a foreign reader, ascending, in seconds."""

    before: list[float]
    beside: list[float]

    @classmethod
    def of(cls, stage: Stage, client: Client, held_at: float) -> "Delays":
        """Divide them at the moment from which the transaction was held."""
        seen: dict[str, float] = {}
        for record in stage.events.records:
            seen.setdefault(record.record_id, record.seen_at)
        took = [(at, seen[one] - at) for one, at in client.committed_at.items() if one in seen]
        before = sorted(seconds for at, seconds in took if at < held_at)
        return cls(before, sorted(seconds for at, seconds in took if at >= held_at))

    def lines(self, *, foreign: bool) -> list[str]:
        """Say it."""
        lines = [f"from COMMIT to a foreign reader: {_quantiles(self.beside)}"]
        if foreign:
            lines[0] += " beside an open transaction"
            lines.append(f"                       and before it: {_quantiles(self.before)}")
        return lines


def _quantiles(seconds: list[float]) -> str:
    return (
        f"p50 {quantile(seconds, 0.5):.3f} s, p99 {quantile(seconds, 0.99):.3f} s,"
        f" longest {seconds[-1]:.3f} s"
    )


async def soak(
    minutes: float, rate: float, keep: Path | None, *, foreign: bool
) -> tuple[list[Finding], Result, Delays]:
    """Place `rate` orders a second; return the findings, the judgement, and the delays."""
    seconds = minutes * 60
    async with AsyncExitStack() as stack:
        # Spans that nobody takes would fill their queue, and look like a leak.
        collector = stack.enter_context(collecting())
        stage = await stack.enter_async_context(a_stage(keep=keep, collector=collector))
        await until(stage.all_came_up, 60)
        without = min(60.0, seconds / 5) if foreign else 0.0
        whole = seconds + without
        habits = Habits(orders=int(whole * rate), seconds=whole, writers=6)
        client = Client(stage.client_dsn, stage.journal, habits, random.Random(1))
        client.enough.set()
        placing = asyncio.create_task(client.run())
        await asyncio.sleep(without)
        if foreign:
            await stack.enter_async_context(foreign_transaction(stage))
        held_at = time.monotonic()
        every = max(1.0, min(10.0, seconds / 60))
        samples = await watch(stage, seconds, every, cuts=not foreign)
        await placing
        result = await Round(stage, 1, 1, [], habits).judged()
        late = Delays.of(stage, client, held_at)
    return [judge(name, found) for name, found in samples.items()], result, late


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=100.0, help="orders a second")
    parser.add_argument("--keep", type=Path, help="folder for the journal and the logs")
    parser.add_argument("--json", type=Path, help="file for the findings as JSON")
    parser.add_argument("--foreign-transaction", action="store_true", help="held all the time")
    options = parser.parse_args()
    foreign = options.foreign_transaction
    end_on_sigterm()
    findings, result, late = asyncio.run(
        soak(options.minutes, options.rate, options.keep, foreign=foreign)
    )
    for one in findings:
        sys.stdout.write(one.line() + "\n")
    sys.stdout.write(
        f"{result.orders} orders, {result.events} events, {result.duplicates} repeated,"
        f" {len(result.violations)} promises broken\n"
    )
    sys.stdout.writelines(f"{line}\n" for line in late.lines(foreign=foreign))
    for violation in result.violations[:20]:
        sys.stdout.write(f"  {violation}\n")
    if options.json:
        options.json.write_text(json.dumps([one.line() for one in findings]), encoding="utf-8")
    good = verdict({one.name: one for one in findings}) and not result.violations
    sys.stdout.write("steady\n" if good else "NOT STEADY\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
