"""Hop 2, witnessed: notes how far the publisher is: places of the WAL, and the connector's state.

Invariant: it never disturbs the witness: what cannot be noted is tried again. A mark is one
statement: its snapshot is taken before the WAL's end is asked for, so that what the snapshot shows
was committed at or before that place. With several witnesses one of them writes each mark.

A slot whose `confirmed_flush_lsn` is at or behind a mark has confirmed all that the mark shows.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Final

import asyncpg
import structlog

from relay.runtime.database import DATABASE_FAILURES, connect
from relay.runtime.publisher_record import name_publisher
from relay.runtime.shutdown import stopped_within
from relay.witness.connect_rest import connector_state

_LOG: Final = structlog.get_logger("relay.witness")

MARK_SECONDS: Final = 5.0
_STATEMENT_SECONDS: Final = 5.0

_MARK: Final = """
INSERT INTO relay.wal_mark (lsn, seen)
SELECT pg_current_wal_insert_lsn(), pg_current_snapshot()
 WHERE NOT EXISTS (SELECT FROM relay.wal_mark
                    WHERE taken_at > clock_timestamp() - make_interval(secs => $1))
"""
_CONNECTOR: Final = """
UPDATE relay.publisher SET connector_state = $1::jsonb, seen_at = clock_timestamp()
"""


@dataclass(frozen=True, slots=True)
class PublisherNames:
    """Where the external publisher can be looked at.

    Attributes:
        slot: its replication slot; None: it has none.
        connector: its name in Kafka Connect, and `connect_url` a worker's REST interface.
    """

    slot: str | None = None
    connector: str | None = None
    connect_url: str | None = field(default=None, repr=False)  # it may hold a password


@dataclass(slots=True)
class Observer:
    """Notes it every few seconds, on a connection of its own."""

    dsn: str | None
    names: PublisherNames
    group: str
    every_seconds: float = MARK_SECONDS

    async def run(self, stop: asyncio.Event) -> None:
        """Observe until `stop` is set."""
        while not stop.is_set():
            try:
                await self._observe(stop)
            except DATABASE_FAILURES as error:
                _LOG.info("publisher_not_noted", why=str(error) or repr(error))
            await stopped_within(stop, self.every_seconds)

    async def _observe(self, stop: asyncio.Event) -> None:
        connection = await connect(
            self.dsn, "relay-witness-observer", command_timeout_seconds=_STATEMENT_SECONDS
        )
        try:
            names = self.names
            await name_publisher(connection, names.slot, names.connector, self.group)
            while not stop.is_set():
                # Slightly less than the pause: else every second one would be left out.
                await connection.execute(_MARK, 0.8 * self.every_seconds)
                await self._connector(connection)
                await stopped_within(stop, self.every_seconds)
        finally:
            connection.terminate()

    async def _connector(self, connection: asyncpg.Connection) -> None:
        url, name = self.names.connect_url, self.names.connector
        if url is None or name is None:
            return
        state = await asyncio.to_thread(connector_state, url, name)
        await connection.execute(_CONNECTOR, json.dumps(state))
