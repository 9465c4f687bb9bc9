"""Processes killed, paused or stopped for maintenance: three hops stand still, nothing is lost."""

from collections.abc import Awaitable, Callable

from relay.runtime.liveness import GONE_SECONDS, SILENT_SECONDS
from tests.corpus.fault import Act, Fault, Label, Orders, Scene, Step, overdue
from tests.corpus.world import World

Blow = Callable[[World, str], None]

RECORDED_AS = {"relay": ("relay", "witness"), "consumer": ("confirm",)}
# From the end of the flow to its beginning, so that each one's orders come as far as it.
REACHED: dict[str, Callable[[World, Orders], Awaitable[None]]] = {
    "consumer": World.until_answered,
    "processor": World.until_published,
}


def strikes(kind: str, blow: Blow) -> Callable[[World, Orders], Awaitable[None]]:
    """Make a fault: strike the process, then place orders that come as far as where it was."""

    async def make(world: World, orders: Orders) -> None:
        blow(world, kind)
        await world.place_these(orders)
        if kind in REACHED:
            await REACHED[kind](world, orders)

    return make


def silent(kind: str, seconds: float) -> Callable[[World, Orders], Awaitable[None]]:
    """Wait until the process has been missed: by its heartbeat, or by its group."""

    async def settle(world: World, orders: Orders) -> None:
        if kind == "processor":
            await world.until_group_is_empty(world.group)
        else:
            await world.until_silent(RECORDED_AS[kind], seconds)
        await overdue(world, orders)

    return settle


def again(kind: str, blow: Blow) -> Step:
    """Mend it."""

    async def mend(world: World) -> None:
        blow(world, kind)

    return mend


def trio(how: str, strike: Blow, help_up: Blow, seconds: float, causes: dict[str, str]) -> Act:
    """All three processes are struck in the same way."""
    verdicts = {
        "consumer": ("confirm", "not_confirmed"),
        "processor": ("process", "not_processed"),
        "relay": ("publish", "not_published"),
    }
    return Act(
        [
            Fault(
                f"{kind} {how}",
                "system",
                (*verdict, causes[kind]),
                strikes(kind, strike),
                silent(kind, seconds),
                again(kind, help_up),
                elsewhere=UNWITNESSED if kind == "relay" else None,
            )
            for kind, verdict in verdicts.items()
        ],
        come_back=True,
    )


async def opening(world: World) -> None:
    """Everything runs."""
    world.begin_all()
    await world.until_up()


# What somebody else published meanwhile nobody knows.
UNWITNESSED: Label = ("publish", "unknown", "witness_down")
DOWN = {"consumer": "consumer_down", "processor": "processor_down", "relay": "relay_down"}
PAUSED = {"consumer": "consumer_paused", "processor": "processor_down", "relay": "relay_paused"}

SCENE = Scene(
    "processes",
    acts=(
        trio("killed", World.kill, World.begin, GONE_SECONDS + 0.5, DOWN),
        trio("paused", World.freeze, World.thaw, SILENT_SECONDS + 0.5, PAUSED),
        trio("stopped for maintenance", World.end, World.begin, 0.0, DOWN),
    ),
    opening=opening,
)
