"""The parts that every question for overdue orders has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import asyncpg

_LITERALS: Final = """
SELECT string_agg(quote_literal(one), ', ') FROM unnest($1::text[]) AS one
"""


async def literals(connection: asyncpg.Connection, words: Iterable[str]) -> str:
    """Return statuses as literals of a statement's text, which PostgreSQL quotes.

    Only so can the planner see that a partial index on them fits.
    """
    quoted: str = await connection.fetchval(_LITERALS, sorted(words))
    return quoted


def unclosed(key: str, other_flows: str) -> str:
    """Return the condition that an order was not closed by hand; with $3, nor is a case open.

    `other_flows` is the parameter that names the flows whose cases are not looked at.
    """
    return f"""NOT EXISTS (SELECT FROM relay.overdue v
                            WHERE v.aggregate_id = {key} AND v.flow <> ALL ({other_flows}::text[])
                              AND (v.closed_as = 'closed' OR $3 AND v.closed_at IS NULL))"""
