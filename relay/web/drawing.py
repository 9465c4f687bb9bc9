"""Where the marks of the page's pictures stand: pure geometry, drawn by the templates.

Invariant: nothing is drawn that is not in what was read; a picture has at most so many marks, and
says when there would be more. Lengths are units of the picture's own box.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from zlib import crc32

from relay.diagnose.status.minutes import Minutes
from relay.diagnose.verdicts import HOPS, Fate
from relay.diagnose.watch.case_pages import CaseSeen
from relay.diagnose.watch.happened import Happened

WIDTH: Final = 1000.0
LEFT: Final = 96.0
LANE: Final = 30.0
TOP: Final = 64.0
_MARK: Final = 7.0
EVENTS_SHOWN: Final = 40
# Units that a number takes, and the rows in which numbers stand.
_NUMBER: Final = 18.0
_ROWS: Final = 4


@dataclass(frozen=True, slots=True)
class Axis:
    """Time from left to right."""

    from_at: datetime
    to_at: datetime

    def x(self, at: datetime) -> float:
        """Return where a time stands; beyond the ends: at the end."""
        whole = (self.to_at - self.from_at).total_seconds() or 1.0
        share = (at - self.from_at).total_seconds() / whole
        return round(LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - 8), 1)

    def ticks(self, at_most: int = 8) -> list[tuple[float, datetime]]:
        """Return round times with their places."""
        seconds = (self.to_at - self.from_at).total_seconds()
        step = next((one for one in _STEPS if seconds / one <= at_most), _STEPS[-1])
        first = int(self.from_at.timestamp()) // step * step + step
        return [
            (self.x(at), at)
            for number in range(at_most + 1)
            if (at := datetime.fromtimestamp(first + number * step, self.from_at.tzinfo))
            < self.to_at
        ]


_STEPS: Final = (10, 30, 60, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400, 604_800)


@dataclass(frozen=True, slots=True)
class Cell:
    """A rectangle with a word for its colour, and a text for whoever points at it."""

    x: float
    y: float
    width: float
    height: float
    look: str
    from_at: datetime
    placed: int
    stuck: int
    lost: int


@dataclass(frozen=True, slots=True)
class Band:
    """The orders of a stretch by minute: how many were placed, and how far they came."""

    axis: Axis
    bars: Sequence[Cell]
    cells: Sequence[Cell]
    lanes: Sequence[tuple[str, float]]
    most: int
    due_x: float
    height: float
    exact: bool
    whole: bool


def band(minutes: Minutes, deadline_seconds: float) -> Band:
    """Lay out the completeness of a stretch: a bar of what was placed, and a lane for each hop."""
    axis = Axis(minutes.from_at, minutes.to_at)
    step = (WIDTH - LEFT - 8) / len(minutes.buckets)
    most = max((one.placed for one in minutes.buckets), default=0)
    bars, cells = [], []
    for number, one in enumerate(minutes.buckets):
        x = round(LEFT + number * step, 1)
        lost = sum(one.lost.values())
        stuck = sum(one.stuck.values())
        if one.placed:
            height = max(2.0, 40.0 * one.placed / most)
            bars.append(
                Cell(
                    x, 44 - height, step - 1, height, "placed", one.from_at, one.placed, stuck, lost
                )
            )
        for lane, hop in enumerate(HOPS):
            here = minutes.stuck_before(hop.value, one)
            gone = sum(one.lost.get(each.value, 0) for each in HOPS[: lane + 1])
            look = "none" if not one.placed else "lost" if gone else "delayed" if here else "fine"
            if one.placed:
                y = 50.0 + lane * 16
                cells.append(Cell(x, y, step - 1, 13, look, one.from_at, one.placed, here, gone))
    lanes = [(hop.value, 60.0 + lane * 16) for lane, hop in enumerate(HOPS)]
    due = minutes.to_at - timedelta(seconds=deadline_seconds)
    return Band(
        axis, bars, cells, lanes, most, axis.x(due), 50.0 + 16 * len(HOPS) + 18,
        exact=minutes.exact, whole=minutes.whole,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Marks:
    """Orders of one lane that look alike, as the path of an SVG."""

    look: str
    path: str
    count: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Something that lasted, over its hop's lane (or all of them)."""

    x: float
    width: float
    y: float
    height: float
    event: Happened


