"""Hops 2 to 5 of the demo: how long each took, from the times that each hop recorded by itself.

Invariant: an order that did not pass a hop is not in that hop's numbers; nothing is guessed. Times
of different programs may differ by a clock's grain: never less than nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import orjson

from relay.kafka.broker import LATEST, Broker
from relay.kafka.ranges import RangeReader
from relay.runtime.flow import Flow
from relay.sample.load_report import Times, times_of

_READ_SECONDS: Final = 30.0

_ROWS: Final = """
SELECT event.aggregate_id, event.created_at, inbox.received_at
  FROM relay.outbox AS event
  LEFT JOIN relay.inbox AS inbox
         ON inbox.causation_id = event.event_id::text AND inbox.aggregate_id = event.aggregate_id
        AND inbox.new_status IN ('confirmed', 'rejected')
 WHERE event.aggregate_id = ANY ($1::text[])
"""


@dataclass(frozen=True, slots=True)
class _Record:
    """When a record was made, and what it says of when it was decided."""

    recorded_at: datetime
    decided_at: datetime | None


async def hop_times(
    connection: asyncpg.Connection, broker: Broker, flow: Flow, order_ids: Sequence[str]
) -> Mapping[str, Times]:
    """Return each hop's times, over the orders that passed it.

    `publish` is from the outbox row to the record on the events topic, `process` from there to the
    processor's decision, `return` from there to the record on the returns topic, `confirm` from
    there to the inbox row.
    """
    rows = await connection.fetch(_ROWS, list(order_ids))
    since = min((row["created_at"] for row in rows), default=datetime.now(UTC))
    events = await _records(broker, flow.events_topic, since)
    returns = await _records(broker, flow.returns_topic, since)
    seconds: dict[str, list[float]] = {name: [] for name in ("publish", "process", "return")}
    seconds |= {"confirm": [], "hops 2 to 5": []}
    for row in rows:
        event, answer = events.get(row["aggregate_id"]), returns.get(row["aggregate_id"])
        decided_at = answer.decided_at if answer else None
        answered_at = answer.recorded_at if answer else None
        sent_at = event.recorded_at if event else None
        _add(seconds["publish"], row["created_at"], sent_at)
        _add(seconds["process"], sent_at, decided_at)
        _add(seconds["return"], decided_at, answered_at)
        _add(seconds["confirm"], answered_at, row["received_at"])
        _add(seconds["hops 2 to 5"], row["created_at"], row["received_at"])
    found = {name: times_of(times) for name, times in seconds.items()}
    return {name: times for name, times in found.items() if times is not None}


def _add(times: list[float], begun: datetime | None, ended: datetime | None) -> None:
    if begun is not None and ended is not None:
        times.append(max(0.0, (ended - begun).total_seconds()))


async def _records(broker: Broker, topic: str, since: datetime) -> dict[str, _Record]:
    """Read a topic from `since` to its end as it is now: the first record of each key."""
    parts = broker.partitions(topic)
    ends = await broker.offsets(parts, LATEST)
    starts = await broker.offsets(parts, int(since.timestamp() * 1000))
    reader = RangeReader(broker, {part: (starts[part], ends[part]) for part in starts})
    deadline = asyncio.get_running_loop().time() + _READ_SECONDS
    found: dict[str, _Record] = {}
    async for _part, records in reader.rounds(deadline):
        for one in records:
            if one.key is not None:
                found.setdefault(one.key.decode("utf-8", "replace"), _record(one))
    return found


def _record(one: Any) -> _Record:
    return _Record(datetime.fromtimestamp(one.timestamp / 1000, UTC), _decided_at(one.value))


def _decided_at(value: bytes | None) -> datetime | None:
    try:
        read = orjson.loads(value or b"")
        return datetime.fromisoformat(read["returned_at"])
    except (ValueError, KeyError, TypeError):
        return None
