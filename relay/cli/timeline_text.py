"""Find: a timeline as people read it; used by `relay trace` and `relay demo`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

import click

from relay.diagnose.report.diagnosis import Mark
from relay.diagnose.report.explain import headline
from relay.diagnose.report.timeline import Timeline, TimelineHop
from relay.runtime.command_line import command
from relay.runtime.durations import duration
from relay.runtime.language import said
from relay.runtime.printable import printable
from relay.runtime.trace_link import NOT_SAMPLED

_COLOURS: Final[Mapping[Mark, str | None]] = {
    Mark.OK: "green",
    Mark.NO: "red",
    Mark.UNSURE: "yellow",
    Mark.NOT_REACHED: None,
}


def timeline_lines(told: Timeline, now_at: datetime, trace_url: str | None) -> Iterator[str]:
    """Return the lines; click drops their colours where there is no terminal."""
    found = told.diagnosis
    yield f"{said('order')} {printable(found.order_id)}  {said(headline(found, now_at))}"
    for hop in told.hops:
        yield _hop_line(hop)
    if told.whole_seconds is not None:
        yield said(f" placed to returned: {duration(told.whole_seconds, exact=True)}")
    elif told.gap is not None:
        why = command("relay diagnose {order}", order=printable(found.order_id))
        yield f" {said(f'the gap is at `{told.gap}`')}; {said('why')}: {why}"
    if found.trace_id is not None:
        link = found.trace_link(trace_url)
        if link is None and found.trace_sampled is False:
            link = said(NOT_SAMPLED)
        yield f" {said('trace')} {found.trace_id}{f'  {link}' if link else ''}"


def _hop_line(hop: TimelineHop) -> str:
    line = hop.line
    time = "" if line.at is None else f"{line.at.astimezone():%H:%M:%S.%f}"[:12]
    took = "" if hop.took_seconds is None else f"+{duration(hop.took_seconds, exact=True)}"
    mark = click.style(f"{line.mark.value:<2}", fg=_COLOURS[line.mark])
    text = said(printable(line.text), line.theirs)
    return f" {mark} {line.hop.number} {line.hop.value:<8} {time:<12} {took:>9}  {text}".rstrip()
