"""How much a run of the benchmarks does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes; the defaults are those of docs/performance.md."""

    runs: int = 3
    rows: int = 300_000
    retained: int = 10_000_000
    seconds: int = 30
