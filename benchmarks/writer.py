"""The order service's load, in a process of its own: started by the workloads, one JSON job each.

Paced orders come when they are due, on whichever connection is free; what was not written in time
shows in the rate.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import uvloop


@dataclass(frozen=True, slots=True)
class Job:
    """What to write.

    Attributes:
        statement: writes order number $1; with `contended`, of aggregate $2.
        rate: orders a second; None: as fast as they commit.
        start: the first number.
        contended: how many aggregates everybody wants; 0: each order its own.
    """

    url: str
    statement: str
    seconds: float
    start: int
    rate: float | None = None
    connections: int = 16
    contended: int = 0


@dataclass(slots=True)
class Written:
    """What was written: when each order's commit returned (Unix ms), and how long it took (ms)."""

    count: int = 0
    seconds: float = 0.0
    committed_ms: dict[int, float] = field(default_factory=dict)
    took_ms: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.count / self.seconds


class Writing:
    """A writer that runs; `join` waits for its end."""

    def __init__(self, job: Job) -> None:
        command = [sys.executable, "-m", "benchmarks.writer", json.dumps(asdict(job))]
        root = Path(__file__).resolve().parent.parent
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self) -> None:
        """Wait until it begins to write."""
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the writer did not start")

    def join(self) -> Written:
        assert self._process.stdout is not None
        found = json.loads(self._process.stdout.read())
        if self._process.wait() != 0:
            raise RuntimeError("the writer failed")
        found["committed_ms"] = {int(i): ms for i, ms in found["committed_ms"].items()}
        return Written(**found)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def writing(job: Job) -> Iterator[Writing]:
    """Start a writer and wait until it writes."""
    writer = Writing(job)
    try:
        writer.ready()
        yield writer
    finally:
        writer.stop()


def write(job: Job) -> Written:
    """Write, and wait for the end."""
    with writing(job) as writer:
        return writer.join()


async def _main(job: Job) -> None:
    connections = [await asyncpg.connect(job.url) for _ in range(job.connections)]
    statements = [await one.prepare(job.statement) for one in connections]
    print("ready", flush=True)
    numbers, written = itertools.count(job.start), Written()
    started = time.perf_counter()

    async def paced(statement: Any, rate: float) -> None:
        total = int(rate * job.seconds)
        for number in numbers:
            if number - job.start >= total:
                return
            due = started + (number - job.start) / rate
            if (ahead := due - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            begun = time.perf_counter()
            await statement.fetchval(number)
            _note(written, number, begun)

    async def unpaced(statement: Any) -> None:
        dice = random.Random(id(statement))
        while (begun := time.perf_counter()) - started < job.seconds:
            number = next(numbers)
            more = (dice.randrange(job.contended),) if job.contended else ()
            await statement.fetchval(number, *more)
            _note(written, number, begun)

    await asyncio.gather(
        *(unpaced(one) if job.rate is None else paced(one, job.rate) for one in statements)
    )
    written.seconds = time.perf_counter() - started
    print(json.dumps(asdict(written)))


def _note(written: Written, number: int, begun: float) -> None:
    written.count += 1
    written.committed_ms[number] = time.time() * 1000
    written.took_ms.append((time.perf_counter() - begun) * 1000)


if __name__ == "__main__":
    uvloop.run(_main(Job(**json.loads(sys.argv[1]))))
