"""Hop 2: orders that wait in quarantine because one of their events cannot be sent.

Invariant: while an order has an event waiting, its later events wait behind it; other orders flow.
An order leaves in the order in which its events came in: first what an operator released, then what
only waited behind it, before anything newer; it stops at an event that is held for its own sake.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from relay.publish.reading.parked_orders import Order, ParkedOrders, order_name
from relay.runtime.audit import Action, note_action, this_person

# NULL is what a version wrote that did not know the column, and what its row says where it is still
# there: in the outbox, or among what was kept of it.
_TYPES_KNOWN: Final = """
UPDATE relay.quarantine AS q
   SET aggregate_type =
       coalesce((SELECT left(o.aggregate_type, 256) FROM relay.outbox AS o
                  WHERE o.id = q.outbox_id LIMIT 1),
                (SELECT left(k.aggregate_type, 256) FROM relay.kept AS k
                  WHERE k.id = q.outbox_id LIMIT 1))
 WHERE q.quarantine_id = ANY (ARRAY(SELECT quarantine_id FROM relay.quarantine
                                     WHERE kind = 'event' AND aggregate_type IS NULL
                                       AND state IN ('held', 'release_requested')
                                       AND ($1::text[] IS NULL OR aggregate_id = ANY ($1))
                                     ORDER BY quarantine_id DESC LIMIT 10000))
"""

PARKED_ORDERS: Final = """
SELECT DISTINCT aggregate_type, aggregate_id FROM relay.quarantine
 WHERE kind = 'event' AND state IN ('held', 'release_requested') AND aggregate_id IS NOT NULL
"""

STILL_PARKED: Final = """
SELECT DISTINCT aggregate_type, aggregate_id FROM relay.quarantine
 WHERE kind = 'event' AND state IN ('held', 'release_requested')
   AND aggregate_id = ANY ($1::text[])
"""

# Only orders that something may leave of: what was asked for behind an event that is held must not
# use up the limit, or a hundred such orders would keep all others here for ever.
ASKED_FOR: Final = """
SELECT DISTINCT q.aggregate_type, q.aggregate_id FROM relay.quarantine AS q
 WHERE q.kind = 'event' AND q.state = 'release_requested' AND q.aggregate_id IS NOT NULL
   AND NOT EXISTS (SELECT FROM relay.quarantine AS before
                    WHERE before.aggregate_id = q.aggregate_id AND before.kind = 'event'
                      AND (before.aggregate_type = q.aggregate_type
                           OR before.aggregate_type IS NULL OR q.aggregate_type IS NULL)
                      AND before.state = 'held' AND before.quarantine_id < q.quarantine_id)
 LIMIT 100
"""

# What only waited behind an event that now leaves goes with it, up to the next that is held for its
# own sake. Each order is looked through once, however many wait in it.
RELEASE_FOLLOWERS: Final = """
UPDATE relay.quarantine AS q SET state = 'release_requested', resolved_by = 'relay',
       resolved_why = 'waited behind an event that was released'
  FROM (SELECT aggregate_type, aggregate_id,
               min(quarantine_id) FILTER (WHERE state = 'release_requested') AS first_asked,
               min(quarantine_id) FILTER (WHERE state = 'held' AND reason <> 'order_parked')
                   AS first_held
          FROM relay.quarantine
         WHERE kind = 'event' AND state IN ('held', 'release_requested')
           AND aggregate_id = ANY ($1::text[])
         GROUP BY aggregate_type, aggregate_id) AS parked
 WHERE q.aggregate_id = parked.aggregate_id
   AND q.aggregate_type IS NOT DISTINCT FROM parked.aggregate_type
   AND q.kind = 'event' AND q.state = 'held' AND q.reason = 'order_parked'
   AND q.quarantine_id > parked.first_asked
   AND (parked.first_held IS NULL OR q.quarantine_id < parked.first_held)
