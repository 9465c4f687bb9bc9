"""Hops 2 to 5: of the newest answered orders, how many are one trace from outbox row to return.

Invariant: reads a bounded number of rows and records, whatever is retained; an order counts as
whole only by what was read, and how many records could not be read is said.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from relay.kafka.broker import Broker
from relay.kafka.event_headers import event_id_of
from relay.kafka.partition import Partition
from relay.kafka.ranges import fetch, seen
from relay.runtime.flow import Flow
from relay.telemetry.continuity import Continuity, continuity, stored_trace, trace_of

ORDERS: Final = 200
_RECORDS_SECONDS: Final = 1.5
_BYTES_EACH: Final = 256_000
# Looked back until something was answered.
_LOOK_BACK: Final = (timedelta(minutes=1), timedelta(hours=1), timedelta(days=1))

# received_at has a BRIN index: the time must be a parameter, a volatile function would not use it.
# The event is looked for where its day is; what a return answers is its ce_causationid, else the
# order's first event. `id + 0`: by the order's index, also where there are no statistics.
_ANSWERED: Final = """
WITH answered AS MATERIALIZED (
    SELECT aggregate_id, causation_id, traceparent, recorded_at FROM relay.inbox
     WHERE received_at > $1 AND consumer_group = $2 AND outcome <> 'canary' LIMIT $3)
SELECT a.aggregate_id, e.event_id, e.traceparent AS stored, a.traceparent AS returned,
       l.topic, l.partition, l.record_offset
  FROM answered a
 CROSS JOIN LATERAL (
       SELECT o.id, o.event_id, o.traceparent FROM relay.outbox_summary o
        WHERE o.aggregate_id = a.aggregate_id
          AND o.created_at >= a.recorded_at - interval '2 days'
          AND o.created_at < a.recorded_at + interval '1 day'
          AND (a.causation_id IS NULL OR o.event_id::text = a.causation_id)
        ORDER BY o.id + 0 LIMIT 1) AS e
  LEFT JOIN LATERAL (
       SELECT d.topic, d.partition,
              d.base_offset + array_position(d.outbox_ids, e.id) - 1 AS record_offset
         FROM relay.delivery_ledger d
        WHERE d.id_range @> e.id AND e.id = ANY (d.outbox_ids) AND d.topic = ANY ($4::text[])
          AND d.replay_id IS NULL
        ORDER BY d.ledger_id LIMIT 1) AS l ON true
"""

Position = tuple[Partition, int]
RecordTraces = Mapping[tuple[Position, str], str]
"""Trace id by where the record stands and the event that it is of."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A return that was decided, and the event it answers.

    Attributes:
        event_id: of the event.
        stored: trace id of the event's outbox row.
        returned: trace id of the return; None: it carries none.
        record: where the event's record stands; None: that is not known.
    """

    order_id: str
    event_id: str
    stored: str
    returned: str | None
    record: Position | None


@dataclass(frozen=True, slots=True)
class Traces:
    """What was found of the newest orders.

    Attributes:
        orders: that were compared.
        breaks: those that are not whole, by how.
        unread: of those that count as whole, the ones whose record could not be read.
    """

    orders: int
    breaks: Mapping[Continuity, int]
    unread: int = 0

    @property
    def whole(self) -> int:
        """How many are one trace."""
        return self.orders - sum(self.breaks.values())

    @property
    def share(self) -> float | None:
        """The share of those that are one trace; None: nothing was compared."""
        return self.whole / self.orders if self.orders else None


async def read_answered_orders(
    connection: asyncpg.Connection, flow: Flow, now: datetime
) -> tuple[Answered, ...]:
    """Return the newest answered orders' traces, of the database."""
    for back in _LOOK_BACK:
        rows = await connection.fetch(
            _ANSWERED, now - back, flow.confirm_group, ORDERS, sorted(flow.topics)
        )
        if rows:
            return tuple(map(_answered, rows))
    return ()


def _answered(row: asyncpg.Record) -> Answered:
    at = None
    if row["record_offset"] is not None:
        at = Partition(row["topic"], row["partition"]), row["record_offset"]
    stored = stored_trace(row["stored"], row["event_id"])
    return Answered(
        row["aggregate_id"], str(row["event_id"]), stored, trace_of(row["returned"]), at
    )


async def read_record_traces(broker: Broker, answered: Sequence[Answered]) -> RecordTraces:
    """Read the records' trace ids back, "" for none; what time does not suffice for is absent.

    So is a record of another event: the topic was deleted and made again, or belongs to another
    broker, and what stands there says nothing of the order.
    """
    wanted: defaultdict[Partition, list[int]] = defaultdict(list)
    for partition, offset in {one.record for one in answered if one.record is not None}:
        if partition in broker.leaders:
            wanted[partition].append(offset)
    found: dict[tuple[Position, str], str] = {}
    left = {partition: sorted(offsets) for partition, offsets in wanted.items()}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _RECORDS_SECONDS
    while left and loop.time() < deadline:
        starts = {one: offsets[0] for one, offsets in left.items()}
        until = {one: offsets[-1] + 1 for one, offsets in left.items()}
        got = await fetch(broker, starts, bytes_each=_BYTES_EACH, committed=False, until=until)
        for one, fetched in got.items():
            for record in fetched.records:
                if record.offset in left[one]:
                    stands = seen(one, record)
                    event_id = event_id_of(stands.headers)
                    if event_id is not None:
                        trace = trace_of(stands.header("traceparent")) or ""
                        found[(one, record.offset), event_id] = trace
            reached = left[one][0] + 1 if fetched.out_of_range else fetched.next_offset
            left[one] = [offset for offset in left[one] if offset >= reached]
        left = {one: offsets for one, offsets in left.items() if offsets}
    return found


def compare(answered: Iterable[Answered], records: RecordTraces) -> Traces:
    """Tell which orders are one trace: an order is as good as its worst return."""
    verdicts: dict[str, Continuity] = {}
    unread: set[str] = set()
    for one in answered:
        record = None if one.record is None else records.get((one.record, one.event_id))
        if record is None:
            unread.add(one.order_id)
        verdict = continuity(one.stored, one.returned, record)
        if verdicts.get(one.order_id, Continuity.WHOLE) is Continuity.WHOLE:
            verdicts[one.order_id] = verdict
    breaks: Counter[Continuity] = Counter(
        one for one in verdicts.values() if one is not Continuity.WHOLE
    )
    whole_unread = sum(verdicts[one] is Continuity.WHOLE for one in unread)
    return Traces(len(verdicts), dict(breaks), whole_unread)
