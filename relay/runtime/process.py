"""The process record: that this process lives, since when, and how it ended.

Invariant: one row per process, written by upsert, so that a row lost in a failover comes back with
the next heartbeat. Times are the database's. A process that is killed leaves a row without
`stopped_at` and a heartbeat that ages: that is the evidence, and nothing here can prevent it.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from relay.runtime.database import connect
from relay.runtime.liveness import SILENT_SECONDS

_BEAT = """
INSERT INTO relay.process_record AS p
    (process_id, kind, instance, version, started_at, heartbeat_at, detail, failure_code)
VALUES ($1, $2, $3, $4, clock_timestamp() - make_interval(secs => $5), clock_timestamp(), $6::jsonb,
        $7)
ON CONFLICT (process_id) DO UPDATE
   SET heartbeat_at = clock_timestamp(), detail = excluded.detail,
       failure_code = excluded.failure_code
"""

_STOP = """
UPDATE relay.process_record
   SET stopped_at = clock_timestamp(), heartbeat_at = clock_timestamp(), stop_reason = $2,
       stop_code = $3
 WHERE process_id = $1
"""


_RUNNING = """
SELECT kind, instance, (detail -> 'flow')::text AS flow FROM relay.process_record
 WHERE stopped_at IS NULL AND heartbeat_at > clock_timestamp() - make_interval(secs => $1)
   AND jsonb_typeof(detail -> 'flow') = 'object'
 ORDER BY kind, started_at DESC LIMIT 200
"""


async def read_running(dsn: str | None) -> list[tuple[str, str, dict[str, Any]]]:
    """Return kind, instance and recorded flow of the processes that live.

    Raises:
        DATABASE_FAILURES: the database cannot be asked.
    """
    connection = await connect(dsn, "relay-settings", require_primary=False)
    try:
        rows = await connection.fetch(_RUNNING, SILENT_SECONDS)
    finally:
        connection.terminate()
    return [(row["kind"], row["instance"], json.loads(row["flow"])) for row in rows]


def instance_name() -> str:
    """Return how this process is called in records and logs: `host:pid`."""
    return f"{socket.gethostname()}:{os.getpid()}"


def client_id(kind: str) -> str:
    """Return what Kafka's logs, metrics and quotas call this process: none is called as another."""
    return f"{kind}-{socket.gethostname()}-{os.getpid()}"


def program_version() -> str:
    """Return the version of the installed distribution."""
    return metadata.version("outbox-relay")


@dataclass(slots=True)
class ProcessRecord:
    """One process's row in relay.process_record.

    Attributes:
        kind: `relay`, `confirm`, `watchdog`, ...
        detail: what `relay status` shows of it (epoch, state, rates); replaced by each heartbeat.
        flow: what it runs with (`flow_record`): commands compare their own settings with it.
    """

    kind: str
    instance: str = field(default_factory=instance_name)
    version: str = field(default_factory=program_version)
    process_id: UUID = field(default_factory=uuid4)
    detail: Mapping[str, Any] = field(default_factory=dict)
    flow: Mapping[str, Any] | None = None
    clock: Callable[[], float] = time.monotonic
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    async def start(self, connection: asyncpg.Connection) -> None:
        """Write the row; `started_at` is when this object was made, however late this comes."""
        await self.heartbeat(connection)

    async def heartbeat(
        self,
        connection: asyncpg.Connection,
        detail: Mapping[str, Any] | None = None,
        failure_code: str | None = None,
    ) -> None:
        """Say that the process lives, what it does, and the code of what it waits for."""
        if detail is not None:
            self.detail = detail
        age_seconds = self.clock() - self._started
        await connection.execute(
            _BEAT,
            self.process_id,
            self.kind,
            self.instance,
            self.version,
            age_seconds,
            json.dumps(self._recorded(), default=str),
            failure_code,
        )

    def _recorded(self) -> Mapping[str, Any]:
        return self.detail if self.flow is None else {**self.detail, "flow": self.flow}

    async def stop(
        self, connection: asyncpg.Connection, reason: str, code: str | None = None
    ) -> None:
        """Say that the process ends in good order, and why (`SIGTERM`, an error's name).

        Args:
            connection: to the database that it recorded itself in.
            reason: for people.
            code: of the error that ended it (`failure_code`); None: it was asked to stop.
        """
        await self.heartbeat(connection)
        await connection.execute(_STOP, self.process_id, reason, code)