"""

# A row that is nowhere any more (its partition was dropped, and what was kept of it is past its own
# retention) would be asked for once a second for ever, and hold its order.
GONE: Final = """
UPDATE relay.quarantine AS q
   SET state = 'discarded', resolved_at = clock_timestamp(), resolved_by = 'relay',
       resolved_why = 'released, but its row is past all retention'
 WHERE q.kind = 'event' AND q.state = 'release_requested' AND q.outbox_id = ANY ($1::bigint[])
   AND NOT EXISTS (SELECT FROM relay.outbox AS o WHERE o.id = q.outbox_id)
   AND NOT EXISTS (SELECT FROM relay.kept AS k WHERE k.id = q.outbox_id)
RETURNING q.aggregate_id, q.outbox_id, q.quarantine_id
"""

# By quarantine_id: the order in which they were read, not the ids' own.
WAITING: Final = """
SELECT aggregate_type, aggregate_id, outbox_id, state FROM relay.quarantine
 WHERE kind = 'event' AND state IN ('held', 'release_requested')
   AND aggregate_id = ANY ($1::text[])
 ORDER BY quarantine_id LIMIT $2
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A parked event, as the decision needs it."""

    order: tuple[str | None, str]
    outbox_id: int
    release_requested: bool


def releasable(waiting: Sequence[Waiting]) -> list[int]:
    """Return which rows may leave now, as outbox ids: of each order those before the first held.

    Args:
        waiting: of any number of orders, each one's in the order in which they came in.
    """
    stopped: set[tuple[str | None, str]] = set()
    released: list[int] = []
    for event in waiting:
        # Of which type an event was that is nowhere any more, nobody knows: it stops all.
        if event.release_requested and stopped.isdisjoint((event.order, (None, event.order[1]))):
            released.append(event.outbox_id)
        else:
            stopped.add(event.order)
    return released


async def learn_types(connection: asyncpg.Connection) -> None:
    """Fill in the aggregate types of parked events that an older version wrote without."""
    await connection.execute(_TYPES_KNOWN, None)


async def parked_orders(connection: asyncpg.Connection) -> ParkedOrders:
    """Return the orders that are parked."""
    return ParkedOrders.of(map(_order, await connection.fetch(PARKED_ORDERS)))


async def still_parked(connection: asyncpg.Connection, ids: Iterable[bytes]) -> set[Order]:
    """Return the parked orders with these ids: an operator may have discarded what held one."""
    rows = await connection.fetch(STILL_PARKED, [name.decode() for name in ids])
    return set(map(_order, rows))


def _order(row: asyncpg.Record) -> Order:
    return row["aggregate_type"], order_name(row["aggregate_id"].encode())


async def asked_for(connection: asyncpg.Connection) -> list[str]:
    """Return ids of some orders of which an operator asked to release an event."""
    return list({row["aggregate_id"] for row in await connection.fetch(ASKED_FOR)})


async def leaving(connection: asyncpg.Connection, ids: Sequence[str], most: int) -> list[int]:
    """Return which rows of orders with these ids leave next, in order, as outbox ids.

    Args:
        connection: may write.
        ids: aggregate ids as quarantine has them.
        most: rows looked at.
    """
    await connection.execute(_TYPES_KNOWN, ids)
    await connection.execute(RELEASE_FOLLOWERS, ids)
    rows = await connection.fetch(WAITING, ids, most)
    found = releasable(
        [
            Waiting(
                (row["aggregate_type"], row["aggregate_id"]),
                row["outbox_id"],
                row["state"] == "release_requested",
            )
            for row in rows
        ]
    )
    gone = await _discard_gone(connection, found)
    return [outbox_id for outbox_id in found if outbox_id not in gone]


async def _discard_gone(connection: asyncpg.Connection, outbox_ids: Sequence[int]) -> set[int]:
    """Let go of events whose rows are nowhere any more; each is noted in the audit log."""
    async with connection.transaction():
        rows = await connection.fetch(GONE, outbox_ids)
        for row in rows:
            await note_action(
                connection,
                Action(
                    this_person(),
                    "quarantine_discard",
                    row["aggregate_id"],
                    "released, but its row is past all retention",
                    result="the event can no longer be sent",
                    detail={"ids": [row["quarantine_id"]], "outbox_id": row["outbox_id"]},
                ),
            )
    return {row["outbox_id"] for row in rows}
