"""Hop 5: every return that was applied against the status that stands, every status by its word.

Invariant: an order may have gone on from what a return gave it, to a higher rank of the flow. Where
it is lower, final and another, unknown to the flow, or gone, nothing is proven.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import asyncpg

from relay.diagnose.reconcile.findings import Difference, Finding, Tally
from relay.diagnose.reconcile.paging import each_row
from relay.diagnose.watch.odd_statuses import list_unknown
from relay.orders.catalog import orders_table
from relay.orders.keys import canonical_order_id
from relay.orders.table import OrdersTable
from relay.runtime.flow import ApplyColumns, Flow


async def reconcile_applied(
    connection: asyncpg.Connection,
    flow: Flow,
    since: datetime | None,
    until: datetime | None,
    tally: Tally,
) -> None:
    """List orders that do not have what a return gave them, and those whose status says nothing."""
    await _answers_of_others(connection, flow, since, until, tally)
    if not isinstance(flow.apply, ApplyColumns):
        return
    where = flow.apply.table
    table = await orders_table(connection, flow)
    ranked = [(status, rank) for status, rank in flow.status_ranks.items()]
    values = (
        *([status for status, _ in ranked], [rank for _, rank in ranked]),
        *(sorted(flow.terminal_statuses), since, until, list(flow.others.groups)),
    )
    async for order_id, applied, status in each_row(connection, _other_query(table), *values):
        detail = f"{applied} was applied, the order is {status}"
        tally.add(Finding(Difference.STATUS_OVERWRITTEN, order_id, where, detail))
    gone = since, until, list(flow.others.groups)
    async for order_id, applied in each_row(connection, _gone_query(table), *gone):
        tally.add(Finding(Difference.ORDER_GONE, order_id, where, f"{applied} was applied"))
    for order_id, status in await list_unknown(connection, flow, since, until):
        tally.add(Finding(Difference.STATUS_UNKNOWN, order_id, where, status))


_OTHER_EVENT: Final = """
SELECT i.aggregate_id, e.aggregate_id, i.causation_id,
       i.topic || '[' || i.partition || ']@' || i.record_offset
  FROM relay.inbox i JOIN relay.outbox_summary e ON e.event_id::text = i.causation_id
 WHERE i.outcome IN ('applied', 'observed') AND e.aggregate_id <> i.aggregate_id
   AND (e.aggregate_type = $1 OR e.event_type = ANY ($2::text[]))
   AND i.consumer_group <> ALL ($5::text[])
   AND ($3::timestamptz IS NULL OR i.received_at >= $3)
   AND ($4::timestamptz IS NULL OR i.received_at < $4)
"""


async def _answers_of_others(
    connection: asyncpg.Connection,
    flow: Flow,
    since: datetime | None,
    until: datetime | None,
    tally: Tally,
) -> None:
    """List returns that were applied to an order, and say that they answer another one's event."""
    canonical, others = canonical_order_id(flow), list(flow.others.groups)
    values = flow.aggregate_type, flow.own_event_types, since, until, others
    async for order_id, other, event_id, where in each_row(connection, _OTHER_EVENT, *values):
        if canonical(other) != order_id:
            detail = f"it answers event {event_id} of order {other}"
            tally.add(Finding(Difference.NAMES_DIFFER, order_id, where, detail))


# Of several returns, the one that brought the order furthest. A final status that one of them gave
# stands, whatever the others say.
def _other_query(table: OrdersTable) -> str:
    at, status = table.submitted, table.status_of()
    return f"""
        WITH ranked AS (SELECT * FROM unnest($1::text[], $2::int[]) AS r (status, rank))
        SELECT {table.id_of()}, (array_agg(i.new_status ORDER BY a.rank DESC))[1], {status}
          FROM relay.inbox i JOIN ranked a ON a.status = i.new_status
          JOIN {table.table} o ON {table.id_of()} = i.aggregate_id
          JOIN ranked n ON n.status = {status}
         WHERE i.outcome = 'applied' AND {status} <> i.new_status
           AND i.consumer_group <> ALL ($6::text[])
           AND (n.rank < a.rank
                OR {status} = ANY ($3::text[]) AND i.new_status = ANY ($3::text[]))
           AND NOT ({status} = ANY ($3::text[])
                    AND EXISTS (SELECT FROM relay.inbox j
                                 WHERE j.aggregate_id = i.aggregate_id AND j.outcome = 'applied'
                                   AND j.consumer_group <> ALL ($6::text[])
                                   AND j.new_status = {status}))
           AND ($4::timestamptz IS NULL OR {at.since("$4::timestamptz")})
           AND ($5::timestamptz IS NULL OR {at.before("$5::timestamptz")})
         GROUP BY 1, 3
    """  # noqa: S608 - identifiers from the catalog


def _gone_query(table: OrdersTable) -> str:
    return f"""
        SELECT i.aggregate_id, max(i.new_status)
          FROM relay.inbox i
         WHERE i.outcome = 'applied' AND i.consumer_group <> ALL ($3::text[])
           AND ($1::timestamptz IS NULL OR i.received_at >= $1)
           AND ($2::timestamptz IS NULL OR i.received_at < $2)
           AND NOT EXISTS (SELECT FROM {table.table} o WHERE {table.id_of()} = i.aggregate_id)
         GROUP BY 1
    """  # noqa: S608 - identifiers from the catalog
