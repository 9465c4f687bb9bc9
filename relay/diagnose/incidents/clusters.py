"""Which cases belong together: pure functions.

Invariant: cases of one incident share hop, verdict and cause, and lie close in time. A cause that
strikes a whole hop is an incident from its first order on; one that strikes single orders (a lost
return here and there) is one only when it comes in a burst, far above what is ordinary, or when
those few are nearly all the orders that there are: else there is silence. An incident keeps its id
when its cases turn into something else.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from relay.diagnose.causes import Cause
from relay.diagnose.fate import fate_of
from relay.diagnose.verdicts import Fate

# Cases further apart than this are not one event.
GAP: Final = timedelta(minutes=10)
BURST_CASES: Final = 10
BURST_TIMES_ORDINARY: Final = 5.0
# Of the orders placed meanwhile, how many must be struck.
BURST_SHARE: Final = 0.2
# In a small shop fewer are one, too, when they are nearly all that was placed since the first.
FEW_CASES: Final = 3
FEW_SHARE: Final = 0.8
# How far back "ordinary" is measured.
ORDINARY_SPAN: Final = timedelta(hours=6)

Kind = tuple[str, str, str]
"""Hop, verdict, cause."""

# These strike single orders; all others strike whatever comes while they last.
SINGLE_ORDERS: Final = frozenset(
    {
        Cause.LATE,
        Cause.NEVER_COMMITTED,
        Cause.DUPLICATE_SUBMISSION,
        Cause.ORDER_DELETED,
        Cause.OUTBOX_BYPASSED,
        Cause.WRONG_AGGREGATE_ID,
        Cause.WRONG_EVENT_TYPE,
        Cause.TOO_LARGE,
        Cause.REFUSED_BY_BROKER,
        Cause.PARKED_BEHIND,
        Cause.RELEASE_PENDING,
        Cause.DISCARDED_BY_HAND,
        Cause.COMPACTED,
        Cause.RETURN_NEVER_SENT,
        Cause.FINAL_RETURN_MISSING,
        Cause.ORDER_ROW_LOCKED,
        Cause.RETURN_MALFORMED,
        Cause.RETURN_UNKNOWN_SCHEMA,
        Cause.RETURN_UNKNOWN_ORDER,
        Cause.RETURN_UNKNOWN_STATUS,
        Cause.RETURN_CONFLICTS,
        Cause.RETURN_DISCARDED,
        Cause.APPLY_FAILED,
        Cause.STATUS_OVERWRITTEN,
        Cause.RETURN_MISNAMED,
        Cause.PAST_RETENTION,
        Cause.SCAN_INCOMPLETE,
        Cause.OFFSET_UNKNOWN,
        Cause.TIMED_OUT,
        Cause.CODEC_MISSING,
        Cause.RELAY_BEHIND,
        Cause.PROCESSOR_LAGGING,
        Cause.CONSUMER_LAGGING,
    }
)


@dataclass(frozen=True, slots=True)
class Case:
    """An overdue case without an incident.

    Attributes:
        outbox_id: of its event: the ids between two cases tell how many orders came between them.
    """

    key: str
    kind: Kind
    placed_at: datetime
    outbox_id: int | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """An incident that may still take cases in."""

    incident_id: int
    kind: Kind
    from_at: datetime
    to_at: datetime


@dataclass(frozen=True, slots=True)
class Cluster:
    """Cases that belong together: to an incident, or to a new one (`incident_id` None)."""

    incident_id: int | None
    kind: Kind
    cases: tuple[Case, ...]

    @property
    def from_at(self) -> datetime:
        """When the first was placed."""
        return self.cases[0].placed_at

    @property
    def to_at(self) -> datetime:
        """When the last was placed."""
        return self.cases[-1].placed_at


def cluster(
    cases: Iterable[Case], incidents: Sequence[Span], ordinary: Mapping[Kind, float]
) -> list[Cluster]:
    """Give cases to incidents, old and new; those of nobody are left out.

    Args:
        cases: without an incident.
        incidents: that may take cases in.
        ordinary: by kind, how many cases ten minutes usually bring.
    """
    by_kind: defaultdict[Kind, list[Case]] = defaultdict(list)
    for case in cases:
        by_kind[case.kind].append(case)
    found: list[Cluster] = []
    for kind, some in by_kind.items():
        some.sort(key=lambda one: one.placed_at)
        own = [one for one in incidents if one.kind == kind]
        for group in _close_in_time(some):
            found += _assigned(kind, group, own, ordinary.get(kind, 0.0))
    return found


def few_alike(cases: Iterable[Case], clustered: Iterable[Cluster]) -> list[Cluster]:
    """Return lost orders that would be an incident if hardly any other orders were placed."""
    taken = {case.key for one in clustered for case in one.cases}
    by_kind: defaultdict[Kind, list[Case]] = defaultdict(list)
    for case in cases:
        if case.key not in taken and fate_of(case.kind[1], case.kind[2]) is Fate.LOST:
            by_kind[case.kind].append(case)
    return [
        Cluster(None, kind, tuple(group))
        for kind, some in by_kind.items()
        for group in _close_in_time(sorted(some, key=lambda one: one.placed_at))
        if len(group) >= FEW_CASES
    ]


def are_all_there_is(cases: int, placed: int) -> bool:
    """Tell whether alike cases are nearly all of the orders that were placed meanwhile."""
    return cases >= placed * FEW_SHARE


def _close_in_time(cases: Sequence[Case]) -> list[list[Case]]:
    groups: list[list[Case]] = []
    for case in cases:
        if groups and case.placed_at - groups[-1][-1].placed_at <= GAP:
            groups[-1].append(case)
        else:
            groups.append([case])
    return groups


def _assigned(
    kind: Kind, group: list[Case], incidents: Sequence[Span], usual: float
) -> list[Cluster]:
    first, last = group[0].placed_at, group[-1].placed_at
    for one in incidents:
        if first <= one.to_at + GAP and last >= one.from_at - GAP:
            return [Cluster(one.incident_id, kind, tuple(group))]
    if kind[2] not in SINGLE_ORDERS:
        return [Cluster(None, kind, tuple(group))]
    burst = bursts(group, usual)
    return [Cluster(None, kind, tuple(burst))] if burst else []


def bursts(group: Sequence[Case], usual: float) -> list[Case]:
    """Return the cases that come so close together that it is no chance.

    Ten in a row within ten minutes, at least a fifth of the orders placed between the first and the
    last of them, and in ten minutes several times as many as usual.

    Args:
        group: by time.
        usual: how many cases ten minutes usually bring, the burst itself not counted.
    """
    times = [case.placed_at for case in group]
    within: set[int] = set()
    for first in range(len(group) - BURST_CASES + 1):
        run = group[first : first + BURST_CASES]
        in_window = bisect_right(times, times[first] + GAP) - first
        unusual = in_window >= usual * BURST_TIMES_ORDINARY
        if unusual and run[-1].placed_at - run[0].placed_at <= GAP and _dense(run):
            within.update(range(first, first + BURST_CASES))
    return [case for index, case in enumerate(group) if index in within]


def _dense(run: Sequence[Case]) -> bool:
    ids = [case.outbox_id for case in run if case.outbox_id is not None]
    if not ids:
        return True  # orders without events: nothing to compare them with
    return len(ids) >= (max(ids) - min(ids) + 1) * BURST_SHARE


def ordinary_rate(times: Sequence[datetime], now_at: datetime) -> float:
    """Return how many cases ten minutes usually brought: the middle one of the last hours' windows.

    The median, so that a burst does not make itself ordinary.

    Args:
        times: when the cases of a kind were placed, sorted.
        now_at: the end of the last window.
    """
    windows = int(ORDINARY_SPAN / GAP)
    counts = []
    for number in range(windows):
        end = now_at - GAP * number
        counts.append(bisect_left(times, end) - bisect_left(times, end - GAP))
    return float(sorted(counts)[windows // 2])


def dominant(kinds: Counter[Kind]) -> Kind | None:
    """Return what most of an incident's open cases are; None: it has none."""
    ranked = kinds.most_common(1)
    return ranked[0][0] if ranked else None


def grown_tenfold(count: int, alerted_count: int) -> bool:
    """Tell whether an incident has grown tenfold since it was last told of."""
    return alerted_count > 0 and count >= alerted_count * 10
