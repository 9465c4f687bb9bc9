"""Hop 1: the INSERT that makes a missing outbox row out of its order.

Invariant: it is printed for a person to run, never run by itself; the payload is made from the
order's own row, in the database, so that nothing is retyped.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from consumers.apply.catalog import FlowTableError, orders_table
from relay.diagnose.tell.explain import MendTemplate
from relay.runtime.flow import ApplyColumns, Flow

# The contract's payload of order.placed; money is a string of decimal digits.
_CONTRACT: Final = ("order_id", "customer_id", "items", "total", "currency", "submitted_at")
_COLUMNS: Final = """
SELECT attname FROM pg_catalog.pg_attribute
 WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
"""
_LITERAL: Final = "SELECT quote_literal($1::text)"


async def mend_template(connection: asyncpg.Connection, flow: Flow) -> MendTemplate | None:
    """Return the statement for this flow's orders; None where there is no orders table."""
    if not isinstance(flow.apply, ApplyColumns):
        return None
    try:
        table = await orders_table(connection, flow)
        columns = {row["attname"] for row in await connection.fetch(_COLUMNS, flow.apply.table)}
        due = (kind for kind, route in flow.events.items() if route.deadline_seconds is not None)
        kind = await connection.fetchval(_LITERAL, next(due, "order.placed"))
        aggregate = await connection.fetchval(_LITERAL, flow.aggregate_type)
    except (asyncpg.PostgresError, FlowTableError):
        return None
    payload = _payload() if columns >= set(_CONTRACT) else "row_to_json(o)"
    return MendTemplate(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload) "  # noqa: S608
        f"SELECT {aggregate}, o.{table.key}::text, {kind}, {payload} "
        f"FROM {table.table} o WHERE o.{table.key} = {{key}};"
    )


def _payload() -> str:
    fields = (f"'{name}', o.{name}{'::text' if name == 'total' else ''}" for name in _CONTRACT)
    return f"json_build_object({', '.join(fields)})"