@dataclass(slots=True)
class TimeLine:
    """An incident on one time axis: lanes of orders below, what happened above.

    Attributes:
        events: with the number that stands at its place, and the place.
    """

    axis: Axis
    lanes: Sequence[tuple[str, float]]
    marks: Sequence[Marks]
    bars: Sequence[Cell]
    stretches: Sequence[Stretch]
    events: Sequence[tuple[int, float, float, Happened]]
    window: tuple[float, float]
    height: float
    whole: bool
    left_out: int = 0
    lookup: dict[str, int] = field(default_factory=dict)


def time_line(
    axis: Axis,
    window: tuple[datetime, datetime],
    cases: Iterable[CaseSeen],
    minutes: Minutes,
    happened: Sequence[Happened],
    *,
    whole: bool,
) -> TimeLine:
    """Lay out an incident.

    Args:
        axis: the stretch that is shown.
        window: when its first and its last order were placed.
        cases: the orders to draw.
        minutes: how many orders were placed meanwhile.
        happened: what was recorded meanwhile.
        whole: whether `cases` are all there are.
    """
    names = [hop.value for hop in HOPS] + ["returned"]
    tops = {name: TOP + 44 + number * LANE for number, name in enumerate(names)}
    paths: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for one in cases:
        lane, look = _lane(one)
        y = tops.get(lane, tops["returned"]) + crc32(one.event_id.encode()) % int(LANE - _MARK - 4)
        paths[lane, look].append(f"M{axis.x(one.placed_at)} {y + 2:.0f}v{_MARK:.0f}")
    marks = [Marks(look, "".join(parts), len(parts)) for (_, look), parts in paths.items()]
    told = [one for one in happened if one.at >= axis.from_at][:EVENTS_SHOWN]
    return TimeLine(
        axis=axis,
        lanes=list(tops.items()),
        marks=marks,
        bars=_bars(minutes, axis),
        stretches=[_stretch(axis, one, tops) for one in happened if one.to_at is not None],
        events=_numbered(axis, told),
        window=(axis.x(window[0]), axis.x(window[1])),
        height=TOP + 44 + LANE * len(names) + 22,
        whole=whole,
        left_out=max(0, len(happened) - len(told)),
    )


def _numbered(axis: Axis, told: Sequence[Happened]) -> list[tuple[int, float, float, Happened]]:
    """Give each a number and a place above the lanes, where it covers no other number."""
    taken = [-_NUMBER] * _ROWS
    placed = []
    for number, one in enumerate(told, 1):
        x = axis.x(one.at)
        row = next((row for row, end in enumerate(taken) if x - end >= _NUMBER), _ROWS - 1)
        taken[row] = x
        placed.append((number, x, 12.0 + 13 * row, one))
    return placed


def _lane(one: CaseSeen) -> tuple[str, str]:
    if one.closed_as == "returned":
        return "returned", "fine"
    if one.closed_as is not None:
        return one.hop, "closed"
    return one.hop, one.fate.value if one.fate is not Fate.FINE else "fine"


def _bars(minutes: Minutes, axis: Axis) -> list[Cell]:
    most = max((one.placed for one in minutes.buckets), default=0)
    step = (WIDTH - LEFT - 8) / len(minutes.buckets)
    return [
        Cell(
            round(axis.x(one.from_at), 1), TOP + 40 - 36 * one.placed / most, step - 1,
            max(1.0, 36 * one.placed / most), "placed", one.from_at, one.placed,
            sum(one.stuck.values()), sum(one.lost.values()),
        )
        for one in minutes.buckets
        if one.placed
    ]  # fmt: skip


def _stretch(axis: Axis, one: Happened, tops: dict[str, float]) -> Stretch:
    x, end = axis.x(one.at), axis.x(one.to_at or one.at)
    if one.hop in tops:
        return Stretch(x, max(2.0, end - x), tops[one.hop], LANE - 2, one)
    first, last = min(tops.values()), max(tops.values())
    return Stretch(x, max(2.0, end - x), first, last - first + LANE - 2, one)
