"""What a run used: CPU-seconds of relay, PostgreSQL, broker and everybody else; percentiles."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import psutil

from benchmarks.program import Program
from benchmarks.quiet import machine_seconds
from benchmarks.servers import Servers


def cpu_seconds(pid: int) -> float:
    """Return what a process, its children and those it reaped have used."""
    total = 0.0
    try:
        me = psutil.Process(pid)
        family = [me, *me.children(recursive=True)]
    except psutil.NoSuchProcess:
        return total
    for one in family:
        try:
            times = one.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _own_seconds() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


@dataclass(slots=True)
class Window:
    """CPU-seconds between its making and `end`. `programs` are relays; `others` are the harness's.

    `foreign` is what the machine did beside all of them: other people's work, which makes every
    figure worse.
    """

    servers: Servers
    programs: Sequence[Program]
    others: Sequence[int] = ()
    _before: list[float] = field(init=False)
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = time.perf_counter()
        self._before = self._now()

    def _now(self) -> list[float]:
        return [
            sum(cpu_seconds(program.pid) for program in self.programs),
            cpu_seconds(self.servers.postgres_pid),
            cpu_seconds(self.servers.kafka_pid),
            sum(map(cpu_seconds, self.others)) + _own_seconds(),
            machine_seconds(),
        ]

    def end(self) -> dict[str, float]:
        relay, postgres, kafka, harness, machine = (
            after - before for before, after in zip(self._before, self._now(), strict=True)
        )
        seconds = time.perf_counter() - self._started
        return {
            "relay_cpu_s": round(relay, 2),
            "relay_cpu_pct": round(100 * relay / seconds, 1),
            "pg_cpu_s": round(postgres, 2),
            "kafka_cpu_s": round(kafka, 2),
            "foreign_cpu_s": round(machine - relay - postgres - kafka - harness, 2),
            "load1": round(os.getloadavg()[0], 2),
        }


def percentile(values: Sequence[float], fraction: float) -> float:
    """Return a percentile of at least one value."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]


def percentiles(values: Iterable[float], unit: str = "ms") -> dict[str, float]:
    """Return p50, p95, p99 and the maximum, named by unit."""
    ordered = sorted(values)
    if not ordered:
        return {}
    found = {f"p{int(f * 100)}_{unit}": percentile(ordered, f) for f in (0.5, 0.95, 0.99)}
    return {name: round(value, 2) for name, value in {**found, f"max_{unit}": ordered[-1]}.items()}
