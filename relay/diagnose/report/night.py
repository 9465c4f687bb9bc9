"""The state of the night in one sentence.

How many, where, since when, why, and whether it grows.

Invariant: pure; it adds up what the watchdog recorded and judges nothing anew. Where nobody looks,
"none" is not said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from relay.diagnose.verdicts import Fate
from relay.diagnose.watch.case_pages import CaseKind
from relay.diagnose.watch.looked import Looked

# An order placed so long before now would be recorded by now: a round, and what it takes.
_ROUND: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Headline:
    """What is wrong, in numbers; the page and the command line make a sentence of it.

    Attributes:
        fate: of the worst orders; FINE: none is overdue; UNKNOWN with no `kind`: nobody looks.
        orders: how many have that fate.
        kind: the largest kind among them; None: there is none.
        kinds: how many kinds have that fate.
        growing: whether orders that are placed now still join it; None: that is not known.
        exact: False: there are more than were counted.
    """

    fate: Fate
    orders: int = 0
    kind: CaseKind | None = None
    kinds: int = 0
    growing: bool | None = None
    exact: bool = True


def headline(
    kinds: Sequence[CaseKind],
    looked: Looked | None,
    now_at: datetime,
    deadline_seconds: float,
    *,
    exact: bool = True,
) -> Headline:
    """Say what the open cases come to.

    Args:
        kinds: the open cases, counted.
        looked: whether a watchdog looks; None: not known.
        now_at: the time of the counts.
        deadline_seconds: the flow's longest.
        exact: whether all were counted.
    """
    for fate in (Fate.LOST, Fate.DELAYED, Fate.UNKNOWN):
        own = [one for one in kinds if one.fate is fate]
        if own:
            largest = max(own, key=lambda one: one.count)
            orders = sum(one.count for one in own)
            growing = _grows(largest, looked, now_at, deadline_seconds)
            return Headline(fate, orders, largest, len(own), growing, exact)
    blind = looked is None or looked.why_not is not None
    return Headline(Fate.UNKNOWN if blind else Fate.FINE)


def _grows(
    kind: CaseKind, looked: Looked | None, now_at: datetime, deadline_seconds: float
) -> bool | None:
    if looked is None or looked.why_not is not None:
        return None
    return now_at - kind.newest_at <= timedelta(seconds=deadline_seconds) + _ROUND
