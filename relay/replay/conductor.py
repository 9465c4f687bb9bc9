"""Conducts a replay: a few first, then faster, until all are sent; and follows them.

Invariant: nothing is published here: items are released in the database, and whoever holds the
relay's lease sends them. All that is known stands there too, so that a process that is killed is
replaced by the next one, which goes on where it was. A replay whose first few do not come back
stops, paused, before the others are sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from relay.replay.follow import Counted, Follower
from relay.replay.jobs import Job, all_sent, move, note_progress, read_job, release
from relay.replay.ramp import rate_after
from relay.runtime.flow import Flow
from relay.runtime.shutdown import stopped_within

_TICK_SECONDS: Final = 0.1
_LOOK_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a replay is run.

    Attributes:
        rate: events a second at most; 0: as fast as it goes.
        first: so many are sent first, and waited for; 0: none.
        wait_seconds: for returns, after the last was sent; 0: they are not waited for.
    """

    rate: float = 200.0
    first: int = 5
    wait_seconds: float = 900.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a replay is, for whoever looks on."""

    job: Job
    counted: Counted
    phase: str


@dataclass(slots=True)
class Conductor:
    """Conducts one replay, that this process has claimed.

    Attributes:
        connection: used by nobody else meanwhile.
        tell: told of every step forward.
        stopped: it was asked to end before the replay was done.
    """

    connection: asyncpg.Connection
    flow: Flow
    job: Job
    options: RunOptions
    who: str
    tell: Callable[[Progress], None] = lambda _progress: None
    stopped: bool = field(default=False, init=False)
    follower: Follower = field(init=False)
    _began_at: float = 0.0
    _released_at: float = 0.0
    _allowed: float = 0.0
    _look_at: float = 0.0

    def __post_init__(self) -> None:
        self.follower = Follower(self.connection, self.flow, self.job.replay_id, self.job.besides)

    async def run(self, stop: asyncio.Event) -> Job:
        """Conduct it until it is done, or somebody stops it; return it as it stands then.

        Raises:
            asyncpg.PostgresError, OSError: the database is lost; it can be resumed.
        """
        if not await self._first_few(stop):
            return self.job
        await self._send_all(stop)
        if self.job.state != "sent":
            return self.job
        await self._follow(stop)
        return self.job

    async def _first_few(self, stop: asyncio.Event) -> bool:
        """Send the first few and wait for them; False: it goes no further."""
        first = min(self.options.first, self.job.item_count)
        if first <= 0 or self.options.wait_seconds <= 0 or self.job.released_count > first:
            return self.job.state == "running"
        await release(self.connection, self.job.replay_id, first)
        waited_from: float | None = None
        while await self._read("first few", stop):
            if self.job.sent_count < first:
                continue
            found = await self.follower.first(first)
            if found.all_returned:
                return True
            waited_from = waited_from or time.monotonic()
            if time.monotonic() - waited_from > self.options.wait_seconds:
                await self._give_up(found)
                return False
        return False

    async def _give_up(self, found: Counted) -> None:
        named = ", ".join(found.waiting[:5])
        trouble = (
            f"{len(found.waiting)} of the first {found.expected} did not come back within"
            f" {self.options.wait_seconds:g} s: {named}"
        )
        await self._pause(trouble)

    async def _pause(self, trouble: str) -> None:
        await move(self.connection, self.job, "paused", who=self.who, trouble=trouble)
        self.job = await read_job(self.connection, self.job.replay_id)

    async def _send_all(self, stop: asyncio.Event) -> None:
        self._began_at = self._released_at = time.monotonic()
        self._allowed = float(self.job.released_count)
        await self._release_more()
        while await self._read("sending", stop):
            if self.job.sent_count >= self.job.item_count:
                await all_sent(self.connection, self.job.replay_id)
                self.job = await read_job(self.connection, self.job.replay_id)
                return
            await self._release_more()
            await self._look()

    async def _release_more(self) -> None:
        count = self.job.item_count
        if self.options.rate > 0:
            now = time.monotonic()
            rate = rate_after(now - self._began_at, self.options.rate)
            allowed = self._allowed + rate * (now - self._released_at)
            # A relay that is away for a while does not find all that it missed, at once.
            self._allowed = min(allowed, self.job.sent_count + max(1.0, rate))
            self._released_at = now
            count = min(count, int(self._allowed))
        if count > self.job.released_count:
            await release(self.connection, self.job.replay_id, count)

    async def _look(self, *, at_once: bool = False) -> Counted:
        now = time.monotonic()
        if self.options.wait_seconds <= 0:
            return self.follower.counted()
        if at_once or now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            found = await self.follower.look(self.job.sent_count)
            await note_progress(self.connection, self.job.replay_id, _as_data(found))
        return self.follower.counted()

    async def _follow(self, stop: asyncio.Event) -> None:
        """Wait for the returns, as long as the options say; the replay is then done."""
        until = time.monotonic() + self.options.wait_seconds
        found = await self._look(at_once=True)
        while not found.all_returned and time.monotonic() < until:
            if not await self._read("returning", stop, going=("sent",)):
                return
            found = await self._look()

    async def _read(
        self, phase: str, stop: asyncio.Event, going: tuple[str, ...] = ("running",)
    ) -> bool:
        """Wait a little and look how it stands; False: it was paused, cancelled, or we are."""
        if not await stopped_within(stop, _TICK_SECONDS):
            self.job = await read_job(self.connection, self.job.replay_id)
            self.tell(Progress(self.job, self.follower.counted(), phase))
            return self.job.state in going
        self.stopped = True
        if self.job.state == "running":
            await self._pause("interrupted")
        return False


def _as_data(found: Counted) -> dict[str, Any]:
    return {"expected": found.expected, "returned": found.returned}
