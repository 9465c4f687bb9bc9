"""What a long run says: does anything grow without end?

Pure. The first third is warm-up and does not count. Memory is judged by its slope over the rest, a
straight line through all samples; file handles and connections by their levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# A process that is judged over minutes may still fill its pools and caches.
MOST_BYTES_AN_HOUR = 30_000_000
LEAST_GROWTH_BYTES = 6_000_000
MOST_MORE = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment."""

    at_seconds: float
    memory_bytes: int
    handles: int
    connections: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One process over the whole run."""

    name: str
    memory_bytes: tuple[int, int]
    bytes_an_hour: float
    handles: tuple[int, int]
    connections: tuple[int, int]
    problems: tuple[str, ...]

    def line(self) -> str:
        first, last = (one / 1e6 for one in self.memory_bytes)
        return (
            f"{self.name:<12} memory {first:6.1f} -> {last:6.1f} MB"
            f" ({self.bytes_an_hour / 1e6:+7.1f} MB/h), handles {self.handles[0]:>3} ->"
            f" {self.handles[1]:>3}, connections {self.connections[0]:>2} ->"
            f" {self.connections[1]:>2}  {'; '.join(self.problems) or 'steady'}"
        )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the least-squares slope of (x, y) points; 0 for fewer than two places."""
    if not points:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def judge(name: str, samples: Sequence[Sample]) -> Finding:
    """Judge one process by at least six samples.

    Raises:
        ValueError: there are too few of them.
    """
    if len(samples) < 6:
        raise ValueError(f"{name}: {len(samples)} samples are too few to judge")
    settled = samples[len(samples) // 3 :]
    first, last = settled[0], settled[-1]
    third = max(1, len(settled) // 3)
    per_second = slope([(one.at_seconds, one.memory_bytes) for one in settled])
    grown = per_second * (last.at_seconds - first.at_seconds)
    problems = []
    if per_second * 3600 > MOST_BYTES_AN_HOUR and grown > LEAST_GROWTH_BYTES:
        problems.append("memory grows")
    for what in ("handles", "connections"):
        early = max(getattr(one, what) for one in settled[:third])
        late = min(getattr(one, what) for one in settled[-third:])
        if late > early + MOST_MORE:
            problems.append(f"{what} grow")
    return Finding(
        name,
        (first.memory_bytes, last.memory_bytes),
        per_second * 3600,
        (first.handles, last.handles),
        (first.connections, last.connections),
        tuple(problems),
    )


def verdict(findings: Mapping[str, Finding]) -> bool:
    """Whether nothing grows."""
    return not any(one.problems for one in findings.values())
