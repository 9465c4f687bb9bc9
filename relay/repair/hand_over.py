"""Hop 2: `relay run --hand-over`: somebody else publishes from the next row on.

Invariant: the publication takes the outbox in the transaction that sets the boundary, while nobody
writes: what was committed before is the relay's, what comes after is the other's, nothing is in
both and nothing in neither. The boundary is the checkpoint's own window, so that a hand-over that
was interrupted is finished by the same command, and by no other relay.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from relay.publish.ownership.lease import Lease
from relay.publish.reading.checkpoint import CheckpointWriter
from relay.publish.reading.window import LOWEST_ID, Position, Snapshot
from relay.runtime.database import connect
from relay.runtime.migrations import require_schema
from relay.runtime.publisher_record import PublisherActiveError, become, read_publisher

_APPLICATION: Final = "relay-hand-over"
_LEASE_SECONDS: Final = 60.0

# Writers are not to queue behind it for longer; it waits for those that have written.
_WAIT: Final = "SET LOCAL lock_timeout = '3s'"
_LOCK: Final = "LOCK TABLE relay.outbox IN SHARE ROW EXCLUSIVE MODE"
_PUBLICATION: Final = """
SELECT pg_catalog.quote_ident(p.pubname) AS name, p.puballtables, p.pubviaroot, p.pubinsert,
       -- By itself or by its schema.
       EXISTS (SELECT FROM pg_catalog.pg_publication_tables t
                WHERE t.pubname = p.pubname AND t.schemaname = 'relay'
                  AND t.tablename ~ '^outbox(_|$)')
           AS has_outbox
  FROM pg_catalog.pg_publication p WHERE p.pubname = $1
"""


class HandOverError(Exception):
    """The outbox cannot be handed over as asked; the message says why, and nothing was done."""


_WHY: Final = "relay run --hand-over"
_INTERRUPTED: Final = """
SELECT cur IS NOT NULL
       AND (SELECT a.why LIKE $1 || '%' FROM relay.audit_log a
             WHERE a.action = 'publisher_changed' ORDER BY a.audit_id DESC LIMIT 1)
  FROM relay.checkpoint WHERE shard = 0
"""
_OPEN: Final = "SELECT cur IS NOT NULL FROM relay.checkpoint WHERE shard = 0"


async def hand_over(dsn: str | None, publication: str, who: str, owner: str) -> bool:
    """Give the outbox to a publication; what was committed before is the relay's to publish.

    Args:
        dsn: as the owner of publication and outbox.
        publication: of the other publisher; it has not had the outbox.
        who: decides it, for the audit log.
        owner: of the relay that publishes the rest: it is left holding the lease.

    Returns:
        Whether there is a rest to publish: the checkpoint's open window. False: it was done before.

    Raises:
        HandOverError: there is no such publication, it has the outbox already, or the relay was
            stopped in the middle of a backlog.
        PublisherActiveError: a relay or a witness runs.
        asyncpg.LockNotAvailableError: a transaction has the outbox open for too long.
        RestoredDatabaseError: the checkpoint is not of this database.
    """
    connection = await connect(dsn, _APPLICATION, server_settings={"jit": "off"})
    try:
        await require_schema(connection)
        external = (await read_publisher(connection)).kind == "external"
        if external and not await connection.fetchval(_INTERRUPTED, _WHY):
            return False
        lease = Lease(connection, 0, owner, _LEASE_SECONDS)
        taken = await lease.take()
        if taken is None:
            raise PublisherActiveError("a relay or a witness is active: stop it first")
        try:
            if not external:
                writer = CheckpointWriter(connection, taken.checkpoint)
                await _give(connection, writer, publication, who, owner)
        except BaseException:
            await lease.release()
            raise
        return True
    finally:
        connection.terminate()


async def is_open(dsn: str | None) -> bool:
    """Tell whether something of what was the relay's is not published yet."""
    connection = await connect(dsn, _APPLICATION)
    try:
        return bool(await connection.fetchval(_OPEN))
    finally:
        await connection.close()


async def _give(
    connection: asyncpg.Connection, writer: CheckpointWriter, publication: str, who: str, owner: str
) -> None:
    position = writer.checkpoint.position
    if position.cur is not None:
        raise HandOverError(
            "the relay was stopped in the middle of a backlog: let `relay run` catch up"
            " (`relay status`: nothing waits at publish), stop it, and try again"
        )
    name = await _publication(connection, publication)
    async with connection.transaction():
        await connection.execute(_WAIT)
        await connection.execute(_LOCK)
        await connection.execute(f"ALTER PUBLICATION {name} ADD TABLE relay.outbox")
        # Nobody has an uncommitted row now: what is visible is all that is the relay's.
        boundary = Snapshot.parse(await connection.fetchval("SELECT pg_current_snapshot()::text"))
        await writer.advance(Position(position.prev, boundary, LOWEST_ID), (), ())
        why = f"{_WHY} {publication}: what comes after {boundary} is the publication's"
        await become(connection, "external", who, why, lease_owner=owner)


async def _publication(connection: asyncpg.Connection, publication: str) -> str:
    """Return its name, quoted.

    Raises:
        HandOverError: there is none, or it cannot take the outbox from this row on.
    """
    found = await connection.fetchrow(_PUBLICATION, publication)
    options = "WITH (publish = 'insert', publish_via_partition_root = true)"
    if found is None:
        raise HandOverError(
            f"there is no publication {publication}: make it, empty, before the slot: CREATE"
            f" PUBLICATION {publication} {options}"
        )
    name: str = found["name"]
    if found["puballtables"] or found["has_outbox"]:
        raise HandOverError(
            f"the publication {name} has relay.outbox already: its connector sends what the relay"
            f" sends. Stop it; then: ALTER PUBLICATION {name} DROP TABLE relay.outbox (one FOR ALL"
            " TABLES cannot give a table up)"
        )
    if not (found["pubviaroot"] and found["pubinsert"]):
        raise HandOverError(
            f"the publication {name} would name partitions in the outbox's place, or leave rows"
            f" out: ALTER PUBLICATION {name} SET (publish = 'insert',"
            " publish_via_partition_root = true)"
        )
    return name
