"""Outage records: from when to when this process could not reach database or broker.

Invariant: an outage is kept in memory until the database has it, so that the database's own outage
is recorded too, afterwards. A broker's outage is written while it lasts and completed when it ends.
Times are the database's: the process's monotonic clock, moved by one reading of the other. What a
process that is killed during an outage had not written is lost; its heartbeat's end remains.
A database that takes heartbeats and refuses the work is away for the work: each part of a process
that sees an outage (a witness) ends it for itself, and it is over when it is over for all of them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import combinations
from typing import Literal

import asyncpg

from relay.runtime.failure_code import failure_code
from relay.runtime.process import ProcessRecord
from relay.runtime.repeats import Repeats

Resource = Literal["database", "broker", "publisher", "registry"]
Witness = Literal["service", "heartbeat"]

KEPT_IN_MEMORY = 1000
"""More than that between two writes (a flapping network), and the two oldest are joined."""

JOINED_WITHIN_SECONDS = 15.0
"""A resource that fails in the same way so soon after its return was never back: a service that is
refused connects anew, and learns with its next statement that nothing has changed. Longer than any
back-off."""

_ERROR_CHARACTERS = 500

_NOW = "SELECT clock_timestamp()"

_WRITE = """
INSERT INTO relay.outage_record (process_id, kind, resource, from_at, to_at, error, failure_code)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (process_id, resource, from_at) DO UPDATE SET to_at = excluded.to_at
"""


@dataclass(slots=True, eq=False)
class _Outage:
    resource: Resource
    began: float
    error: str
    code: str | None
    witnesses: set[Witness]
    since: float  # of this stretch: later than `began` where it was joined to the one before
    ended: float | None = None
    from_at: datetime | None = None  # fixed by the first write: it is the row's key
    written_open: bool = False


@dataclass(slots=True)
class OutageLog:
    """The outages that one process sees."""

    process: ProcessRecord
    clock: Callable[[], float] = time.monotonic
    _outages: list[_Outage] = field(default_factory=list)
    _last: dict[Resource, _Outage] = field(default_factory=dict)
    _repeats: Repeats = field(init=False)

    def __post_init__(self) -> None:
        self._repeats = Repeats(self.clock)

    def began(
        self,
        resource: Resource,
        error: BaseException | str,
        witness: Witness = "service",
        *,
        code: str | None = None,
    ) -> bool:
        """Note that the resource is away; True when that is to be said: now and each minute.

        An exception names its own `code`.
        """
        if isinstance(error, BaseException):
            code = failure_code(error, resource)
        outage = self._open(resource) or self._resumed(resource, code)
        if outage is not None:
            outage.witnesses.add(witness)
            return self._repeats.due(f"{resource} {witness}")
        text = str(error)[:_ERROR_CHARACTERS] or type(error).__name__
        outage = _Outage(resource, self.clock(), text, code, {witness}, self.clock())
        self._outages.append(outage)
        self._last[resource] = outage
        self._join_oldest()
        self._repeats.over(f"{resource} {witness}")
        return self._repeats.due(f"{resource} {witness}")

    def ended(self, resource: Resource, witness: Witness = "service") -> float | None:
        """Note that it is back for one witness.

        Returns:
            For how many seconds it was away; None: it was not, or is still for another witness.
        """
        outage = self._open(resource)
        if outage is None:
            return None
        outage.witnesses.discard(witness)
        if outage.witnesses:
            return None
        outage.ended = self.clock()
        return outage.ended - outage.since

    def _resumed(self, resource: Resource, code: str | None) -> _Outage | None:
        """Open the last outage anew if this is the same one, which had only seemed to end."""
        last = self._last.get(resource)
        if last is None or last.ended is None or code is None or last.code != code:
            return None
        if self.clock() - last.ended > JOINED_WITHIN_SECONDS:
            return None
        last.ended, last.written_open, last.since = None, False, self.clock()
        if last not in self._outages:
            self._outages.append(last)
        return last

    def is_out(self, resource: Resource) -> bool:
        """Tell whether the resource is away now."""
        return self._open(resource) is not None

    async def write(self, connection: asyncpg.Connection) -> None:
        """Write what is not written yet; call it with every heartbeat."""
        todo = [o for o in self._outages if o.ended is not None or not o.written_open]
        if not todo:
            return
        now_at, now = await connection.fetchval(_NOW), self.clock()
        for outage in todo:
            # Read once: the outage may end while its row is on its way.
            ended = outage.ended
            outage.from_at = outage.from_at or now_at - timedelta(seconds=now - outage.began)
            to_at = None if ended is None else now_at - timedelta(seconds=now - ended)
            await self._write_one(connection, outage, to_at)
            outage.written_open = True
            if ended is not None and outage.ended == ended and outage in self._outages:
                self._outages.remove(outage)

    async def _write_one(
        self, connection: asyncpg.Connection, outage: _Outage, to_at: datetime | None
    ) -> None:
        await connection.execute(
            _WRITE,
            self.process.process_id,
            self.process.kind,
            outage.resource,
            outage.from_at,
            to_at,
            outage.error,
            outage.code,
        )

    def _open(self, resource: Resource) -> _Outage | None:
        return next((o for o in self._outages if o.resource == resource and o.ended is None), None)

    def _join_oldest(self) -> None:
        """Keep memory bounded: join the oldest outage with the next one of its resource."""
        if len(self._outages) <= KEPT_IN_MEMORY:
            return
        for first, later in combinations(self._outages, 2):
            if first.resource == later.resource:
                first.ended = later.ended
                self._outages.remove(later)
                return
