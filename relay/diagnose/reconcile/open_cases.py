"""Hops 2 and 5: what is known to be open: refused, waiting, overdue: told beside what was compared.

Invariant: reads only; what the role may not read is named as not looked at.
"""

from __future__ import annotations

from typing import Final

import asyncpg

_CASES: Final = {
    "events in quarantine": """
        SELECT count(*) FROM relay.quarantine_summary
         WHERE kind = 'event' AND state IN ('held', 'release_requested')""",
    "refused returns in quarantine": """
        SELECT count(*) FROM relay.quarantine_summary
         WHERE kind = 'return' AND state IN ('held', 'release_requested')""",
    "returns that wait for a locked order": "SELECT count(*) FROM relay.pending_return",
    "orders past their deadline": """
        SELECT count(*) FROM relay.overdue WHERE closed_at IS NULL""",
}


async def open_cases(connection: asyncpg.Connection) -> tuple[dict[str, int], list[str]]:
    """Return how many of each kind are open, without those of which none is, and what is unread."""
    found: dict[str, int] = {}
    unread: list[str] = []
    for what, query in _CASES.items():
        try:
            async with connection.transaction():
                count = await connection.fetchval(query)
        except asyncpg.InsufficientPrivilegeError as error:
            unread.append(f"{what}: {error}")
            continue
        if count:
            found[what] = count
    return found, unread
