"""Stores all that a selection means as a job's items, where no plan of each is made.

Invariant: in the transaction that makes the job, page by page, so that ten million events are
never held here; only what the relay has handed over, and nothing that waits in quarantine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from relay.publish.reading.replays import PART_ITEMS
from relay.replay.candidates import CONDITIONS, conditions
from relay.replay.selection import Selection
from relay.runtime.flow import Flow

# The next $11 that were published, after row $9 and in the order of the outbox, as parts from
# number $10 on. $7: orders; $8: event types that are the flow's by themselves; $12: its aggregate
# type, of which it publishes every type ($13), or these ($14). $8 NULL: whatever is no other
# flow's ($15). What waits in quarantine was not published.
STORE: Final = f"""
WITH page AS MATERIALIZED (
    SELECT array_agg(chosen.id ORDER BY chosen.id) AS ids
      FROM (SELECT e.id
              FROM (SELECT id, txid, aggregate_type, aggregate_id, event_type, created_at
                      FROM relay.outbox
                     UNION ALL
                    SELECT id, txid, aggregate_type, aggregate_id, event_type, created_at
                      FROM relay.kept) AS e
             WHERE {CONDITIONS}
               AND e.id > $9
               AND ($7::text[] IS NULL OR e.aggregate_id = ANY ($7))
               AND CASE WHEN $8::text[] IS NULL THEN e.aggregate_type <> ALL ($15::text[])
                        ELSE e.event_type = ANY ($8) OR e.aggregate_type = $12
                             AND ($13 OR e.event_type = ANY ($14::text[])) END
               AND pg_visible_in_snapshot(e.txid,
                                          (SELECT prev FROM relay.checkpoint WHERE shard = 0))
               AND NOT EXISTS (SELECT FROM relay.quarantine AS q
                                WHERE q.kind = 'event' AND q.outbox_id = e.id
                                  AND q.state <> 'released')
             ORDER BY e.id LIMIT $11) AS chosen
)
INSERT INTO relay.replay_part (replay_id, number, outbox_ids)
SELECT $1::uuid, $10 + nth, ids[nth * {PART_ITEMS} + 1 : (nth + 1) * {PART_ITEMS}]
  FROM page CROSS JOIN LATERAL generate_series(0, (cardinality(ids) - 1) / {PART_ITEMS}) AS nth
RETURNING cardinality(outbox_ids), outbox_ids[cardinality(outbox_ids)] AS last_id
"""  # noqa: S608 - constants of this module

# Merged along the primary keys: to sort ten million rows takes five times as long.
ALONG_KEYS: Final = """
SET LOCAL enable_sort = off;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL plan_cache_mode = force_custom_plan
"""


async def store_everything(
    connection: asyncpg.Connection,
    replay_id: str,
    selection: Selection,
    orders: Sequence[str] | None,
    flow: Flow,
    *,
    any_event: bool = False,
    page_parts: int = 200,
) -> int:
    """Store all published events of a selection as a job's items; return how many.

    Those that the flow has a topic for; with `any_event` the others, too, for another topic.

    Call it in the transaction that makes the job; what follows in it is planned along keys, too.
    """
    if orders is None:
        await connection.execute(ALONG_KEYS)
    own = None if any_event else flow.own_event_types
    values = (replay_id, *conditions(selection), orders, own)
    kinds = (
        *(flow.aggregate_type, flow.every_event, list(flow.events)),
        list(flow.others.aggregate_types),
    )
    count: int = 0
    last = -(2**63)
    while True:
        page = (last, count // PART_ITEMS, page_parts * PART_ITEMS)
        stored = await connection.fetch(STORE, *values, *page, *kinds)
        count += sum(row[0] for row in stored)
        if len(stored) < page_parts:
            return count
        last = max(row["last_id"] for row in stored)
