"""Hop 2: who publishes the outbox, as the database says: our relay, or somebody else.

Invariant: the kind changes only in a transaction that holds the lease's row, while nobody holds the
lease, and with its row in the audit log. So whoever asks behind taking the lease has the answer for
as long as he holds it: no two publish one outbox because of a command given by mistake.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import asyncpg

from relay.runtime.audit import Action, note_action

Kind = Literal["relay", "external"]


@dataclass(frozen=True, slots=True)
class PublisherRecord:
    """The row of relay.publisher.

    Attributes:
        slot: the publisher's replication slot; None: it has none, or nobody named it.
        connector: its name in Kafka Connect.
        witness_group: the consumer group whose stored offsets say how far the topics were read.
    """

    kind: Kind
    changed_at: datetime
    changed_by: str
    slot: str | None
    connector: str | None
    witness_group: str | None


class ExternalPublisherError(Exception):
    """Somebody else publishes this outbox; a relay would publish everything a second time."""

    def __init__(self, record: PublisherRecord) -> None:
        super().__init__(
            f"this outbox is published by somebody else{_named(record)}: so it was set at "
            f"{record.changed_at:%Y-%m-%d %H:%M:%S %Z} by {record.changed_by}"
        )

    hint = (
        "relay witness keeps the ledger; to publish with the relay instead, stop the other "
        "publisher, then: relay run --take-over"
    )


class RelayPublishesError(Exception):
    """The relay publishes this outbox: there is nothing to witness."""

    hint = 'set [publisher] kind = "external" and start `relay witness`, with no relay running'


class PublisherActiveError(Exception):
    """Somebody holds the relay's lease: the kind of publisher cannot change now."""


_READ: Final = """
SELECT kind, changed_at, changed_by, slot, connector, witness_group FROM relay.publisher
"""

# Whoever takes the lease waits for this row, and then sees who publishes.
_LEASE: Final = """
SELECT owner, owner IS NOT NULL AND released_at IS NULL AND expires_at > clock_timestamp() AS held
  FROM relay.lease WHERE duty = 'relay' AND shard = 0 FOR UPDATE
"""

_CHANGE: Final = """
UPDATE relay.publisher
   SET kind = $1, changed_at = clock_timestamp(), changed_by = $2
 WHERE kind <> $1 RETURNING true
"""

_NAME: Final = """
UPDATE relay.publisher SET slot = $1, connector = $2, witness_group = $3
 WHERE (slot, connector, witness_group) IS DISTINCT FROM ($1, $2, $3)
"""


async def read_publisher(connection: asyncpg.Connection) -> PublisherRecord:
    """Return who publishes; the row is there from the migration on, and nobody may delete it."""
    row = await connection.fetchrow(_READ)
    return PublisherRecord(*row)


async def refuse_external(connection: asyncpg.Connection) -> None:
    """See that the relay may publish.

    Raises:
        ExternalPublisherError: somebody else does.
    """
    record = await read_publisher(connection)
    if record.kind == "external":
        raise ExternalPublisherError(record)


async def refuse_relay(connection: asyncpg.Connection) -> None:
    """See that somebody else publishes.

    Raises:
        RelayPublishesError: the relay does.
    """
    record = await read_publisher(connection)
    if record.kind == "relay":
        raise RelayPublishesError(
            f"the relay publishes this outbox (since {record.changed_at:%Y-%m-%d %H:%M:%S %Z})"
        )


async def become(
    connection: asyncpg.Connection,
    kind: Kind,
    who: str,
    why: str,
    *,
    lease_owner: str | None = None,
) -> bool:
    """Set who publishes; return whether it was another before.

    Args:
        connection: as relay_publisher, outside of a transaction.
        kind: who publishes from now on.
        who: as the person or process calls itself.
        why: the reason, for the audit log.
        lease_owner: the caller's own claim on the relay's lease, where it holds it.

    Raises:
        PublisherActiveError: a relay, or a witness, is active.
    """
    async with connection.transaction():
        lease = await connection.fetchrow(_LEASE)
        if (await read_publisher(connection)).kind == kind:
            return False
        if lease is not None and lease["held"] and lease["owner"] != lease_owner:
            raise PublisherActiveError(
                f"the relay's lease is held by {lease['owner']}: stop it first (relay status says "
                "who it is)"
            )
        await connection.execute(_CHANGE, kind, who)
        await note_action(connection, Action(who, "publisher_changed", kind, why))
    return True


async def name_publisher(
    connection: asyncpg.Connection, slot: str | None, connector: str | None, group: str
) -> None:
    """Write down where the external publisher can be looked at, for every command to know."""
    await connection.execute(_NAME, slot, connector, group)


def _named(record: PublisherRecord) -> str:
    names = [
        *([f"connector {record.connector}"] if record.connector else []),
        *([f"slot {record.slot}"] if record.slot else []),
    ]
    return f" ({', '.join(names)})" if names else ""
