"""Find: how a diagnosis is printed: the answer first, then the evidence, then the next command.

Invariant: about a screen, whatever was found, and a line for every order that was asked for; no
escape sequence without a terminal or with NO_COLOR.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import click

from relay.diagnose.report.diagnosis import Diagnosis, HopLine, Mark
from relay.diagnose.report.explain import headline
from relay.diagnose.verdicts import Fate, found_something
from relay.runtime.durations import duration
from relay.runtime.language import said

# Causes that are told with what to do, and those that are counted.
BLOCKS = 5
KINDS = 12
# Orders that are asked for each get an answer; beyond that, JSON has them.
ASKED_LINES = 500
# Of a cause, so many commands: one for each of its incidents or single orders.
_NEXT_SHOWN = 3

_COLOURS = {Mark.OK: "green", Mark.NO: "red", Mark.UNSURE: "yellow", Mark.NOT_REACHED: None}
_FATES = {Fate.LOST: "red", Fate.DELAYED: "yellow", Fate.UNKNOWN: "yellow", Fate.FINE: "green"}


def one_order(found: Diagnosis, now_at: datetime, orders: int | None = None) -> list[str]:
    """Return the lines for one order.

    Args:
        found: the diagnosis.
        now_at: to say how long something takes still.
        orders: how many orders its incident has.
    """
    count = "" if orders is None else f" ({orders:,} orders)"
    lines = [
        click.style(said(headline(found, now_at)) + said(count), fg=_FATES[found.fate], bold=True)
    ]
    if found.found_as is not None:
        what = f"{found.asked} {said('is')} {found.found_as}"
        lines.append(f" {said('id')}    {what}: {said('order')} {found.order_id}")
    lines += [_hop_line(line) for line in found.lines]
    lines.append(f" {said('why')}   {said(found.meaning)}")
    if found.missing is not None:
        lines.append(f" {said('miss')}  {said(found.missing)}")
    if found.fix:
        lines.append(f" {said('fix')}   {said(found.fix)}")
    if found.mend_sql is not None:
        lines.append(f" sql   {found.mend_sql}")
    if found.next:
        lines.append(f" {said('next')}  {found.next[0]}")
        lines += [f"       {command}" for command in found.next[1:]]
    lines.append(f" {said('docs')}  {found.page}")
    return lines


def _hop_line(line: HopLine) -> str:
    time = "" if line.at is None else f"{line.at.astimezone():%H:%M:%S.%f}"[:12]
    mark = click.style(f"{line.mark.value:<2}", fg=_COLOURS[line.mark])
    text = said(line.text, line.theirs)
    return f" {mark} {line.hop.number} {line.hop.value:<8} {time:<12}  {text}".rstrip()


def many_orders(found: Sequence[Diagnosis], now_at: datetime) -> list[str]:
    """Return the lines for orders that were asked for: the causes, then every order's answer."""
    lines = causes(found, now_at)
    bad = [one for one in found if found_something(one.verdict)]
    fine = [one for one in found if not found_something(one.verdict)]
    shown = [*bad, *fine][:ASKED_LINES]
    lines.append("")
    lines += [f" {one.order_id}  {said(headline(one, now_at))}{_asked(one)}" for one in shown]
    if len(found) > len(shown):
        lines.append(f" ... and {len(found) - len(shown):,} more (--json prints them all)")
    return lines


def _asked(one: Diagnosis) -> str:
    return "" if one.found_as is None else f"   ({one.asked} is {one.found_as})"


def causes(found: Sequence[Diagnosis], now_at: datetime) -> list[str]:
    """Return what many orders come to: one block for each cause, the largest first."""
    bad = [one for one in found if found_something(one.verdict)]
    lost = sum(one.fate is Fate.LOST for one in bad)
    delayed = sum(one.fate is Fate.DELAYED for one in bad)
    unknown = len(bad) - lost - delayed
    parts = [f"{lost:,} lost", f"{delayed:,} delayed", f"{unknown:,} unknown"]
    fate = Fate.LOST if lost else Fate.DELAYED if delayed else Fate.UNKNOWN if bad else Fate.FINE
    told = ", ".join(parts) if bad else "nothing is wrong"
    lines = [click.style(said(f"{len(found):,} orders: {told}"), fg=_FATES[fate], bold=True)]
    groups = Counter(_kind(one) for one in bad).most_common()
    for kind, count in groups[:BLOCKS]:
        lines += _block(kind, count, bad, now_at)
    lines += [_group_line(kind, count, bad, now_at) for kind, count in groups[BLOCKS:KINDS]]
    if len(groups) > KINDS:
        left = sum(count for _kind, count in groups[KINDS:])
        lines.append(f" {left:>7,}  of {len(groups) - KINDS} more kinds (--json)")
    return lines


Kind = tuple[int, str, str, str]


def _kind(one: Diagnosis) -> Kind:
    number = 0 if one.hop is None else one.hop.number
    name = "-" if one.hop is None else one.hop.value
    return number, name, one.verdict.value, one.cause.value


def _group_line(kind: Kind, count: int, bad: Sequence[Diagnosis], now_at: datetime) -> str:
    number, name, verdict, cause = kind
    placed = [one.placed_at for one in bad if _kind(one) == kind and one.placed_at is not None]
    age = f"oldest {duration((now_at - min(placed)).total_seconds())}" if placed else ""
    hop = f"{number} {name}" if number else "-"
    return f" {count:>7,}  {hop:<10} {verdict} / {cause}  {said(age)}".rstrip()


def _block(kind: Kind, count: int, bad: Sequence[Diagnosis], now_at: datetime) -> list[str]:
    """Return the lines of one cause; of several incidents of it, the first order's is next."""
    own = [one for one in bad if _kind(one) == kind]
    first = own[0]
    lines = [
        _group_line(kind, count, bad, now_at),
        f"          {said('why')}   {said(first.meaning)}",
    ]
    lines += [f"          {said('fix')}   {said(first.fix)}"] if first.fix else []
    lines.append(f"          {said('order')} {first.order_id}")
    nexts = dict.fromkeys(command for one in own for command in _first_next(one))
    return [
        *lines,
        *(f"          {said('next')}  {command}" for command in list(nexts)[:_NEXT_SHOWN]),
    ]


def _first_next(one: Diagnosis) -> list[str]:
    """Return the command to run next, alone."""
    # What `relay incidents` shows stands here, but for the story.
    commands = [command for command in one.next if command != "relay incidents"] or list(one.next)
    return commands[:1]
