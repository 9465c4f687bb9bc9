"""Hop 3: reads who answers past where the flow's processor groups stopped.

Invariant: reads only, and only where none of those groups has members. A record counts as answered
by a return that names its event; one that names none, where its order has no earlier event, or by
the record's own time (the processor's clock). It came after those groups had members last, by
where the returns' logs ended when nobody was in them any more: what was answered before that, and
not committed, they answered themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from relay.diagnose.evidence.system_state import AnsweredPast, Missing, SystemState
from relay.diagnose.gather.positions import Series
from relay.diagnose.gather.reading import part
from relay.kafka.partition import Partition
from relay.runtime.flow import Flow

# Who answers has answered one of the last records that it came to.
_PROBED_RECORDS: Final = 100
# So many records after a group's offset are looked at, a page at a time, for the first answer.
_PAGE_RECORDS: Final = 2_000
_PAGES_AT_MOST: Final = 50


async def read_answered_past(
    connection: asyncpg.Connection, flow: Flow, around: SystemState, positions: Series
) -> dict[Partition, AnsweredPast] | Missing:
    """Return where somebody else answers, by partition; empty while one of the groups is alive."""
    stopped = _stopped(flow, around, positions)
    if not stopped:
        return {}
    left = await part(connection, "positions", lambda: _left(connection, flow))
    if isinstance(left, Missing):
        return left
    answers = await part(
        connection,
        "who answers newer orders",
        lambda: _since_they_left(connection, flow, around, stopped, left),
    )
    lone = around.lone_readers
    if isinstance(answers, Missing) or isinstance(lone, Missing):
        return answers
    moved_alone = not lone.isdisjoint(flow.processor_groups)
    return _of_others(answers, around) if moved_alone else answers


async def _since_they_left(
    connection: asyncpg.Connection,
    flow: Flow,
    around: SystemState,
    stopped: Mapping[Partition, int],
    left: _Left,
) -> dict[Partition, AnsweredPast]:
    """Return what was answered since; of the second in which they left, what others surely did."""
    reached = _reached(around)
    after = await _answers(_Looker(connection, flow, left), stopped, reached)
    meanwhile = _Left(left.seen_at, left.seen_at, {})
    sooner = await _answers(_Looker(connection, flow, meanwhile), stopped, reached)
    return after | _of_others(sooner, around)


def _of_others(
    answers: Mapping[Partition, AnsweredPast], around: SystemState
) -> dict[Partition, AnsweredPast]:
    """Leave out what a group without members may have answered itself: it moved a while ago.

    Who reads alone answers what comes next to it. Where records before the first that was answered
    were left out, and another group is past it, somebody else does.
    """
    readers = () if isinstance(around.other_readers, Missing) else around.other_readers
    return {
        where: one
        for where, one in answers.items()
        if one.first > one.stopped
        and any(each.committed.get(where, -1) > one.first for each in readers)
    }


def _reached(around: SystemState) -> dict[Partition, set[int]]:
    """Return how far others came by partition; whoever may not be seen, to the log's end."""
    reached: defaultdict[Partition, set[int]] = defaultdict(set)
    topics = {} if isinstance(around.topics, Missing) else around.topics
    for name, topic in topics.items():
        for number, log in topic.logs.items():
            reached[Partition(name, number)].add(log.log_end)
    readers = () if isinstance(around.other_readers, Missing) else around.other_readers
    for reader in readers:
        for where, offset in reader.committed.items():
            reached[where].add(offset)
    return reached


async def _answers(
    looker: _Looker, stopped: Mapping[Partition, int], reached: Mapping[Partition, set[int]]
) -> dict[Partition, AnsweredPast]:
    found = {}
    for where, offset in stopped.items():
        for until in sorted(reached.get(where, ())):
            probed_from = max(offset, until - _PROBED_RECORDS)
            if until <= offset:
                continue
            one = await looker.first(
                where, probed_from, page_records=_PROBED_RECORDS, pages_at_most=1
            )
            if one.first is None:
                continue
            looked_to = None
            if probed_from > offset:
                sooner = await looker.first(where, offset)
                looked_to = sooner.looked_to if sooner.first is None else None
                one = sooner if sooner.first is not None else one
            assert one.first is not None
            found[where] = AnsweredPast(offset, *one.first, looked_to)
            break
    return found


def _stopped(flow: Flow, around: SystemState, positions: Series) -> Mapping[Partition, int]:
    """Return where the furthest of the flow's groups stands; nothing when one is alive."""
    groups = {} if isinstance(around.groups, Missing) else around.groups
    if not groups or any(group.members != 0 for group in groups.values()):
        return {}
    stands: dict[Partition, int] = {}
    for (name, where), samples in positions.items():
        # Of a group that was deleted, too.
        recorded = [one.committed for one in samples if one.committed is not None]
        if name in flow.processor_groups and recorded:
            stands[where] = max(stands.get(where, 0), recorded[-1])
    for group in groups.values():
        for where, offset in group.committed.items():
            stands[where] = max(stands.get(where, 0), offset)
    topics = {} if isinstance(around.topics, Missing) else around.topics
    known = bool(stands)
    for name in flow.topics:
        for number in topics[name].logs if known and name in topics else ():
            stands.setdefault(Partition(name, number), 0)
    return {where: offset for where, offset in stands.items() if where[0] in flow.topics}


