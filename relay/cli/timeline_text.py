"""Find: a timeline as people read it; used by `relay trace` and `relay demo`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

import click

from relay.diagnose.timeline import EventTimeline, Timeline
from relay.diagnose.timeline_hops import Hop, State
from relay.runtime.settings_model import TraceSettings
from relay.telemetry.logs import printable

MARKS: Final[Mapping[State, str]] = {
    "done": "✔",
    "passed": "✔",
    "waiting": "…",
    "missing": "✘",
    "unknown": "?",
}
_COLORS: Final = {"✔": "green", "…": "yellow", "✘": "red", "?": "yellow"}


def shown(timeline: Timeline, viewer: TraceSettings) -> list[str]:
    """Return the timeline's lines, without colours."""
    if not timeline.exists:
        return [f"order {printable(timeline.order_id)}: not here"]
    status = "status unknown" if timeline.status is None else printable(timeline.status)
    lines = [f"order {printable(timeline.order_id)}  {status}"]
    if not timeline.events:
        lines.append("  no event of it expects a return")
    for event in timeline.events:
        lines += _event_lines(event, timeline.now, viewer)
    return lines


def styled(line: str, *, color: bool) -> str:
    """Colour a line by its mark, unless NO_COLOR or `color` says otherwise."""
    mark = next((mark for mark in _COLORS if line.startswith(f"  {mark} ")), None)
    if mark is None or not color or os.environ.get("NO_COLOR"):
        return line
    return line.replace(mark, click.style(mark, fg=_COLORS[mark]), 1)


def _event_lines(event: EventTimeline, now: datetime, viewer: TraceSettings) -> Iterator[str]:
    if event.context is not None:
        link = viewer.link(event.context.trace_id)
        unsampled = "" if event.context.sampled else "  (not sampled: no spans were kept)"
        yield f"trace {event.context.trace_id}{f'  {link}' if link else ''}{unsampled}"
    for hop in event.hops:
        yield from _hop_lines(hop)
    yield f"  {_conclusion(event, now)}"


def _hop_lines(hop: Hop) -> Iterator[str]:
    at = f"{hop.at.astimezone():%H:%M:%S.%f}"[:-3] if hop.at else ""
    took = "" if hop.took_seconds is None else f"{duration(hop.took_seconds):>9}"
    first, *more = [printable(text) for text in hop.found] or [""]
    yield f"  {MARKS[hop.state]} {hop.name:<8} {at:<12} {took:<9}  {first}"
    for text in more:
        yield " " * 36 + text


def _conclusion(event: EventTimeline, now: datetime) -> str:
    if event.returned:
        times = [hop.at for hop in event.hops if hop.at is not None]
        late = event.deadline_at is not None and times[-1] > event.deadline_at
        return f"returned after {_span(times[-1] - times[0])}{', late' if late else ''}"
    gap = event.gap
    where = f"the gap is at `{gap.name}`" if gap else "no gap: a terminal return is still to come"
    if event.deadline_at is None:
        return where
    if event.deadline_at > now:
        return f"{where}; not overdue before {_span(event.deadline_at - now)} from now"
    return f"{where}; overdue for {_span(now - event.deadline_at)}"


def _span(time: timedelta) -> str:
    return duration(time.total_seconds()).strip("+")


def duration(seconds: float) -> str:
    """Write a duration in the unit that suits it: `+3 ms`, `+1.25 s`, `+14 min`, `+3 h 05 min`."""
    sign = "-" if seconds < 0 else "+"
    size = abs(seconds)
    if size < 1:
        return f"{sign}{size * 1000:.0f} ms"
    if size < 60:  # noqa: PLR2004
        return f"{sign}{size:.2f} s"
    minutes = round(size / 60)
    if minutes < 120:  # noqa: PLR2004
        return f"{sign}{minutes} min"
    return f"{sign}{minutes // 60} h {minutes % 60:02} min"
