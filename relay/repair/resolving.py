"""Hops 2 and 5: releases what is in quarantine, or discards it, with who and why.

Invariant: nothing is sent or applied here. A release is a request: the relay sends a parked order's
events in their order, before its newer ones; the confirmation consumer decides a return anew, under
the same guards as one that came now. Every transaction changes some rows, and the database notes
them in the audit log, so that a command that is killed has said what it did. Nothing is deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from relay.repair.selection import Selection
from relay.runtime.audit import announce

# Rows in one transaction: the services wait for its locks, a few milliseconds.
_BATCH_ROWS: Final = 1000

# A discarded return may be taken back: it is decided anew, whatever came meanwhile. A discarded
# event may not: later ones of its order have left; `relay replay` sends it again.
_RELEASE: Final = """
UPDATE relay.quarantine AS q
   SET state = 'release_requested', resolved_at = NULL, resolved_by = $2, resolved_why = $3
  FROM (SELECT quarantine_id FROM relay.quarantine
         WHERE quarantine_id = ANY ($1::bigint[]) AND kept = 'whole'
           AND (state = 'held' OR (state = 'discarded' AND kind = 'return'))
         ORDER BY quarantine_id FOR UPDATE) AS locked
 WHERE q.quarantine_id = locked.quarantine_id
RETURNING q.quarantine_id
"""

# An event that was released may be on its way at this moment; a return is moved by one statement.
_DISCARD: Final = """
UPDATE relay.quarantine AS q
   SET state = 'discarded', resolved_at = clock_timestamp(), resolved_by = $2, resolved_why = $3
  FROM (SELECT quarantine_id FROM relay.quarantine
         WHERE quarantine_id = ANY ($1::bigint[])
           AND (state = 'held' OR (state = 'release_requested' AND kind = 'return'))
         ORDER BY quarantine_id FOR UPDATE) AS locked
 WHERE q.quarantine_id = locked.quarantine_id
RETURNING q.quarantine_id
"""

_STATEMENTS: Final = {"quarantine_release": _RELEASE, "quarantine_discard": _DISCARD}


@dataclass(frozen=True, slots=True)
class Decision:
    """Who decided what, and why."""

    name: str
    who: str
    why: str

    @classmethod
    def release(cls, who: str, why: str) -> Decision:
        """To be sent, or decided anew."""
        return cls("quarantine_release", who, why)

    @classmethod
    def discard(cls, who: str, why: str) -> Decision:
        """Not to be sent or applied; it stays to be looked at."""
        return cls("quarantine_discard", who, why)


@dataclass(slots=True)
class Resolved:
    """What a decision changed.

    Attributes:
        ids: changed.
        left: not changed, by the state they are in.
        others: their ids.
    """

    ids: list[int] = field(default_factory=list)
    left: Counter[str] = field(default_factory=Counter)
    others: list[int] = field(default_factory=list)


_STATES: Final = """
SELECT state, count(*) FROM relay.quarantine_summary
 WHERE quarantine_id = ANY ($1::bigint[]) GROUP BY 1
