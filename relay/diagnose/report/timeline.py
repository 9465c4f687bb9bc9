"""A diagnosis as a timeline: when each hop was done, how long it took, where the gap is.

Invariant: pure; it adds nothing to what the diagnosis found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from relay.diagnose.report.diagnosis import Diagnosis, HopLine, Mark
from relay.diagnose.verdicts import Hop, Verdict


@dataclass(frozen=True, slots=True)
class TimelineHop:
    """One hop. `took_seconds` is since the last hop before it that has a time."""

    line: HopLine
    took_seconds: float | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """One order's way. `returned_at` is None until a terminal return was applied."""

    diagnosis: Diagnosis
    hops: tuple[TimelineHop, ...]

    @property
    def gap(self) -> Hop | None:
        """The first hop that is missing, or not yet done; None: all are proven."""
        found = self.diagnosis
        if found.verdict is Verdict.RETURNED:
            return None
        first = next((one.line.hop for one in self.hops if one.line.mark is not Mark.OK), None)
        return found.hop or first

    @property
    def returned_at(self) -> datetime | None:
        """When the order's return was applied."""
        return self.hops[-1].line.at if self.diagnosis.verdict is Verdict.RETURNED else None

    @property
    def whole_seconds(self) -> float | None:
        """From placed to returned."""
        placed, ended = self.diagnosis.placed_at, self.returned_at
        return None if placed is None or ended is None else (ended - placed).total_seconds()

    def as_json(self, trace_url: str | None = None) -> dict[str, Any]:
        """Return it for `--json`; `trace_url` is the trace viewer's address."""
        found = self.diagnosis
        return {
            "order_id": found.order_id,
            "verdict": str(found.verdict),
            "gap": None if self.gap is None else str(self.gap),
            "placed_at": found.placed_at,
            "due_at": found.due_at,
            "returned_at": self.returned_at,
            "seconds": self.whole_seconds,
            "event_id": found.event_id,
            "hops": [
                {
                    "hop": str(one.line.hop),
                    "state": one.line.mark.name.lower(),
                    "at": one.line.at,
                    "took_seconds": one.took_seconds,
                    "found": one.line.text,
                }
                for one in self.hops
            ],
            "trace_id": found.trace_id,
            "trace_url": found.trace_link(trace_url),
            "trace_sampled": found.trace_sampled,
        }


def timeline(diagnosis: Diagnosis) -> Timeline:
    """Lay a diagnosis out in time."""
    took = _took([line.at for line in diagnosis.lines])
    hops = (TimelineHop(*pair) for pair in zip(diagnosis.lines, took, strict=True))
    return Timeline(diagnosis, tuple(hops))


def _took(times: Sequence[datetime | None]) -> list[float | None]:
    """Return how long after the last known time each one is.

    A proof is written a moment after its fact: a hop that seems to end too early took nothing.
    """
    took: list[float | None] = []
    last: datetime | None = None
    for at in times:
        both = at is not None and last is not None
        took.append(max(0.0, (at - last).total_seconds()) if both else None)  # type: ignore[operator]
        last = at if last is None or (at is not None and at > last) else last
    return took
