"""The report of many nights: how many are right, each class of wrong findings with its seeds."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.nights.judge import Wrong

PROPERTY = "night"
_SEEDS_SHOWN = 12


@dataclass
class Result:
    """One night, judged.

    Attributes:
        orders: and how many of them `diagnose` named right.
        drawn: what was drawn, in words.
    """

    seed: int
    drawn: str
    seconds: float = 0.0
    orders: int = 0
    right: int = 0
    failed: str = ""
    wrong: list[Wrong] = field(default_factory=list)

    def as_json(self) -> str:
        """Return it for a test's report and for the file of `NIGHTS_REPORT`."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str) -> "Result":
        """Read it back."""
        given = json.loads(text)
        return cls(**given | {"wrong": [Wrong(**one) for one in given["wrong"]]})

    def keep(self) -> None:
        """Append it to the file that NIGHTS_REPORT names: a long run may be interrupted."""
        if path := os.environ.get("NIGHTS_REPORT"):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(self.as_json() + "\n")


def report(results: Iterable[Result]) -> list[str]:
    """Return the lines: the figures, then each wrong finding with its seeds."""
    results = sorted(results, key=lambda one: one.seed)
    judged = [one for one in results if not one.failed]
    right = [one for one in judged if not one.wrong]
    orders, named = sum(one.orders for one in judged), sum(one.right for one in judged)
    blamed = sum(wrong.kind == "blamed" for one in judged for wrong in one.wrong)
    proven = sum(wrong.kind == "proven" for one in judged for wrong in one.wrong)
    lines = [
        f"nights: {len(right):,} of {len(judged):,} right"
        f" ({len(right) / max(1, len(judged)):.1%}); {named:,} of {orders:,} orders named right"
        f" ({named / max(1, orders):.2%}); {blamed} times a healthy hop was blamed,"
        f" {proven} times PROVEN was said over a loss"
    ]
    classes: dict[str, list[int]] = defaultdict(list)
    for one in judged:
        for wrong in one.wrong:
            key = f"{wrong.command}: {wrong.kind}: {wrong.cause}: said {wrong.said}"
            classes[key].append(one.seed)
    for key, seeds in sorted(classes.items(), key=lambda one: -len(one[1])):
        shown = ",".join(map(str, seeds[:_SEEDS_SHOWN]))
        more = f" and {len(seeds) - _SEEDS_SHOWN} more" if len(seeds) > _SEEDS_SHOWN else ""
        lines.append(f"  {len(seeds):>4} x {key}  [seeds {shown}{more}]")
    lines += [f"  not staged: night {one.seed}: {one.failed}" for one in results if one.failed]
    return lines
