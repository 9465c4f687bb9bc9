"""Hop 2: where a shard's checkpoint stands, whose it is, and whether a relay is at work on it.

Invariant: reading changes nothing; what it says is what the relay itself would find at its next
takeover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from relay.publish.ownership.server_identity import (
    ServerState,
    Written,
    has_copied_rows,
    restored,
    server_state,
)
from relay.publish.reading.checkpoint import position_of


class NoCheckpointError(Exception):
    """That shard has no checkpoint: run `relay migrate`."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A checkpoint beside the server that it is on.

    Attributes:
        wrong: what tells that the checkpoint is not this database's own; empty: it is.
        active: the relay that holds the lease now; None: none does.
        columns: the checkpoint as it stands, for the audit log.
    """

    server: ServerState
    wrong: tuple[str, ...]
    active: str | None
    columns: dict[str, Any]


_CHECKPOINT: Final = """
SELECT prev::text, cur::text, last_id, high_id, epoch, seq, system_identifier, home, timeline,
       updated_at::text
  FROM relay.checkpoint WHERE shard = $1
"""
_ACTIVE: Final = """
SELECT owner FROM relay.lease
 WHERE duty = 'relay' AND shard = $1 AND released_at IS NULL AND expires_at > clock_timestamp()
"""


async def read_baseline(connection: asyncpg.Connection, shard: int) -> Baseline:
    """Read it.

    Raises:
        NoCheckpointError: there is none.
    """
    row = await connection.fetchrow(_CHECKPOINT, shard)
    if row is None:
        raise NoCheckpointError(f"shard {shard} has no checkpoint: run `relay migrate`")
    # After the checkpoint: one that an active relay moves on meanwhile is not ahead of the server.
    server = await server_state(connection)
    written = Written(
        row["system_identifier"] or server.system_identifier,
        row["home"] or server.home,
        position_of(row["prev"], row["cur"], row["last_id"]),
    )
    wrong = restored(server, written, copied_rows=await has_copied_rows(connection))
    active = await connection.fetchval(_ACTIVE, shard)
    return Baseline(server, tuple(wrong), active, dict(row))
