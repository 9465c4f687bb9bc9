"""Hop 1: what an order's own row says of it, as the payload of an event that was never written.

Invariant: an expression for the database to evaluate, so that nothing is retyped; what the row does
not hold is not invented.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

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
        by_contract: the table has the contract's columns; else the payload is the row as it is.
    """

    sql: str
    by_contract: bool


async def order_payload(connection: asyncpg.Connection, table: str) -> OrderPayload:
    """Return the payload that rows of the orders table give."""
    columns = {row["attname"] for row in await connection.fetch(_COLUMNS, table)}
    if not columns >= set(_CONTRACT):
        return OrderPayload("row_to_json(o)", by_contract=False)
    fields = (f"'{name}', o.{name}{'::text' if name == 'total' else ''}" for name in _CONTRACT)
    return OrderPayload(f"json_build_object({', '.join(fields)})", by_contract=True)
