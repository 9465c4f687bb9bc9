"""Hop 2: which PostgreSQL server this is, and whether the checkpoint is this server's own.

Invariant: a relay goes on only where its checkpoint means something: on the same cluster
(`system_identifier`), whose transaction numbers are not behind the checkpoint's. A new timeline of
the same cluster is an ordinary failover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg
import structlog

from relay.publish.errors import RestoredDatabaseError, ServersDifferError
from relay.publish.window import Position
from relay.runtime.audit import Action, note_action, this_person

_LOG: Final = structlog.get_logger("relay.publish")

STATE: Final = """
SELECT (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
       left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline,
       pg_postmaster_start_time()::text || coalesce(' ' || inet_server_addr()::text, '')
           || coalesce(' ' || inet_server_port()::text, '') AS instance,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_txid
"""


@dataclass(frozen=True, slots=True)
class ServerState:
    """What a connection reached.

    Attributes:
        system_identifier: of the cluster, for ever (initdb makes it).
        timeline: rises at each failover or point-in-time recovery.
        instance: tells two servers of one cluster apart.
        next_txid: the first transaction number not yet given out.
    """

    system_identifier: int
    timeline: str
    instance: str
    next_txid: int


async def server_state(connection: asyncpg.Connection) -> ServerState:
    """Ask a connection which server it reached."""
    row = await connection.fetchrow(STATE)
    return ServerState(**dict(row))


def refuse_two_servers(reader: ServerState, writer: ServerState) -> None:
    """Refuse a reader and a writer that are not on one server.

    Raises:
        ServersDifferError: a failover between the two, or a DSN that names several primaries.
    """
    first = (reader.system_identifier, reader.timeline, reader.instance)
    if first != (writer.system_identifier, writer.timeline, writer.instance):
        raise ServersDifferError(
            f"reader and writer reached two servers ({reader.instance}; {writer.instance})"
        )


def refuse_restored(server: ServerState, system_identifier: int, position: Position) -> None:
    """Refuse a checkpoint that was written elsewhere or in a future that this database lost.

    Raises:
        RestoredDatabaseError: it says what differs and what to run.
    """
    advice = "nothing was published from here. Run `relay rebaseline` with the relay stopped."
    if system_identifier != server.system_identifier:
        raise RestoredDatabaseError(
            f"the checkpoint was written on cluster {system_identifier}, this one is"
            f" {server.system_identifier} (a restored dump?): {advice}"
        )
    ahead = position.newest.xmax
    if ahead > server.next_txid:
        raise RestoredDatabaseError(
            f"the checkpoint has read up to transaction {ahead}, this database has only come to"
            f" {server.next_txid} (restored?): {advice}"
        )


async def note_timeline(connection: asyncpg.Connection, timeline: str, before: str | None) -> None:
    """Record that the cluster is on another timeline than at the last takeover.

    An ordinary failover; to an asynchronous replica it may have lost rows that were published.
    """
    if before not in (None, timeline):
        _LOG.warning("timeline_changed", before=before, now=timeline)
        await note_action(
            connection,
            Action(
                this_person(),
                "timeline_changed",
                timeline,
                "the relay took over after a failover or a recovery",
                detail={"from": before, "to": timeline},
            ),
        )
