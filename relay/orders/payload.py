"""Hop 1: what an order's own row says of it, as the payload of an event that was never written.

Invariant: an expression for the database to evaluate, so that nothing is retyped; what the row does
not hold is not invented. It is what the shop's own function says, or the contract's payload where
the table is the contract's; a raw row of another table is never sent: it may hold anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from relay.orders.catalog import FlowTableError
from relay.orders.functions import JSON_TYPES, find_function, signature_of
from relay.orders.table import OrdersTable
from relay.runtime.flow import Flow

# The contract's payload of order.placed; money is a string of decimal digits, a time RFC 3339.
_CONTRACT: Final = ("order_id", "customer_id", "items", "total", "currency", "submitted_at")
_COLUMNS: Final = """
SELECT attname FROM pg_catalog.pg_attribute
 WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
"""


@dataclass(frozen=True, slots=True)
class OrderPayload:
    """An expression over a row `o` of the orders table.

    Attributes:
        by_contract: the table has the contract's columns; else the shop's function says it.
    """

    sql: str
    by_contract: bool


async def order_payload(
    connection: asyncpg.Connection, flow: Flow, table: OrdersTable
) -> OrderPayload | None:
    """Return the payload that the flow's orders give; None: nobody says what it is.

    Raises:
        FlowTableError: there is no such function.
    """
    named = flow.payload_function
    if named is not None:
        # A view is asked through one, too: SELECT to_json(v) FROM shop.order_event v WHERE ...
        signature = signature_of(named, ("text",))
        setting = f"payload_function = {named!r}"
        function = await find_function(connection, signature, JSON_TYPES, setting)
        if function is None:
            raise FlowTableError(f"there is no function {signature} that returns json")
        return OrderPayload(f"{function.name}({table.id_of()})", by_contract=False)
    columns = flow.orders_columns
    assert columns is not None
    found = {row["attname"] for row in await connection.fetch(_COLUMNS, columns.table)}
    if not found >= set(_CONTRACT):
        return None
    fields = (f"'{name}', o.{name}{'::text' if name == 'total' else ''}" for name in _CONTRACT)
    return OrderPayload(f"json_build_object({', '.join(fields)})", by_contract=True)
