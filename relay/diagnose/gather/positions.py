"""Hop 3: reads the recorded positions of groups around the time that they came past records.

Invariant: a fortnight of positions is millions of rows; only those are read in which a record
waited or was passed, and of the time in which nothing changed only the first and the last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from relay.diagnose.evidence.history import (
    ACKNOWLEDGED_SECONDS,
    AFTER_SECONDS,
    BEFORE_SECONDS,
    PositionSample,
)
from relay.diagnose.evidence.order import Delivery
from relay.kafka.partition import Partition

_AT_MOST: Final = 1_000_000
_NEVER: Final = datetime.max.replace(tzinfo=UTC)

Series = Mapping[tuple[str, Partition], list[PositionSample]]
"""Recorded positions by group and partition, by time."""

_Window = tuple[str, Partition, datetime, datetime]

# Where a group came past a record: looked for in the hour after the first position that there is of
# it (older ones may be past retention); whoever has not come past it then was stuck.
_PASSED: Final = """
SELECT w.place, g.name, (
       SELECT p.taken_at FROM relay.position AS p
        WHERE p.topic = w.topic AND p.consumer_group = g.name AND p.partition = w.partition
          AND p.taken_at >= f.taken_at AND p.taken_at < f.taken_at + interval '1 hour'
          AND p.committed_offset > w.last_offset AND p.taken_at >= w.there
          AND p.committed_offset <= coalesce(p.log_end, p.committed_offset)
        ORDER BY p.taken_at LIMIT 1)
  FROM unnest($1::int[], $2::text[], $3::int[], $4::bigint[], $5::timestamptz[],
              $6::timestamptz[])
       AS w (place, topic, partition, last_offset, since, there)
 CROSS JOIN unnest($7::text[]) AS g (name)
 CROSS JOIN LATERAL (
       SELECT p.taken_at FROM relay.position AS p
        WHERE p.topic = w.topic AND p.consumer_group = g.name AND p.partition = w.partition
          AND p.taken_at >= w.since
        ORDER BY p.taken_at LIMIT 1) AS f
"""

# While nothing changes there are only the first and the last row of it, and those of the last
# minutes: does the group move now?
_POSITIONS: Final = """
SELECT w.consumer_group, w.topic, w.partition, p.taken_at, p.committed_offset, p.members,
       p.log_start, p.log_end
  FROM unnest($1::text[], $2::text[], $3::int[], $4::timestamptz[], $5::timestamptz[])
       AS w (consumer_group, topic, partition, since, until)
 CROSS JOIN LATERAL (
       SELECT taken_at, position_id, committed_offset, members, log_start, log_end,
              row_number() OVER series = 1
              OR (committed_offset, members)
                 IS DISTINCT FROM (lag(committed_offset) OVER series, lag(members) OVER series)
              OR lead(position_id) OVER series IS NULL
              OR (committed_offset, members)
                 IS DISTINCT FROM (lead(committed_offset) OVER series, lead(members) OVER series)
              OR taken_at > statement_timestamp() - interval '130 s' AS tells
         FROM relay.position AS q
        WHERE q.topic = w.topic AND q.consumer_group = w.consumer_group
          AND q.partition = w.partition AND q.taken_at >= w.since AND q.taken_at < w.until
       WINDOW series AS (ORDER BY taken_at, position_id)) AS p
 WHERE p.tells
 LIMIT $6
"""


async def read_positions(
    connection: asyncpg.Connection, groups: Sequence[str], deliveries: Collection[Delivery]
) -> Series:
    """Read the positions of groups while these records waited and shortly after.

    Raises:
        TimeoutError: they are too many to be read together.
    """
    windows = _merged(await _windows(connection, groups, _first_of_minutes(deliveries)))
    rows = await connection.fetch(
        _POSITIONS,
        [group for group, *_ in windows],
        [partition[0] for _, partition, *_ in windows],
        [partition[1] for _, partition, *_ in windows],
        [since for *_, since, _ in windows],
        [until for *_, until in windows],
        _AT_MOST + 1,
    )
    if len(rows) > _AT_MOST:
        raise TimeoutError(f"more than {_AT_MOST:,} positions were recorded meanwhile")
    found: defaultdict[tuple[str, Partition], list[PositionSample]] = defaultdict(list)
    for group, topic, number, *columns in rows:
        found[group, Partition(topic, number)].append(PositionSample(*columns))
    for samples in found.values():
        # Window after window they come in order; sorting hundreds of thousands there took a file.
        samples.sort(key=lambda one: one.at)
    return dict(found)


def _first_of_minutes(deliveries: Collection[Delivery]) -> list[tuple[Partition, int, datetime]]:
    """Return the last offset and the first time of each minute of each partition."""
    minutes: dict[tuple[Partition, datetime], tuple[int, datetime]] = {}
    for one in deliveries:
        key = Partition(one.topic, one.partition), one.published_at.replace(second=0, microsecond=0)
        offset, at = minutes.get(key, (-1, one.published_at))
        minutes[key] = max(offset, one.offset or 0), min(at, one.published_at)
    return [(partition, *found) for (partition, _), found in minutes.items()]


async def _windows(
    connection: asyncpg.Connection,
    groups: Sequence[str],
    wanted: Sequence[tuple[Partition, int, datetime]],
) -> list[_Window]:
    sinces = [at - timedelta(seconds=BEFORE_SECONDS) for *_, at in wanted]
    rows = await connection.fetch(
        _PASSED,
        list(range(len(wanted))),
        [partition[0] for partition, *_ in wanted],
        [partition[1] for partition, *_ in wanted],
        [offset for _, offset, _ in wanted],
        sinces,
        [at - timedelta(seconds=ACKNOWLEDGED_SECONDS) for *_, at in wanted],
        groups,
    )
    after = timedelta(seconds=AFTER_SECONDS)
    return [
        (group, wanted[place][0], sinces[place], passed_at + after if passed_at else _NEVER)
        for place, group, passed_at in rows
    ]


def _merged(windows: Collection[_Window]) -> list[_Window]:
    """Join windows of one series that overlap."""
    joined: list[_Window] = []
    for window in sorted(windows):
        last = joined[-1] if joined else None
        if last is not None and last[:2] == window[:2] and window[2] <= last[3]:
            joined[-1] = (*last[:3], max(last[3], window[3]))
        else:
            joined.append(window)
    return joined
