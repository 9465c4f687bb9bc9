"""Hop 5: returns that name several orders: a batch bug that swaps neighbours, or a key of its own.

Invariant: a key or ce_subject contradicts only where it is the id of an order that waits for a
return itself; a customer's number that is no such id says nothing. A trace does not contradict:
whole batches share one. What a person released is for the order that it names first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import asyncpg

from relay.consumers.apply.applying import Applier, Identified
from relay.consumers.returns.fold import refusal
from relay.consumers.returns.reader import Return
from relay.consumers.returns.refusals import Reason, Refusal

_RELEASED: Final = """
SELECT q.partition, q.record_offset
  FROM unnest($3::int[], $4::bigint[]) AS r (partition, record_offset)
  JOIN relay.quarantine q USING (partition, record_offset)
 WHERE q.kind = 'return' AND q.consumer_group = $1 AND q.topic = $2
   AND q.reason = 'names_differ' AND q.state = 'released'
"""


async def naming_others(
    connection: asyncpg.Connection, applier: Applier, group: str, returns: Sequence[Identified]
) -> list[Identified]:
    """Return those whose key or ce_subject is the id of another order, which is open."""
    doubtful = [one for one in returns if one[1].others]
    if not doubtful:
        return []
    others = {name for _, one in doubtful for name in one.others}
    found = await applier.open_among(connection, others)
    doubtful = [one for one in doubtful if not found.isdisjoint(one[1].others)]
    if not doubtful:
        return []
    records = [one.record for _, one in doubtful]
    rows = await connection.fetch(
        _RELEASED,
        group,
        records[0].topic,
        [record.partition for record in records],
        [record.offset for record in records],
    )
    released = {tuple(row) for row in rows}
    return [
        one for one in doubtful if (one[1].record.partition, one[1].record.offset) not in released
    ]


def held_for_names(identity: str, returned: Return) -> Refusal:
    """Refuse a return that names several orders, for each of them."""
    others = ", ".join(returned.others)
    detail = f"it is for {returned.order_id}, and its key or ce_subject names {others}: all open"
    held = refusal(returned, identity, Reason.NAMES_DIFFER, detail)
    return replace(held, names=(returned.order_id, *returned.others))
