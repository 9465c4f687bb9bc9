"""What was said of the corpus's orders: right, wrong, and what was said instead; and the figure."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from relay.diagnose.report.diagnosis import Diagnosis
from relay.diagnose.verdicts import found_something
from tests.corpus.fault import Fault, Label

PROPERTY = "corpus"
Said = tuple[str | None, str, str]


@dataclass
class Row:
    """One fault's orders.

    Attributes:
        blamed: how many of them were laid at the door of a hop that was healthy.
        instead: what was said of those not named right, as `hop verdict / cause`.
    """

    scene: str
    fault: str
    family: str
    label: str
    orders: int = 0
    right: int = 0
    blamed: int = 0
    instead: dict[str, int] = field(default_factory=dict)


@dataclass
class Tally:
    """The rows of one scene."""

    scene: str
    rows: list[Row] = field(default_factory=list)

    def add(self, name: str, family: str, label: Label, found: Sequence[Diagnosis]) -> None:
        """Compare what was said of one fault's orders with its label."""
        said = [_said(one) for one in found]
        wrong = [one for one in said if not fits(one, label)]
        accused = zip(found, said, strict=True)
        self.rows.append(
            Row(
                scene=self.scene,
                fault=name,
                family=family,
                label=written(label),
                orders=len(said),
                right=len(said) - len(wrong),
                blamed=sum(
                    found_something(one.verdict) and _blames(it, label) for one, it in accused
                ),
                instead=dict(Counter(map(written, wrong))),
            )
        )

    def judge(self, fault: Fault, found: Sequence[Diagnosis]) -> None:
        """Add the orders of a fault as it stands."""
        self.add(fault.name, fault.family, fault.label, found)

    @property
    def wrong(self) -> list[str]:
        """Everything that was not named right, for a test's message."""
        return [
            f"{row.fault}: {row.label} expected; said {row.instead}"
            for row in self.rows
            if row.right < row.orders
        ]

    def as_json(self) -> str:
        """Return the rows for a test report."""
        return json.dumps([asdict(row) for row in self.rows])


def _said(one: Diagnosis) -> Said:
    return None if one.hop is None else str(one.hop), str(one.verdict), str(one.cause)


def fits(said: Said, label: Label) -> bool:
    """Tell whether what was said is what is true."""
    return said[:2] == label[:2] and label[2] in (None, said[2])


def _blames(said: Said, label: Label) -> bool:
    """Tell whether a hop is accused that did its work."""
    return said[1] != "unknown" and said[0] is not None and said[0] != label[0]


def written(label: Label | Said) -> str:
    """Write a label for people."""
    hop, verdict, cause = label
    return f"{hop or '-'} {verdict} / {cause or 'any'}"


def table(rows: Iterable[Row]) -> list[str]:
    """Return the lines of the table, and the one figure in the last."""
    rows = list(rows)
    lines = [f"{'fault':<58} {'orders':>6} {'right':>6} {'wrong':>6}  label; said instead"]
    for row in rows:
        wrong = row.orders - row.right
        instead = "".join(f"; {count} x {said}" for said, count in row.instead.items())
        name = f"{row.scene}: {row.fault}"
        lines.append(f"{name:<58} {row.orders:>6} {row.right:>6} {wrong:>6}  {row.label}{instead}")
    return [*lines, figure(rows)]


def figure(rows: Sequence[Row]) -> str:
    """Return the one figure."""
    orders, right = sum(row.orders for row in rows), sum(row.right for row in rows)
    share = right / orders if orders else 0.0
    faults = len({(row.scene, row.fault) for row in rows})
    blamed = sum(row.blamed for row in rows)
    return (
        f"corpus: {right:,} of {orders:,} orders of {faults} faults named right ({share:.2%}), "
        f"{blamed} times a healthy hop was blamed"
    )
