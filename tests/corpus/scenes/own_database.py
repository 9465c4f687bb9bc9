"""A PostgreSQL that goes away and comes back: nobody is accused meanwhile, nothing is lost."""

import asyncio

import asyncpg

from tests.corpus.fault import Act, Fault, Orders, Scene
from tests.corpus.world import World


async def opening(world: World) -> None:
    """Everything runs."""
    world.begin_all()
    await world.until_up()


async def database_killed(world: World, orders: Orders) -> None:
    """Orders are committed, and the database dies before the relay has read them."""
    world.freeze("relay")
    await world.place_these(orders)
    await asyncio.to_thread(world.server.kill)
    world.thaw("relay")


async def longer_than_the_deadline(world: World, _orders: Orders) -> None:
    """Let the outage last: until the relay has tried in vain for longer than the deadline."""
    await world.eventually(lambda: "database" in world.running["relay"].stderr, 30)
    await asyncio.sleep(world.deadline_seconds + 1)  # the outage's length is the fault itself


async def database_back(world: World) -> None:
    """It is started again."""
    await asyncio.to_thread(world.server.start)
    await world.pg.close()
    world.pg = await asyncpg.connect(world.database)


SCENE = Scene(
    "own database",
    acts=(
        Act(
            (
                Fault(
                    "database away", "system", (None, "unknown", "database_unreachable"),
                    database_killed, longer_than_the_deadline, database_back,
                    waits_at=("publish",),
                ),
            ),
            come_back=True,
        ),
    ),
    opening=opening,
    own="database",
)  # fmt: skip