"""


async def resolve(
    connection: asyncpg.Connection,
    ids: Sequence[int],
    decision: Decision,
    selection: Selection,
) -> AsyncIterator[Resolved]:
    """Change rows, some at a time; yields what was changed so far after each transaction.

    Raises:
        asyncpg.InsufficientPrivilegeError: that is relay_operator's to do.
    """
    done = Resolved()
    for first in range(0, len(ids), _BATCH_ROWS):
        some = list(ids[first : first + _BATCH_ROWS])
        async with connection.transaction():
            changed = await _resolve_some(connection, some, decision, selection)
        done.ids += changed
        others = sorted(set(some).difference(changed))
        if others:
            done.left.update(dict(await connection.fetch(_STATES, others)))
            done.others += others
        yield done


async def _resolve_some(
    connection: asyncpg.Connection, ids: list[int], decision: Decision, selection: Selection
) -> list[int]:
    statement = _STATEMENTS[decision.name]
    await announce(
        connection, decision.who, decision.why, detail={"selection": selection.as_data()}
    )
    rows = await connection.fetch(statement, ids, decision.who, decision.why)
    return sorted(row["quarantine_id"] for row in rows)


# A return has been decided once it waits no longer among the pending ones.
_OUTCOMES: Final = """
SELECT CASE WHEN q.state = 'release_requested' AND q.kind = 'event' AND EXISTS (
                     SELECT FROM relay.quarantine AS before
                      WHERE before.aggregate_id = q.aggregate_id AND before.kind = 'event'
                        AND (before.aggregate_type = q.aggregate_type
                             OR before.aggregate_type IS NULL OR q.aggregate_type IS NULL)
                        AND before.state = 'held' AND before.quarantine_id < q.quarantine_id)
            THEN 'behind_held'
            WHEN q.state = 'release_requested' THEN 'waiting'
            WHEN q.state = 'held' THEN 'held_again'
            WHEN q.state = 'discarded' THEN 'discarded'
            WHEN q.kind = 'event' THEN 'sent'
            WHEN EXISTS (SELECT FROM relay.pending_return AS p
                          WHERE p.consumer_group = q.consumer_group AND p.topic = q.topic
                            AND p.partition = q.partition AND p.record_offset = q.record_offset)
            THEN 'waiting' ELSE 'decided' END AS outcome, q.kind, count(*)
  FROM relay.quarantine AS q WHERE q.quarantine_id = ANY ($1::bigint[]) GROUP BY 1, 2
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has come of a release so far.

    Attributes:
        counts: `sent` (events, proven by the ledger), `decided` (returns: in the inbox now),
            `held_again` (the cause is not mended), `waiting`, `behind_held` (an earlier event of
            the order is held), `discarded` by somebody else.
        waiting: by kind.
    """

    counts: Mapping[str, int]
    waiting: Mapping[str, int]


async def outcome_of(connection: asyncpg.Connection, ids: Sequence[int]) -> Outcome:
    """Say what has come of released rows."""
    counts: Counter[str] = Counter()
    waiting: Counter[str] = Counter()
    for outcome, kind, count in await connection.fetch(_OUTCOMES, ids):
        counts[outcome] += count
        if outcome == "waiting":
            waiting[kind] += count
    return Outcome(counts, waiting)


_BEHIND: Final = """
SELECT count(*) AS events, count(DISTINCT (aggregate_type, aggregate_id)) AS orders
  FROM relay.quarantine_summary AS q
 WHERE kind = 'event' AND state = 'held' AND reason = 'order_parked'
   AND EXISTS (SELECT FROM relay.quarantine_summary AS discarded
                WHERE discarded.quarantine_id = ANY ($1::bigint[]) AND discarded.kind = 'event'
                  AND discarded.aggregate_id = q.aggregate_id
                  AND (discarded.aggregate_type = q.aggregate_type
                       OR discarded.aggregate_type IS NULL OR q.aggregate_type IS NULL))
"""


async def waiting_behind(connection: asyncpg.Connection, ids: Sequence[int]) -> tuple[int, int]:
    """Count the events, and their orders, that still wait behind discarded ones."""
    row = await connection.fetchrow(_BEHIND, ids)
    return row["events"], row["orders"]


_NOT_WHOLE: Final = """
SELECT DISTINCT partition, coalesce(from_offset, record_offset) AS first, record_offset AS last
  FROM relay.quarantine_summary
 WHERE quarantine_id = ANY ($1::bigint[]) AND kind = 'return' AND kept <> 'whole'
   AND state = 'held'
 ORDER BY 1, 2 LIMIT 10
"""


async def not_whole(connection: asyncpg.Connection, ids: Sequence[int]) -> list[str]:
    """Return how to give returns to the consumer of which not all bytes are kept: from Kafka."""
    return [
        "not all of its bytes are kept: if Kafka still has it, `relay replay returns --partition "
        f"{row['partition']} --offsets {row['first']}-{row['last']}`"
        for row in await connection.fetch(_NOT_WHOLE, ids)
    ]


_FOREIGN: Final = """
SELECT DISTINCT consumer_group FROM relay.quarantine_summary
 WHERE quarantine_id = ANY ($1::bigint[]) AND kind = 'return' AND consumer_group <> $2
"""


async def foreign_groups(
    connection: asyncpg.Connection, ids: Sequence[int], group: str
) -> list[str]:
    """Return the groups that returns were refused by and that are not this flow's any more."""
    return [row["consumer_group"] for row in await connection.fetch(_FOREIGN, ids, group)]
