"""Hops 1 to 5: what is known to be open: refused, waiting, overdue: told beside what was compared.

Invariant: reads only, and looks itself: it trusts no watchdog's word that nothing is overdue. What
the role may not read is named as not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from relay.diagnose.watch.overdue import find_open
from relay.runtime.flow import Flow

OVERDUE: Final = "orders past their deadline"
_OVERDUE_AT_MOST: Final = 100_000
_NAMED: Final = 10

_CASES: Final = {
    "events in quarantine": """
        SELECT count(*), (array_agg(DISTINCT aggregate_id))[1:10] FROM relay.quarantine_summary
         WHERE kind = 'event' AND state IN ('held', 'release_requested')
           AND (aggregate_type IS NULL OR aggregate_type <> ALL ($1::text[]))""",
    "refused returns in quarantine": """
        SELECT count(*), (array_agg(DISTINCT aggregate_id))[1:10] FROM relay.quarantine_summary
         WHERE kind = 'return' AND state IN ('held', 'release_requested')
           AND consumer_group <> ALL ($1::text[])""",
    "returns that wait for a locked order": """
        SELECT count(*), (array_agg(DISTINCT aggregate_id))[1:10] FROM relay.pending_return
         WHERE consumer_group <> ALL ($1::text[])""",
}


@dataclass(frozen=True, slots=True)
class OpenCases:
    """What is open of one kind.

    Attributes:
        count: of overdue orders, 100,000 stand for that many or more.
        orders: some of their ids.
    """

    count: int
    orders: tuple[str, ...] = ()


async def open_cases(
    connection: asyncpg.Connection, flow: Flow
) -> tuple[dict[str, OpenCases], list[str]]:
    """Return what is open, by kind, and what could not be read.

    Raises:
        FlowTableError: the flow's settings name what the database does not have.
    """
    found: dict[str, OpenCases] = {}
    unread: list[str] = []
    of_events, of_returns = list(flow.others.aggregate_types), list(flow.others.groups)
    for what, query in _CASES.items():
        others = of_events if what == "events in quarantine" else of_returns
        try:
            async with connection.transaction():
                count, orders = await connection.fetchrow(query, others)
        except asyncpg.InsufficientPrivilegeError as error:
            unread.append(f"{what}: {error}")
            continue
        if count:
            found[what] = OpenCases(count, tuple(one for one in orders if one is not None))
    try:
        async with connection.transaction():
            overdue = await find_open(connection, flow, at_most=_OVERDUE_AT_MOST)
    except asyncpg.InsufficientPrivilegeError as error:
        unread.append(f"{OVERDUE}: {error}")
    else:
        if overdue:
            some = tuple(one.order_id for one in overdue[:_NAMED])
            found[OVERDUE] = OpenCases(len(overdue), some)
    return found, unread
