"""What a fault of the corpus is: how it is made, whom it befalls, and what must be said of them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from tests.corpus.world import World

Label = tuple[str | None, str, str | None]
"""Hop, verdict, cause; a cause of None is not judged."""
Family = Literal["system", "configuration", "people", "code", "none"]
"""Of DESIGN section 1."""
Step = Callable[[World], Awaitable[None]]
Orders = list[str]

RETURNED: Label = (None, "returned", None)
LATE: Label = (None, "returned", "late")


async def nothing(_world: World) -> None:
    """Do nothing."""


async def place(world: World, orders: Orders) -> None:
    """Place the orders, and nothing else."""
    await world.place_these(orders)


async def overdue(world: World, orders: Orders) -> None:
    """Wait until the orders that exist are past their deadline."""
    await world.until_overdue(orders)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        label: what is true of its orders, and must be said.
        make: breaks something and places the orders (not always in this order).
        settle: waits for the facts that make it nameable; never for the name itself.
        mend: what people do about it.
        count: orders.
        processor: options for the sample processor that are given each of the orders.
        suits: whether an order id is fit for this fault.
        asked_with: settings of whoever diagnoses.
        waits_at: the hops where its orders may have waited longest, once they have come back; by
            default the label's.
        elsewhere: what must be said where somebody else publishes; None: the same.
    """

    name: str
    family: Family
    label: Label
    make: Callable[[World, Orders], Awaitable[None]] = place
    settle: Callable[[World, Orders], Awaitable[None]] = overdue
    mend: Step = nothing
    count: int = 15
    processor: tuple[str, ...] = ()
    suits: Callable[[str], bool] = lambda _order: True
    asked_with: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    waits_at: tuple[str, ...] = ()
    elsewhere: Label | None = None

    @property
    def relays_own(self) -> bool:
        """Whether only our relay can do this to an order."""
        hop, verdict, _ = self.label
        own = hop == "publish" and verdict in ("parked", "not_published")
        return own and self.elsewhere is None

    @property
    def waits_at_hops(self) -> tuple[str, ...]:
        """Where its orders may have waited longest."""
        return self.waits_at or (self.label[0],)


@dataclass(frozen=True, slots=True)
class Act:
    """Faults that stand at the same time, beside one set of processes.

    Attributes:
        then: what happens once all are made.
        come_back: once mended, their orders return late, and each is said to have waited at the
            hop of its fault.
    """

    faults: Sequence[Fault]
    then: Step = nothing
    come_back: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """Acts, one after the other, on one database, one set of topics, one set of processes.

    Attributes:
        opening: starts the processes.
        environment: settings of all of them.
        own: the server that the scene has to itself, because it is broken or told to forget.
    """

    name: str
    acts: Sequence[Act]
    opening: Step
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    own: Literal["broker", "database"] | None = None

    def elsewhere(self) -> "Scene":
        """Return what remains of it where somebody else publishes."""
        acts = [
            replace(
                act,
                faults=[
                    replace(one, label=one.elsewhere or one.label)
                    for one in act.faults
                    if not one.relays_own
                ],
            )
            for act in self.acts
        ]
        return replace(self, acts=[act for act in acts if act.faults])
