"""How much a run of the benchmarks does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes; the defaults are those of docs/performance.md.

    Attributes:
        seconds: of a load that goes on.
        patience_seconds: before each measurement, the longest wait for the machine to be quiet.
    """

    runs: int = 3
    rows: int = 300_000
    retained: int = 10_000_000
    seconds: int = 30
    patience_seconds: float = 15.0
