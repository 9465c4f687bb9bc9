"""One look at everything for all who look at the page, and its pushing to them.

Invariant: however many tabs are open, the servers are asked once a time; with nobody looking they
are not asked at all. A look that fails leaves the last one standing, with what failed and when.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.incidents.listing import IncidentSeen, list_incidents, single_orders
from relay.diagnose.report.night import Headline, headline
from relay.diagnose.session import Session, open_connection, session
from relay.diagnose.status.hops import Status
from relay.diagnose.status.minutes import HOUR, Minutes, read_minutes
from relay.diagnose.status.reading import read_status
from relay.diagnose.watch.case_pages import CaseKind, count_cases
from relay.diagnose.watch.happened import Happened, read_happened
from relay.runtime.database import DATABASE_FAILURES
from relay.runtime.kept_connections import KeptConnections
from relay.runtime.migration_files import MigrationError
from relay.runtime.migrations import require_schema
from relay.runtime.settings import Settings
from relay.runtime.shutdown import stopped_within

_LOG: Final = structlog.get_logger("relay.web")
# Nobody has asked for so long: nobody looks.
IDLE_SECONDS: Final = 60.0
# What changes slowly is read every so many looks.
_SLOWLY: Final = 6
VIEWERS: Final = 500
SHARE: Final = 0.01
"""Of a core, that looking and pushing may take, however many tabs are open."""
SLOWEST: Final = 4
STATEMENT_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Night:
    """What one look at everything found.

    Attributes:
        kinds: the open cases, counted; `exact`: all of them were.
        minutes: the last hour; None: it could not be read.
        away: why the database could not be read; the rest is from `at`.
        tried_at: when it was last tried.
    """

    at: datetime
    status: Status
    headline: Headline
    kinds: tuple[CaseKind, ...] = ()
    exact: bool = True
    incidents: tuple[IncidentSeen, ...] = ()
    single: int = 0
    minutes: Minutes | None = None
    happened: tuple[Happened, ...] = ()
    away: str | None = None
    tried_at: datetime | None = None

    def fingerprint(self) -> Any:
        """Return what has to differ for a list to be worth reading again."""
        kinds = tuple((one.hop, one.cause, one.count) for one in self.kinds)
        seen = tuple((one.incident_id, one.orders, one.closed_at) for one in self.incidents)
        return kinds, seen, self.away is None


@dataclass(slots=True)
class Watcher:
    """Looks, keeps the last look, and tells whoever waits for the next."""

    settings: Settings
    every_seconds: float
    clock: Callable[[], float] = time.monotonic
    cpu: Callable[[], float] = time.process_time
    kept: KeptConnections = field(init=False)
    night: Night | None = None
    viewers: int = 0
    looks: int = 0
    failure: str | None = None
    _asked_at: float = float("-inf")
    _looked_at: float = float("-inf")
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _looked: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: bool = False

    def __post_init__(self) -> None:
        dsn = self.settings.database.dsn
        self.kept = KeptConnections(lambda: open_connection(dsn, STATEMENT_SECONDS))

    async def run(self, stop: asyncio.Event) -> None:
        """Look until told to stop, while somebody is there."""
        try:
            await self._look_on(stop)
        finally:
            self._ended = True
            self.kept.end()
            self._tell()

    async def _look_on(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if self.viewers or self.clock() - self._asked_at < IDLE_SECONDS:
                started, spent_at = self.clock(), self.cpu()
                await self._look()
                # What is pushed meanwhile is a cost of the look, too.
                await stopped_within(stop, self.every_seconds / 5)
                spent, gone = self.cpu() - spent_at, self.clock() - started
                await stopped_within(stop, pause_after(gone, spent, self.every_seconds))
            else:
                self._wanted.clear()
                await self._wanted_or(stop)

    async def _wanted_or(self, stop: asyncio.Event) -> None:
        while not (stop.is_set() or self._wanted.is_set()):
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._wanted.wait()
            self.kept.close_idle()

    async def _look(self) -> None:
        try:
            self.night = await self._read()
            self.failure = None
        except Exception as error:  # noqa: BLE001 - the page must say so, and look again
            self.failure = f"{type(error).__name__}: {error}"
            _LOG.error("look_failed", error=self.failure, exc_info=error)
        self.looks += 1
        self._looked_at = self.clock()
        self._tell()

    def _tell(self) -> None:
        """Wake whoever waits; the next wait is for the next look."""
        self._looked.set()
        self._looked = asyncio.Event()

    async def current(self, within_seconds: float = 15.0) -> Night | None:
        """Return the last look, or wait for the first; None: there is none in time."""
        stale = self.clock() - self._looked_at > 3 * self.every_seconds
        self._asked_at = self.clock()
        seen = self.looks
        self._wanted.set()
        if self.night is None or (stale and not self.viewers):
            with suppress(TimeoutError):
                async with asyncio.timeout(within_seconds):
                    await self._next(seen)
        return self.night

    async def _next(self, seen: int) -> None:
        while self.looks <= seen and not self._ended:
            await self._looked.wait()

    @asynccontextmanager
    async def viewer(self) -> AsyncIterator[None]:
        """Count somebody who looks while the block runs."""
        self.viewers += 1
        self._wanted.set()
        try:
            yield
        finally:
            self.viewers -= 1

    async def next_look(self, seen: int, within_seconds: float) -> bool:
        """Wait for a look after the `seen`-th; tell whether there was one."""
        try:
            async with asyncio.timeout(within_seconds):
                await self._next(seen)
        except TimeoutError:
            return False
        return True

    async def _read(self) -> Night:
        settings = self.settings
        dsn, kafka, flow = settings.database.dsn, settings.kafka, settings.flow
        status = await read_status(dsn, kafka, flow, kept=self.kept)
        now_at = datetime.now(UTC)
        async with session(dsn, kafka, flow, kept=self.kept) as opened:
            if isinstance(opened.connection, Missing):
                return self._away(status, now_at, opened.connection.detail)
            try:
                await require_schema(opened.connection)
                return await self._whole(opened, status)
            except (*DATABASE_FAILURES, MigrationError) as error:
                return self._away(status, now_at, str(error) or type(error).__name__)

    async def _whole(self, opened: Session, status: Status) -> Night:
        con, flow = opened.connection, opened.flow
        assert not isinstance(con, Missing)
        now_at = datetime.now(UTC)
        kinds, exact = await count_cases(con, flow)
        deadline = longest_deadline(self.settings)
        told = headline(kinds, status.looked, now_at, deadline, exact=exact)
        incidents = await list_incidents(con, flow, closed=False, at_most=20)
        minutes, happened = (self.night.minutes, self.night.happened) if self.night else (None, ())
        if self.looks % _SLOWLY == 0 or minutes is None:
            minutes = await read_minutes(con, flow, now_at - HOUR, now_at)
            happened = tuple(await read_happened(con, flow, now_at - HOUR, now_at))
        by_orders = sorted(incidents, key=lambda one: -one.orders)
        return Night(
            now_at, status, told, tuple(kinds), exact, tuple(by_orders),
            await single_orders(con, flow), minutes, happened, None, now_at,
        )  # fmt: skip

    def _away(self, status: Status, now_at: datetime, why: str) -> Night:
        """Keep what was seen last; what Kafka alone can say is new."""
        if self.night is not None and self.night.minutes is not None:
            return replace(self.night, away=why, tried_at=now_at)
        told = headline((), None, now_at, 0.0)
        return Night(now_at, status, told, away=why, tried_at=now_at)


def pause_after(gone: float, spent: float, every_seconds: float) -> float:
    """Return how long to wait until the next look, so that looks take SHARE of a core at most.

    Args:
        gone: seconds since the last one began.
        spent: CPU-seconds since then.
        every_seconds: how often people want it; at SLOWEST times that they get it in any case.
    """
    wanted = max(every_seconds, min(spent / SHARE, SLOWEST * every_seconds))
    return max(0.0, wanted - gone)


def longest_deadline(settings: Settings) -> float:
    """Return the longest deadline of the flow's events, in seconds."""
    return max(settings.flow.deadlines.values(), default=0.0)
