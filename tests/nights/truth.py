"""What is true of an order, and the journal of a night: the stage writes it, the judge reads it."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

Said = tuple[str, str | None]
"""Verdict, cause; a cause of None stands for any."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What may be said of an order.

    Attributes:
        cause: the name of what befell it, in the words of the grammar.
        hop: where it was lost or waits; None: it came back.
        said: verdicts with causes that are right.
        check: what `relay check` has to say of it: the beginning of a name that is not fine; ""
            where nothing is to be seen there.
        before: verdicts with causes that were right for a while: the watchdog says again what it
            has recorded up to half a minute ago.
        unproven: `relay reconcile` may not say PROVEN: something of it is still to be seen.
    """

    cause: str
    hop: str | None
    said: tuple[Said, ...]
    check: str = ""
    unproven: bool = False
    before: tuple[Said, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether it came back."""
        return self.hop is None

    def fits(self, verdict: str | None, cause: str | None) -> bool:
        """Tell whether a verdict with its cause is right."""
        return any(verdict == one and why in (None, cause) for one, why in self.said)


def returned(cause: str) -> Truth:
    """Say that an order came back, whatever befell it."""
    return Truth(cause, None, (("returned", None),))


HEALTHY = returned("nothing")


def lost(cause: str, hop: str, verdict: str, *causes: str, check: str = "") -> Truth:
    """Say what is true of an order that did not come back."""
    said = tuple((verdict, one) for one in causes)
    return Truth(cause, hop, said, check, unproven="never_committed" not in causes)


@dataclass
class Journal:
    """What happened in a night, in order, and what is true of each order."""

    seed: int
    drawn: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)
    truth: dict[str, Truth] = field(default_factory=dict)
    left_running: bool = False
    """Whether the processor that is at work is the one that has to stay."""

    def note(self, what: str, **more: Any) -> None:
        """Write down what somebody did."""
        self.lines.append({"what": what, **more})

    def say(self, orders: Iterable[str], truth: Truth) -> None:
        """Write down what is true of orders."""
        self.truth |= dict.fromkeys(orders, truth)

    def blur(self, befell: Collection[str], *said: Said, but: Collection[str] = ()) -> None:
        """Write down that what would tell of earlier orders is gone: this, too, is right of them.

        Args:
            befell: names of causes.
            said: verdicts with causes.
            but: orders that are not meant.
        """
        for order, truth in self.truth.items():
            if truth.cause in befell and order not in but:
                self.truth[order] = replace(truth, said=truth.said + said)

    def befell(self, orders: Sequence[str]) -> set[Truth]:
        """Return what is true of some orders."""
        return {self.truth[one] for one in orders}

    def text(self) -> str:
        """Return the whole as lines of JSON."""
        truth = [{"order": one, **asdict(it)} for one, it in self.truth.items()]
        return "\n".join(json.dumps(one, default=str) for one in [*self.lines, *truth])
