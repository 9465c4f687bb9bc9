"""Two incidents that turn out to be one, and one that is of two nights."""

import asyncpg

from relay.diagnose.incidents.rows import assign
from relay.diagnose.incidents.story import still_open_from
from relay.runtime.flow import Flow

INCIDENT = """
INSERT INTO relay.incident (hop, verdict, cause, from_at, to_at, order_count, alerted_count)
VALUES ('return', 'no_return', $1, $2, $2, 2, 2) RETURNING incident_id
"""
CASES = """
INSERT INTO relay.overdue (event_id, aggregate_id, event_type, placed_at, deadline_at, hop, verdict,
                           cause, incident_id)
SELECT $1 || n, $1 || n, 'order.placed', $2, $2, 'return', 'no_return', $3, $4
  FROM generate_series(1, 2) AS n
"""


async def incident(pg: asyncpg.Connection, first_cause: str, cause: str, minutes: int) -> int:
    """An incident that was opened for one cause, and whose cases have another one now."""
    at = await pg.fetchval("SELECT now() - make_interval(mins => $1)", minutes)
    incident_id: int = await pg.fetchval(INCIDENT, first_cause, at)
    await pg.execute(CASES, f"order-{incident_id}-", at, cause, incident_id)
    return incident_id


async def test_of_one_kind_and_time_they_are_joined_into_the_older(pg: asyncpg.Connection) -> None:
    first = await incident(pg, "returns_stopped", "offsets_skipped", 4)
    second = await incident(pg, "offsets_skipped", "offsets_skipped", 3)
    another = await incident(pg, "processor_crashed", "processor_crashed", 3)
    yesterday = await incident(pg, "offsets_skipped", "offsets_skipped", 60)
    now_at = await pg.fetchval("SELECT clock_timestamp()")
    changes = await assign(pg, Flow(), now_at)
    assert [(one.event, one.incident_id) for one in changes] == [("closed", second)]
    rows = await pg.fetch(
        "SELECT incident_id, order_count, closed_by, closed_why FROM relay.incident"
    )
    found = {row[0]: tuple(row)[1:] for row in rows}
    assert found == {
        first: (4, None, None),
        second: (2, "joined", f"the same as I-{first}"),
        another: (2, None, None),
        yesterday: (2, None, None),
    }
    assert await assign(pg, Flow(), now_at) == []


async def test_the_story_begins_with_the_first_order_that_is_still_open(
    pg: asyncpg.Connection,
) -> None:
    number = await incident(pg, "offsets_skipped", "offsets_skipped", 30)
    mended = await pg.fetchval("SELECT min(placed_at) FROM relay.overdue")
    assert await still_open_from(pg, number) == mended
    await pg.execute("UPDATE relay.overdue SET closed_at = now(), closed_as = 'returned'")
    assert await still_open_from(pg, number) is None
    again = await pg.fetchval("SELECT now() - interval '3 minutes'")
    await pg.execute(CASES, "again-", again, "offsets_skipped", number)
    assert await still_open_from(pg, number) == again