# Between the last position with members and the first without it may still have answered.
_LAST_MEMBERS: Final = """
SELECT max(p.taken_at) AS seen_at, max(coalesce(e.taken_at, p.taken_at)) AS left_at
  FROM unnest($1::text[]) AS t (topic) CROSS JOIN unnest($2::text[]) AS g (name)
 CROSS JOIN LATERAL (
       SELECT taken_at FROM relay.position
        WHERE topic = t.topic AND consumer_group = g.name AND partition = 0 AND members > 0
        ORDER BY taken_at DESC LIMIT 1) AS p
  LEFT JOIN LATERAL (
       SELECT taken_at FROM relay.position
        WHERE topic = t.topic AND consumer_group = g.name AND partition = 0
          AND taken_at > p.taken_at AND members = 0
        ORDER BY taken_at LIMIT 1) AS e ON true
"""
# Of one look the rows are some microseconds apart.
_RETURNS_ENDED: Final = """
SELECT DISTINCT ON (partition) partition, log_end FROM relay.position
 WHERE topic = $1 AND consumer_group = ''
   AND taken_at > $2::timestamptz - interval '90 s'
   AND taken_at <= $2::timestamptz + interval '0.5 s'
 ORDER BY partition, taken_at DESC, position_id DESC
"""


@dataclass(frozen=True, slots=True)
class _Left:
    """When nobody was in the flow's groups any more.

    Attributes:
        seen_at: when somebody was seen there last; None: no members were ever recorded.
        at: when nobody was, for the first time since.
        ends: where the returns' logs ended, by partition, as far as that was recorded.
    """

    seen_at: datetime | None
    at: datetime | None
    ends: Mapping[int, int]


async def _left(connection: asyncpg.Connection, flow: Flow) -> _Left:
    seen_at, at = await connection.fetchrow(
        _LAST_MEMBERS, sorted(flow.topics), list(flow.processor_groups)
    )
    if at is None:
        return _Left(None, None, {})
    ended = await connection.fetch(_RETURNS_ENDED, flow.returns_topic, at)
    return _Left(seen_at, at, dict(map(tuple, ended)))


# The ledger's row that an offset lies in is the last that begins at or before it. A replay's record
# is left out: its order may have been answered before.
_PUBLISHED: Final = """
SELECT l.base_offset + i.place - 1 AS record_offset, i.outbox_id, l.published_at
  FROM (SELECT base_offset, outbox_ids, published_at, replay_id FROM relay.delivery_ledger
         WHERE topic = $1 AND partition = $2
           AND base_offset >= coalesce(
               (SELECT base_offset FROM relay.delivery_ledger
                 WHERE topic = $1 AND partition = $2 AND base_offset <= $3
                 ORDER BY base_offset DESC LIMIT 1), 0)
         ORDER BY base_offset LIMIT $4) AS l
 CROSS JOIN LATERAL unnest(l.outbox_ids) WITH ORDINALITY AS i (outbox_id, place)
 WHERE l.base_offset + i.place - 1 >= $3 AND l.replay_id IS NULL
 ORDER BY 1 LIMIT $4
"""
_ANSWERED: Final = """
SELECT w.record_offset, w.published_at
  FROM unnest($1::bigint[], $2::bigint[], $3::timestamptz[])
       AS w (record_offset, outbox_id, published_at)
  JOIN relay.outbox_summary AS o ON o.id = w.outbox_id
 WHERE o.id = ANY ($2)
   AND EXISTS (SELECT FROM relay.inbox AS i
                WHERE i.aggregate_id = o.aggregate_id AND i.consumer_group <> ALL ($5::text[])
                  AND (i.causation_id = o.event_id::text
                       OR i.causation_id IS NULL
                       AND (i.recorded_at >= w.published_at - interval '5 s'
                            OR NOT EXISTS (SELECT FROM relay.outbox_summary AS before
                                            WHERE before.aggregate_id = o.aggregate_id
                                              AND before.aggregate_type = o.aggregate_type
                                              AND before.id < o.id)))
                  AND i.received_at >= w.published_at
                  AND ($4::timestamptz IS NULL OR i.received_at > $4)
                  -- Of a consumer that came to it late: the log had it before.
                  AND NOT EXISTS (SELECT FROM unnest($6::int[], $7::bigint[]) AS e (number, log_end)
                                   WHERE i.topic = $8 AND i.partition = e.number
                                     AND i.record_offset < e.log_end))
 ORDER BY 1 LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look for the first record that was answered came to.

    Attributes:
        first: its offset and publication; None: none was found.
        looked_to: then, up to which offset records were looked at; None: all were.
    """

    first: tuple[int, datetime] | None
    looked_to: int | None = None


@dataclass(frozen=True, slots=True)
class _Looker:
    """Looks for records that somebody else answered."""

    connection: asyncpg.Connection
    flow: Flow
    left: _Left

    async def first(
        self,
        where: Partition,
        offset: int,
        *,
        page_records: int = _PAGE_RECORDS,
        pages_at_most: int = _PAGES_AT_MOST,
    ) -> _Look:
        """Look for the first record from an offset on that was answered."""
        for _page in range(pages_at_most):
            rows = await self.connection.fetch(_PUBLISHED, *where, offset, page_records)
            if not rows:
                return _Look(None)
            columns = [list(column) for column in zip(*rows, strict=True)]
            found = await self._answered(columns)
            if found is not None:
                return _Look((found[0], found[1]))
            offset = rows[-1][0] + 1
        return _Look(None, offset)

    async def _answered(self, columns: list[list[Any]]) -> asyncpg.Record | None:
        ends = self.left.ends
        return await self.connection.fetchrow(
            _ANSWERED,
            *columns,
            self.left.at,
            list(self.flow.others.groups),
            list(ends),
            list(ends.values()),
            self.flow.returns_topic,
        )
