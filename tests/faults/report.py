"""The figures of a run: violations by invariant, repeats, and recovery by kind of fault."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.faults.judge import Violation
from tests.faults.kinds import KINDS
from tests.faults.rounds import Result

INVARIANTS = (
    "lost",
    "rolled back, yet published",
    "never committed, yet published",
    "first occurrences out of order",
    "another event's record",
    "order lost",
    "not returned",
    "wrong status",
    "wrong history",
    "the checkpoint went backwards",
    "an offset went backwards",
    "a stale epoch's write was accepted",
    "no recovery",
    "not drained",
)


@dataclass
class Report:
    """Of all rounds so far."""

    seed: int
    brokers: int
    rounds: int = 0
    seconds: float = 0.0
    last: Result | None = None
    violations: list[Violation] = field(default_factory=list)
    recovery: dict[str, list[float]] = field(default_factory=dict)
    played: Counter[str] = field(default_factory=Counter)
    exit_codes: dict[str, int] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        self.rounds += 1
        self.seconds += result.seconds
        self.last = result
        # What is wrong in one round is found again in each one after.
        known = set(self.violations)
        self.violations += [one for one in result.violations if one not in known]
        self.played.update(result.kinds)
        for kind, seconds in result.recovery.items():
            self.recovery.setdefault(kind, []).append(seconds)

    @property
    def ok(self) -> bool:
        return not self.violations and not any(self.exit_codes.values())

    def by_invariant(self) -> dict[str, int]:
        found = Counter(one.invariant for one in self.violations)
        return {name: found.get(name, 0) for name in (*INVARIANTS, *(found.keys() - {*INVARIANTS}))}

    @property
    def duplicates_per_million(self) -> float:
        if self.last is None or not self.last.events:
            return 0.0
        return 1e6 * self.last.duplicates / self.last.events

    def text(self) -> str:
        if self.last is None:
            return "no round was played\n"
        lines = [
            f"\n{self.rounds} rounds in {self.seconds / 60:.1f} min (seed {self.seed},"
            f" {self.brokers} broker(s)): {self.last.orders} orders, {self.last.events} events,"
            f" {self.last.duplicates} repeated ({self.duplicates_per_million:.0f} per million)",
            "",
            *(f"  {name:<38} {count}" for name, count in self.by_invariant().items()),
            "",
            f"  {'recovery (faults alone in a round)':<38} {'n':>4} {'p50':>7} {'p99':>7}   goal",
            *(self._recovery_line(kind) for kind in sorted(self.recovery)),
            "",
            f"  exit codes at the end: {self.exit_codes}",
        ]
        lines += [f"  {one}" for one in self.violations[:50]]
        return "\n".join(lines) + "\n"

    def _recovery_line(self, kind: str) -> str:
        found = sorted(self.recovery[kind])
        goal = KINDS[kind].goal_seconds
        return (
            f"  {kind:<38} {len(found):>4} {quantile(found, 0.5):>6.1f}s"
            f" {quantile(found, 0.99):>6.1f}s {'' if goal is None else f'{goal:.0f}s':>7}"
        )

    def json(self) -> str:
        return json.dumps(
            {
                "seed": self.seed,
                "brokers": self.brokers,
                "rounds": self.rounds,
                "seconds": round(self.seconds, 1),
                "orders": self.last.orders if self.last else 0,
                "events": self.last.events if self.last else 0,
                "duplicates_per_million": round(self.duplicates_per_million, 1),
                "violations": self.by_invariant(),
                "faults": dict(self.played),
                "recovery_seconds": {
                    kind: {
                        "n": len(found),
                        "p50": round(quantile(sorted(found), 0.5), 2),
                        "p99": round(quantile(sorted(found), 0.99), 2),
                        "goal": KINDS[kind].goal_seconds,
                    }
                    for kind, found in self.recovery.items()
                },
                "exit_codes": self.exit_codes,
            },
            indent=2,
        )


def quantile(ascending: Sequence[float], share: float) -> float:
    """Return the smallest value with at least this share of all at or below it."""
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]
