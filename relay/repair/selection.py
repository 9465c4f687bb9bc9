"""Hops 2 and 5: which rows of the quarantine are meant.

Invariant: a selection is looked up once, as ids; what is then shown, confirmed and changed are
exactly those.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal

import asyncpg

Kind = Literal["event", "return"]
State = Literal["held", "release_requested", "released", "discarded"]
OPEN: Final[tuple[State, ...]] = ("held", "release_requested")


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows that meet all conditions; None: no such condition.

    Attributes:
        ids: quarantine ids.
        orders: aggregate ids, as stored.
        other_flows: the aggregate types, and the consumers' groups, of flows that are not meant.
        aggregate_type: of these orders; an event of another type with the same id is meant only
            where no event of this type has it.
        reasons: why they were quarantined.
        since: seen for the first time then or later.
        until: ... and before then.
        states: of these.
    """

    ids: tuple[int, ...] | None = None
    orders: tuple[str, ...] | None = None
    aggregate_type: str | None = None
    reasons: tuple[str, ...] | None = None
    kind: Kind | None = None
    since: datetime | None = None
    until: datetime | None = None
    states: tuple[State, ...] = OPEN
    other_flows: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    @property
    def everything(self) -> bool:
        """Whether it has no condition but the states."""
        beside = ("states", "aggregate_type", "other_flows")
        return all(value is None for name, value in asdict(self).items() if name not in beside)

    def as_data(self) -> dict[str, Any]:
        """Return the conditions for the audit log."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        # The rows that were changed stand beside it.
        given.pop("ids", None)
        given.pop("other_flows")
        return given


_SELECT: Final = """
SELECT quarantine_id
  FROM relay.quarantine_summary AS q
 WHERE ($1::bigint[] IS NULL OR quarantine_id = ANY ($1))
   AND ($2::text[] IS NULL
        OR names && $2
        OR aggregate_id = ANY ($2)
           AND (kind = 'return' OR aggregate_type IS NULL OR $8::text IS NULL OR aggregate_type = $8
                OR NOT EXISTS (SELECT FROM relay.outbox_summary AS o
                                WHERE o.aggregate_id = q.aggregate_id AND o.aggregate_type = $8)))
   AND ($3::text[] IS NULL OR reason = ANY ($3))
   AND ($4::text IS NULL OR kind = $4)
   AND ($5::timestamptz IS NULL OR first_seen_at >= $5)
   AND ($6::timestamptz IS NULL OR first_seen_at < $6)
   AND state = ANY ($7::text[])
   AND CASE WHEN kind = 'event'
            THEN coalesce(aggregate_type, '') <> ALL ($9::text[])
            ELSE coalesce(consumer_group, '') <> ALL ($10::text[]) END
 ORDER BY quarantine_id
"""


async def select(connection: asyncpg.Connection, selection: Selection) -> list[int]:
    """Return the ids of the rows that a selection means, ascending."""
    rows = await connection.fetch(
        _SELECT,
        selection.ids,
        selection.orders,
        selection.reasons,
        selection.kind,
        selection.since,
        selection.until,
        selection.states,
        selection.aggregate_type,
        *map(list, selection.other_flows),
    )
    return [row["quarantine_id"] for row in rows]
