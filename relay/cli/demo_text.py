"""Setup: the summary of `relay demo`, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from relay.cli.timeline_text import timeline_lines
from relay.diagnose.report.explain import headline
from relay.diagnose.verdicts import HOPS, Hop
from relay.sample.demo_mishaps import WHAT
from relay.sample.demo_result import DemoResult
from relay.sample.load_report import Times
from relay.sample.place import TERMINAL

_MEANING: Final = {
    "place": "HTTP request to answer, committed",
    "publish": "outbox row to record on orders.events",
    "process": "record to the processor's decision",
    "return": "decision to record on orders.returns",
    "confirm": "return to the order's new status",
    "hops 2 to 5": "committed order to its new status",
}
_IN_A_LINE: Final = 6
_OF_A_HOP: Final = 2
# Which of the lost ones say most in a trace viewer.
_TO_SHOW: Final = (Hop.RETURN, Hop.PROCESS, Hop.CONFIRM, Hop.PUBLISH, Hop.PLACE)


def lines(result: DemoResult, trace_url: str | None) -> Iterator[str]:
    """Write the summary, line by line."""
    now_at = datetime.now(UTC)
    outcomes = ", ".join(
        f"{number} {status}" for status, number in result.statuses.items() if status in TERMINAL
    )
    yield ""
    yield f"placed    {result.placed} orders in {result.place_seconds:.1f} s"
    yield (
        f"returned  {result.returned} of the {result.expected} that were expected"
        f"{f': {outcomes}' if outcomes else ''}"
    )
    if result.lost:
        yield (
            f"lost      {len(result.lost)} on purpose; {len(result.found)} of them found by the "
            "evidence alone, at the hop where they were lost"
        )
    yield ""
    yield from _times(result)
    if result.example is not None:
        yield "\nOne that came back, as `relay trace` shows it:"
        yield from timeline_lines(result.example, now_at, trace_url)
    yield from _missing(result, now_at, trace_url)


def _times(result: DemoResult) -> Iterator[str]:
    yield f"{'hop':<14}{'orders':>7}{'p50':>11}{'p99':>11}   from and to"
    for name, times in result.hops.items():
        yield (
            f"{name:<14}{times.count:>7}{_ms(times.p50_seconds):>11}{_ms(times.p99_seconds):>11}"
            f"   {_MEANING[name]}"
        )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _missing(result: DemoResult, now_at: datetime, trace_url: str | None) -> Iterator[str]:
    """Show what was done to each lost order beside what the evidence says; one order whole."""
    on_purpose = [one for one in result.missing if one.diagnosis.order_id in result.lost]
    if on_purpose:
        yield "\nWhat was done on purpose, and what the evidence says:"
        for hop in HOPS:
            told = [one for one in on_purpose if result.lost[one.diagnosis.order_id] is hop]
            for one in told[:_OF_A_HOP]:
                yield f" {hop.number} {hop.value:<8} {WHAT[hop]}"
                yield f"            {headline(one.diagnosis, now_at)}"
    whole = [one for one in on_purpose if result.lost[one.diagnosis.order_id] is Hop.RETURN]
    if on_purpose:
        yield "\nOne of them, as `relay trace` shows it:"
        yield from timeline_lines((whole or on_purpose)[0], now_at, trace_url)
    if result.unexpected_timelines:
        yield "\nOne that did not come back, and should have:"
        yield from timeline_lines(result.unexpected_timelines[0], now_at, trace_url)
        for one in result.unexpected_timelines[1:_IN_A_LINE]:
            yield f"order {one.diagnosis.order_id}  {headline(one.diagnosis, now_at)}"


def traces(result: DemoResult, trace_url: str) -> Iterator[str]:
    """Return three traces to open: an order that came back, and two lost at different hops."""
    yield "\nThree traces to open:"
    if result.example is not None:
        yield f" came back          {result.example.diagnosis.trace_link(trace_url)}"
    lost: dict[Hop, str] = {}
    for one in result.missing:
        hop = result.lost.get(one.diagnosis.order_id)
        link = one.diagnosis.trace_link(trace_url)
        if hop is not None and link is not None:
            lost.setdefault(hop, link)
    for hop in sorted(lost, key=_TO_SHOW.index)[:2]:
        yield f" lost at {hop.value:<10} {lost[hop]}"


def as_json(result: DemoResult, trace_url: str | None) -> dict[str, Any]:
    """Return the summary for `--json`."""
    return {
        "ok": not result.problems,
        "problems": result.problems,
        "placed": result.placed,
        "place_seconds": result.place_seconds,
        "failed": dict(result.failed),
        "expected": result.expected,
        "returned": result.returned,
        "statuses": dict(result.statuses),
        "lost_on_purpose": sorted(result.lost),
        "lost_and_found": sorted(result.found),
        "lost_at": {one: str(hop) for one, hop in result.lost.items()},
        "hops": {name: _times_data(times) for name, times in result.hops.items()},
        "example": None if result.example is None else result.example.as_json(trace_url),
        "missing": [one.as_json(trace_url) for one in result.missing],
    }


def _times_data(times: Times) -> dict[str, Any]:
    return asdict(times)
