"""Hop 2: which PostgreSQL server this is, and whether the checkpoint is this server's own.

Invariant: a relay goes on only where its checkpoint means something: in the database and the table
that it was written in (a copy, in whatever cluster, has others), on a cluster whose transaction
numbers are not behind the checkpoint's, nor behind those of the outbox's rows. A new timeline of
the same cluster is an ordinary failover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg
import structlog

from relay.publish.errors import RestoredDatabaseError, ServersDifferError
from relay.publish.reading.window import Position
from relay.runtime.audit import Action, note_action, this_person

_LOG: Final = structlog.get_logger("relay.publish")

STATE: Final = """
SELECT (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
       left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline,
       -- As a number: two connections must not differ because they write times differently.
       concat_ws(' ', (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
                 host(inet_server_addr()), inet_server_port()) AS instance,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next_txid,
       (SELECT oid FROM pg_database WHERE datname = current_database())::text
           || '/' || 'relay.checkpoint'::regclass::oid AS home
"""

# A row copied in from another cluster, whose numbers are ahead, would never be in a window.
# One probe of each partition's index, whatever the statistics say.
_COPIED_ROWS: Final = """
SELECT coalesce((SELECT txid FROM relay.outbox ORDER BY txid DESC LIMIT 1)
                >= pg_snapshot_xmax(pg_current_snapshot()), false)
"""


@dataclass(frozen=True, slots=True)
class ServerState:
    """What a connection reached.

    Attributes:
        system_identifier: of the cluster, for ever (initdb makes it).
        timeline: rises at each failover or point-in-time recovery.
        instance: tells two servers of one cluster apart.
        next_txid: the first transaction number not yet given out.
        home: of the checkpoint: database and table, by oid. A physical copy keeps them, a logical
            one (dump and restore, `CREATE DATABASE ... TEMPLATE`, logical replication) does not.
    """

    system_identifier: int
    timeline: str
    instance: str
    next_txid: int
    home: str = ""


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


@dataclass(frozen=True, slots=True)
class Written:
    """Where a checkpoint was written, and how far it has read."""

    system_identifier: int
    home: str
    position: Position


def restored(server: ServerState, written: Written, *, copied_rows: bool) -> list[str]:
    """Say what tells that this database is not the one that a checkpoint was written in.

    Args:
        server: what a connection reached.
        written: the checkpoint.
        copied_rows: the outbox holds rows of transactions that this cluster has not come to.
    """
    found = []
    if written.system_identifier != server.system_identifier:
        found.append(
            f"the checkpoint was written on cluster {written.system_identifier}, this one is"
            f" {server.system_identifier} (a restored dump, a logical copy, pg_upgrade)"
        )
    elif written.home != server.home:
        found.append(
            f"the checkpoint was written in another database or table ({written.home}) than this"
            f" one ({server.home}): this is a copy, or a dump was restored over it"
        )
    ahead = written.position.newest.xmax
    if ahead > server.next_txid:
        found.append(
            f"the checkpoint has read up to transaction {ahead}, this cluster has only come to"
            f" {server.next_txid}"
        )
    if copied_rows:
        found.append(
            f"the outbox holds rows of transactions from {server.next_txid} on, which this cluster"
            " has not come to: no window would show them"
        )
    return found


def refuse_restored(server: ServerState, written: Written, *, copied_rows: bool) -> None:
    """Refuse a checkpoint that was written elsewhere or in a future that this database lost.

    Raises:
        RestoredDatabaseError: it says what differs and what to run.
    """
    found = restored(server, written, copied_rows=copied_rows)
    if found:
        raise RestoredDatabaseError(
            f"{'; '.join(found)}: nothing was published from here. Run `relay rebaseline` with the"
            " relay stopped."
        )


async def has_copied_rows(connection: asyncpg.Connection) -> bool:
    """Tell whether the outbox holds rows of transactions that this cluster has not come to."""
    found: bool = await connection.fetchval(_COPIED_ROWS)
    return found


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
