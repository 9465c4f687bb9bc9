"""Setup: what `relay demo` shows while it runs: bars on a terminal, else a line a second.

Invariant: everything goes to stderr; stdout is for the summary alone.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Final

import click
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from relay.sample.demo_counts import Counts

_LINE_SECONDS: Final = 1.0
_STILL_SECONDS: Final = 5.0
_BAR_CELLS: Final = 24
# What each hop is, for someone who sees it for the first time.
_HOPS: Final = (
    ("place", "order and outbox row"),
    ("publish", "the relay: orders.events"),
    ("process", "the order processor"),
    ("return", "orders.returns"),
    ("confirm", "the order's status changed"),
)


@dataclass(slots=True)
class Screen:
    """Shows the demo's progress. `orders` is how many there will be."""

    orders: int
    _console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    _live: Live | None = None
    _told_at: float = 0.0
    _told: Counts | None = None
    _last: tuple[Counts, float] | None = None

    def tell(self, text: str) -> None:
        """Say one thing that happened."""
        self.close()
        click.echo(text, err=True)

    def show(self, counts: Counts, seconds: float) -> None:
        """Show how far the orders are."""
        self._last = counts, seconds
        if self._console.is_terminal and os.environ.get("TERM") != "dumb":
            self._draw(counts)
        elif time.monotonic() >= self._next_at(counts):
            self._told_at, self._told = time.monotonic(), counts
            click.echo(_line(counts, seconds), err=True)

    def _next_at(self, counts: Counts) -> float:
        """Nothing new: seldom, only to show that it still runs."""
        return self._told_at + (_LINE_SECONDS if counts != self._told else _STILL_SECONDS)

    def close(self) -> None:
        """Leave the last picture where it stands."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._last is not None and self._last[0] != self._told:
            click.echo(_line(*self._last), err=True)
        self._last = None

    def _draw(self, counts: Counts) -> None:
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(self._picture(counts), refresh=True)

    def _picture(self, counts: Counts) -> Table:
        table = Table.grid(padding=(0, 2))
        for _ in range(4):
            table.add_column(no_wrap=True)
        for (name, what), done in zip(_HOPS, _numbers(counts), strict=True):
            bar = ProgressBar(total=self.orders, completed=done, width=_BAR_CELLS)
            number = Text(f"{done:>6,} / {self.orders:,}")
            table.add_row(Text(f"  {name:<8}", style="bold"), bar, number, Text(what, style="dim"))
        return table


def _numbers(counts: Counts) -> tuple[int, ...]:
    return counts.place, counts.publish, counts.process, counts.returns, counts.confirm


def _line(counts: Counts, seconds: float) -> str:
    hops = "  ".join(
        f"{name} {done:>5,}" for (name, _), done in zip(_HOPS, _numbers(counts), strict=True)
    )
    return f"{seconds:6.1f} s  {hops}"
