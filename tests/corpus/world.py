"""One scene's processes, by what they are for: started, killed, paused, told to do wrong."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import asyncpg

from tests.corpus.wiring import Wiring

QUICK = {"RELAY_WATCH_ROUND_SECONDS": "0.5", "RELAY_WATCH_POSITION_SECONDS": "1"}
ALL = ("relay", "processor", "consumer")
# What a service connects to the database as, in scenes of least privilege.
ROLES = {"relay": "relay_publisher", "consumer": "relay_confirmer"}


def new_ids(count: int, suits: Callable[[str], bool]) -> list[str]:
    """Make order ids that suit."""
    found: list[str] = []
    while len(found) < count:
        one = str(uuid4())
        if suits(one):
            found.append(one)
    return found


@dataclass
class World(Wiring):
    """A loop whose processes are known by name: relay, processor, consumer.

    Attributes:
        server: the broker or the database that is this scene's own.
        doing: what ends with the act: locks, and the like.
        faults: options for the processor, whenever it is started.
        settings: of one kind of process only.
    """

    server: Any = None
    running: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    doing: AsyncExitStack = field(default_factory=AsyncExitStack)

    def begin(self, kind: str, *arguments: str, **env: str) -> None:
        """Start a process of a kind."""
        own = QUICK | self.settings.get(kind, {}) | env
        start = {"relay": self.relay, "consumer": self.consumer}
        if kind == "processor":
            self.running[kind] = self.processor(*self.faults, *arguments, **own)
        else:
            self.running[kind] = start[kind](*arguments, **own)

    def begin_all(self) -> None:
        """Start one process of each kind."""
        for kind in ALL:
            self.begin(kind)

    def end(self, kind: str) -> None:
        """Stop it in good order."""
        self.running[kind].terminate()

    def kill(self, kind: str) -> None:
        """Stop it at once."""
        self.running[kind].kill()

    def freeze(self, kind: str) -> None:
        """Pause it."""
        self.pause(self.running[kind])

    def thaw(self, kind: str) -> None:
        """Let it go on."""
        self.running[kind].send_signal(signal.SIGCONT)

    def restart(self, kind: str, *arguments: str, **env: str) -> None:
        """Stop it in good order and start it again."""
        self.end(kind)
        self.begin(kind, *arguments, **env)

    async def least_privilege(self) -> None:
        """Let services connect as what they are."""
        for kind, role in ROLES.items():
            self.settings[kind] = {"DATABASE_URL": await self.login_as(role)}

    async def until_joined(self) -> None:
        """Wait until the processor's group has a member with partitions."""
        await self.eventually(lambda: asyncio.to_thread(self._has_members), 40)

    async def until_answered(self, orders: Sequence[str]) -> None:
        """Wait until the processor has passed the orders."""
        await self.until_published(orders)
        await self.until_passed(self.group, self.events)

    async def lock(self, statement: str, *arguments: Any) -> None:
        """Hold locks in a transaction of somebody else's until the act is over."""
        locker = await asyncpg.connect(self.database)
        self.doing.push_async_callback(locker.close)
        transaction = locker.transaction()
        await transaction.start()
        await locker.execute(statement, *arguments)

    async def until_quarantined(self, orders: Sequence[str]) -> None:
        """Wait until each of the orders has something in quarantine."""
        await self.eventually(
            lambda: self.pg.fetchval(
                """SELECT count(DISTINCT aggregate_id) = $2 FROM relay.quarantine
                    WHERE aggregate_id = ANY ($1::text[])""",
                orders,
                len(orders),
            ),
            40,
        )
