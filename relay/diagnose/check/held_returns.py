"""Hop 5: do returns wait for a person that were read, and could not stand?

Invariant: one read. What a trigger undid is a failed check: the next return of such an order ends
the same way; what contradicts an order is a warning: a person decides.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Final

import asyncpg

from relay.consumers.returns.refusals import Reason
from relay.diagnose.check.result import Result, failed, ok, unknown, warning
from relay.runtime.database import DRIVER_FAILURES

_HELD: Final = """
SELECT reason, count(*), (array_agg(aggregate_id ORDER BY quarantine_id))[1:3],
       (array_agg(detail ORDER BY quarantine_id))[1]
  FROM relay.quarantine_summary
 WHERE kind = 'return' AND state IN ('held', 'release_requested')
   AND consumer_group = $1 AND reason = ANY ($2::text[])
 GROUP BY reason
"""
_JUDGED: Final = MappingProxyType(
    {
        Reason.STATUS_NOT_KEPT: (failed, "fix the trigger or rule that it names"),
        Reason.NAMES_DIFFER: (failed, "ask the processor which order each is for"),
        Reason.CONFLICT: (warning, "decide which status holds"),
    }
)


async def check_held_returns(connection: asyncpg.Connection, group: str) -> list[Result]:
    """Read what is held for these reasons, and judge it."""
    try:
        rows = await connection.fetch(_HELD, group, [one.value for one in _JUDGED])
    except DRIVER_FAILURES as error:
        fix = "run `relay check` as a member of relay_observer"
        return [unknown(_name(one), str(error), fix) for one in _JUDGED]
    held = {row["reason"]: tuple(row)[1:] for row in rows}
    return [_judge(one, *_JUDGED[one], held.get(one.value)) for one in _JUDGED]


def _judge(
    reason: Reason,
    say: Callable[[str, str, str], Result],
    fix: str,
    held: tuple[int, list[str | None], str | None] | None,
) -> Result:
    if held is None:
        return ok(_name(reason), "none is held")
    count, orders, detail = held
    few = ", ".join(one or "?" for one in orders)
    found = f"{count} returns are held, of {few}{', ...' if count > len(orders) else ''}: {detail}"
    release = f"relay quarantine release --held-for {reason.value} --reason REASON"
    return say(_name(reason), found, f"{fix}; then {release}")


def _name(reason: Reason) -> str:
    return f"confirm.{reason.value}"
