"""Hop 2, witnessed: notes how far the publisher is: places of the WAL, and the connector's state.

Invariant: it never disturbs the witness: what cannot be noted is tried again. A mark is one
statement: its snapshot is taken before the WAL's end is asked for, so that what the snapshot shows
was committed at or before that place. With several witnesses one of them writes each mark.

What is wrong with slot or connector is an outage of this process's record, from when to when, so
that a night that is over can be told.

A slot whose `confirmed_flush_lsn` is at or behind a mark has confirmed all that the mark shows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import asyncpg
import structlog

from relay.runtime.database import DATABASE_FAILURES, connect
from relay.runtime.outage import OutageLog
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
# `invalidation_reason` is PostgreSQL 17's.
_SLOT: Final = """
SELECT active, coalesce(to_jsonb(s) ->> 'invalidation_reason',
                        CASE WHEN wal_status = 'lost' THEN 'wal_removed' END) AS lost
  FROM pg_catalog.pg_replication_slots AS s WHERE slot_name = $1
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
    outages: OutageLog
    every_seconds: float = MARK_SECONDS
    _cause: str | None = field(default=None, init=False)

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
                connector = await self._connector(connection)
                self._note(connector_complaint(connector) or await self._slot(connection))
                await stopped_within(stop, self.every_seconds)
        finally:
            connection.terminate()

    async def _connector(self, connection: asyncpg.Connection) -> Mapping[str, Any]:
        url, name = self.names.connect_url, self.names.connector
        if url is None or name is None:
            return {}
        state = await asyncio.to_thread(connector_state, url, name)
        await connection.execute(_CONNECTOR, json.dumps(state))
        return state

    async def _slot(self, connection: asyncpg.Connection) -> Complaint | None:
        if self.names.slot is None:
            return None
        row = await connection.fetchrow(_SLOT, self.names.slot)
        return slot_complaint(
            self.names.slot, None if row is None else (row["active"], row["lost"])
        )

    def _note(self, complaint: Complaint | None) -> None:
        cause = None if complaint is None else complaint.cause
        if cause != self._cause:
            # What is wrong now is another outage than what was.
            self.outages.ended("publisher")
            self._cause = cause
        if complaint is None:
            return
        if self.outages.began("publisher", complaint.text, code=f"publisher:{complaint.cause}"):
            _LOG.warning("publisher_away", why=complaint.text)


class Complaint(NamedTuple):
    """What is wrong with a publisher: a cause's code, and words."""

    cause: str
    text: str


_STATES: Final = {
    "ABSENT": "connector_missing",
    "PAUSED": "connector_paused",
    "STOPPED": "connector_paused",
    "FAILED": "connector_failed",
}


def connector_complaint(state: Mapping[str, Any]) -> Complaint | None:
    """Return what Kafka Connect's answer complains of; None: nothing, or there is no answer."""
    said = state.get("state")
    if said in _STATES:
        return Complaint(_STATES[said], f"the connector is {said}")
    for task in state.get("tasks", ()):
        if task["state"] == "FAILED":
            return Complaint(
                "connect_task_failed", f"task {task['id']} of the connector failed: {task['trace']}"
            )
    return None


def slot_complaint(name: str, slot: tuple[bool, str | None] | None) -> Complaint | None:
    """Return what is wrong with a slot: `(active, why it is lost)`; None: there is none."""
    if slot is None:
        return Complaint("slot_missing", f"slot {name} does not exist")
    active, lost = slot
    if lost is not None:
        return Complaint("slot_lost", f"slot {name} is lost: {lost}")
    return None if active else Complaint("slot_inactive", f"nobody reads slot {name}")
