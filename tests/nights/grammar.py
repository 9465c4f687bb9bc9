"""From a seed to a night: a cast, and one to three causes with the dimensions that each has.

Invariant: the same seed draws the same night. A night is a product of dimensions and no list of
scenes: any cast with any causes, but for two that would both stand at one hop to the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.nights.cast import Cast
from tests.nights.causes.cause import Cause
from tests.nights.causes.crash import Crash
from tests.nights.causes.others import Drift, TwoGroups
from tests.nights.causes.outage import HOPS, Outage
from tests.nights.causes.redeploy import PartitionsAdded, Redeploy, Renamed
from tests.nights.causes.refusals import Refusal
from tests.nights.causes.single import Bug, ByHand, Writer
from tests.nights.causes.transactions import OpenTransaction
from tests.nights.causes.ways import Moved, Paused, Swapped

# How often each kind is drawn.
KINDS: dict[Callable[[Random, Cast], Cause], int] = {
    Outage.draw: 6,
    Bug.draw: 4,
    Writer.draw: 3,
    ByHand.draw: 3,
    OpenTransaction.draw: 2,
    Refusal.draw: 2,
    Crash.draw: 2,
    Redeploy.draw: 1,
    PartitionsAdded.draw: 1,
    Renamed.draw: 1,
}


# Drawn from a luck of their own: the seeds' other draws stay as they were.
MORE: tuple[Callable[[Random, Cast], Cause], ...] = (Swapped.draw, Paused.draw, Moved.draw)
MORE_SHARE = 0.3

# The same, of a later day: a cause of its own, beside causes of single orders.
FURTHER: tuple[Callable[[Random, Cast], Cause], ...] = (TwoGroups.draw, Drift.draw)
FURTHER_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Night:
    """What was drawn; the causes in the order in which they are staged."""

    seed: int
    cast: Cast
    causes: Sequence[Cause]

    def __str__(self) -> str:
        return f"night {self.seed}: {'; then '.join(map(str, self.causes))} [{self.cast}]"


def _strikes_twice(causes: Sequence[Cause]) -> bool:
    """Tell whether a processor that is frozen in its transaction would be struck once more."""
    frozen = any(isinstance(one, Crash) and one.frozen for one in causes)
    return frozen and any(one.stands_at == HOPS["processor"] for one in causes)


def _with_more(seed: int, cast: Cast, causes: list[Cause]) -> list[Cause]:
    """Add one of the further kinds to some nights, in place of what stands where it would."""
    luck = Random(f"more of night {seed}")
    if luck.random() >= MORE_SHARE:
        return causes
    one = luck.choice(MORE)(luck, cast)
    if isinstance(one, Moved):
        return [one]  # whoever comes back later comes under the first name
    # Who pauses answers one order first: nothing may stand further on.
    others = [it for it in causes if not one.stands_at or it.stands_at < one.stands_at]
    return others if _strikes_twice([one, *others]) else [*others, one]


def _with_further(seed: int, cast: Cast, causes: list[Cause]) -> list[Cause]:
    """Add one of the later kinds to some nights; what stands in its orders' way is left out."""
    luck = Random(f"further of night {seed}")
    if luck.random() >= FURTHER_SHARE:
        return causes
    one = luck.choice(FURTHER)(luck, cast)
    others = [it for it in causes if isinstance(it, Bug | Writer | ByHand) and not it.stands_at]
    # Who asks with other settings does so at the end.
    return [*others, one] if isinstance(one, Drift) else [one, *others]


def draw(seed: int) -> Night:
    """Draw a night."""
    luck = Random(f"night {seed}")
    cast = Cast.draw(luck)
    wanted = luck.choice((1, 2, 2, 3))
    causes: list[Cause] = []
    while len(causes) < wanted:
        (kind,) = luck.choices(list(KINDS), list(KINDS.values()))
        one = kind(luck, cast)
        if isinstance(one, Crash) and cast.processor == "kip848":
            continue  # as in Outage
        if _strikes_twice([one, *causes]):
            continue
        if not one.stands_at or one.stands_at not in {other.stands_at for other in causes}:
            causes.append(one)
    causes = _with_further(seed, cast, _with_more(seed, cast, causes))
    # A new group may take everything once more: what was lost before is answered then.
    causes = [one for one in causes if isinstance(one, Renamed)][:1] or causes
    # What stands comes last, the later hop first: each lets the orders of the next come to it.
    causes.sort(key=lambda one: -one.stands_at if one.stands_at else -9)
    return Night(seed, cast, causes)
