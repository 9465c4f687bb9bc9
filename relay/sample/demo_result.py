"""Hops 1 to 5: what the demo is told to do, and what it came to; values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from relay.diagnose.report.timeline import Timeline
from relay.diagnose.verdicts import Hop
from relay.sample.demo_counts import Counts
from relay.sample.load_report import Times


class DemoFailedError(Exception):
    """The demo could not be carried through; the message says why, and where the logs are."""


class DemoStoppedError(Exception):
    """The demo was stopped before its end; everything that it had started has ended."""


class Audience(Protocol):
    """Whoever watches the demo."""

    def tell(self, text: str) -> None:
        """Say one thing that happened."""

    def show(self, counts: Counts, seconds: float) -> None:
        """Show how far the orders are, `seconds` after the first one."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo does.

    Args:
        orders: placed over HTTP.
        rate: orders a second.
        lose: so many are lost on purpose, dealt out over the five hops.
        timeout_seconds: for the returns, after the last order was placed.
        deadline_seconds: an order without its return is overdue after that.
    """

    orders: int = 500
    rate: float = 50.0
    lose: int = 5
    timeout_seconds: float = 30.0
    deadline_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo came to.

    Attributes:
        failed: orders that could not be placed, by reason.
        returned: orders with a terminal status.
        placed: orders over HTTP, and those of other programs that are lost on purpose.
        lost: orders lost on purpose, and at which hop.
        missing: orders without a terminal status: their timelines, from the evidence alone.
        hops: each hop's times over the orders that passed it.
        example: the timeline of an order that came back.
        exit_codes: of the services, after SIGTERM.
        logs: the ends of the logs, and where they are kept, when there are problems.
    """

    placed: int
    place_seconds: float
    failed: Mapping[str, int]
    statuses: Mapping[str, int]
    returned: int
    lost: Mapping[str, Hop]
    missing: tuple[Timeline, ...]
    hops: Mapping[str, Times]
    example: Timeline | None
    exit_codes: Mapping[str, int | None] = field(default_factory=dict)
    logs: str = ""

    @property
    def expected(self) -> int:
        """How many orders had to come back."""
        return self.placed - len(self.lost)

    @property
    def found(self) -> frozenset[str]:
        """Those lost on purpose that the evidence lays at the hop where they were lost."""
        return frozenset(
            one.diagnosis.order_id
            for one in self.missing
            if one.diagnosis.hop is not None
            and one.diagnosis.hop == self.lost.get(one.diagnosis.order_id)
        )

    @property
    def unexpected(self) -> int:
        """How many orders did not come back and were not lost on purpose."""
        return self.expected - self.returned

    @property
    def unexpected_timelines(self) -> list[Timeline]:
        """The timelines of some of those."""
        return [one for one in self.missing if one.diagnosis.order_id not in self.lost]

    @property
    def problems(self) -> list[str]:
        """What is not as it should be; nothing when the demo succeeded."""
        not_found = len(self.lost.keys() - self.found)
        failed = sum(self.failed.values())
        found = [
            (failed, f"{failed} orders could not be placed"),
            (self.unexpected, f"{self.unexpected} orders did not come back, not on purpose"),
            (not_found, f"{not_found} orders lost on purpose were not found where they were lost"),
        ]
        codes = [
            f"{name} ended with exit code {code}"
            for name, code in self.exit_codes.items()
            if code != 0
        ]
        return [text for wrong, text in found if wrong] + codes
