"""Hops 3-4 of the sample: which fault befalls which event, decided and nothing else.

Invariant: by name and by rate, the same seed decides the same of an event however often it is
delivered; by count, an event that already has its fault keeps it. Nothing here does I/O or fails:
the processor acts, and its journal keeps what was done to whom.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import blake2b
from typing import Final, Literal

_HASH_RANGE: Final = 2**64


class Fault(StrEnum):
    """What can go wrong with an order between its event and its return; worst first."""

    CRASH = "crash"
    SKIP = "skip"
    LOSE = "lose"
    CORRUPT = "corrupt"
    CONFLICT = "conflict"
    REORDER = "reorder"
    DUPLICATE = "duplicate"
    DELAY = "delay"


MEANING: Final[Mapping[Fault, str]] = {
    Fault.CRASH: "die as if by kill -9 (exit code 137) at --crash-at",
    Fault.SKIP: "commit the offset without looking at the event",
    Fault.LOSE: "process the event, send no return",
    Fault.CORRUPT: "send a return that nobody can apply",
    Fault.CONFLICT: "send the opposite terminal return afterwards",
    Fault.REORDER: "send the terminal return before `processing`",
    Fault.DUPLICATE: "send each return twice",
    Fault.DELAY: "send the return --delay-seconds later, its offset committed before",
}

By = Literal["order", "count", "every", "rate"]


@dataclass(frozen=True, slots=True)
class FaultRule:
    """Whom one fault befalls; any of the four is enough.

    Args:
        orders: these orders, always.
        count: the first `count` events.
        every: each `every`-th event of this process; 0 is none.
        rate: this share of the events, 0 to 1, chosen by seed and event id.
    """

    orders: frozenset[str] = frozenset()
    count: int = 0
    every: int = 0
    rate: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1 or self.count < 0 or self.every < 0:
            raise ValueError(f"a rate is from 0 to 1, a count or step is not negative: {self}")


@dataclass(frozen=True, slots=True)
class Befallen:
    """One fault of one event, and the part of its rule that chose it."""

    fault: Fault
    by: By


@dataclass(slots=True)
class FaultPlan:
    """Decides the faults of events as they come. Keeps only what counts need."""

    rules: Mapping[Fault, FaultRule]
    seed: int = 0
    seen: int = 0
    _counted: dict[Fault, int] = field(default_factory=dict)
    _kept: dict[str, tuple[Befallen, ...]] = field(default_factory=dict)
    _crashed: set[str] = field(default_factory=set)

    def remember(self, event_id: str, befallen: Befallen) -> None:
        """Take over what an earlier run did (its journal), so that a restart goes on from there.

        A crash is not repeated: without this, the first event would kill every restart.
        """
        if befallen.by == "count":
            self._counted[befallen.fault] = self._counted.get(befallen.fault, 0) + 1
        if befallen.fault is Fault.CRASH:
            self._crashed.add(event_id)
        else:
            self._kept[event_id] = (*self._kept.get(event_id, ()), befallen)

    def faults_of(self, order_id: str, event_id: str) -> tuple[Befallen, ...]:
        """Decide for one event. Named orders get all that names them, others one fault at most."""
        kept = self._kept.get(event_id)
        if kept is not None:
            return kept
        self.seen += 1
        decided = self._named(order_id) or self._counted_off() or self._drawn(event_id)
        if event_id in self._crashed:
            decided = tuple(one for one in decided if one.fault is not Fault.CRASH)
        if any(one.by in ("count", "every") for one in decided):
            self._kept[event_id] = decided
        return decided

    def _named(self, order_id: str) -> tuple[Befallen, ...]:
        return tuple(
            Befallen(fault, "order")
            for fault, rule in self._rules_in_order()
            if order_id in rule.orders
        )

    def _counted_off(self) -> tuple[Befallen, ...]:
        for fault, rule in self._rules_in_order():
            if self._counted.get(fault, 0) < rule.count:
                self._counted[fault] = self._counted.get(fault, 0) + 1
                return (Befallen(fault, "count"),)
            if rule.every and self.seen % rule.every == 0:
                return (Befallen(fault, "every"),)
        return ()

    def _drawn(self, event_id: str) -> tuple[Befallen, ...]:
        for fault, rule in self._rules_in_order():
            if rule.rate and drawn(self.seed, fault, event_id, rule.rate):
                return (Befallen(fault, "rate"),)
        return ()

    def _rules_in_order(self) -> Iterable[tuple[Fault, FaultRule]]:
        return ((fault, self.rules[fault]) for fault in Fault if fault in self.rules)


def drawn(seed: int, fault: Fault, event_id: str, rate: float) -> bool:
    """Draw for one event: the same answer for the same seed, fault and event, in any process."""
    lot = blake2b(f"{seed}/{fault}/{event_id}".encode(), digest_size=8).digest()
    return int.from_bytes(lot, "big") < rate * _HASH_RANGE
