"""A person's data taken out of what the schema `relay` holds.

Invariant: one transaction with its row in the audit log; the rows stay, blank, as proof of what was
sent when. A blank event that was not yet published is published as a tombstone, and is never
replayed. Nothing is taken out of Kafka: until when it is there is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from relay.kafka.broker import connected
from relay.kafka.failures import BROKER_FAILURES
from relay.orders.keys import spellings
from relay.publish.reading.page import ERASED
from relay.runtime.audit import announce
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection

_APPLICATION: Final = "relay-erase"

_ERASE: Final = "SELECT what, count FROM relay.erase($1, $2::text[], $3::text[], $4::text[])"
# Where records of these orders stand, as far as the ledger goes back.
_PUBLISHED: Final = """
SELECT l.topic, count(*) AS records, max(l.published_at) AS last_at
  FROM (SELECT id FROM relay.outbox_summary
         WHERE aggregate_id = ANY ($1::text[]) AND (aggregate_type = $2 OR event_type = ANY ($3))
         UNION ALL
        SELECT id FROM relay.kept_summary
         WHERE aggregate_id = ANY ($1::text[]) AND (aggregate_type = $2 OR event_type = ANY ($3))
       ) AS e
  JOIN relay.delivery_ledger AS l ON l.id_range @> e.id AND e.id = ANY (l.outbox_ids)
 GROUP BY l.topic
 UNION ALL
SELECT i.topic, count(*), max(i.recorded_at) FROM relay.inbox AS i
 WHERE i.aggregate_id = ANY ($1::text[]) AND i.consumer_group <> ALL ($4::text[])
 GROUP BY i.topic
"""
_TOMBSTONE: Final = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, content_type)
SELECT $1, one, type, 'null', $3 FROM unnest($4::text[]) AS one, unnest($2::text[]) AS type
"""


@dataclass(frozen=True, slots=True)
class InKafka:
    """Records of the orders that nobody can take out of a topic.

    Attributes:
        last_at: when the newest of them was written.
        expires_at: when the topic's retention has removed it, at the latest a segment later; None:
            never, or not known.
        compacted: a tombstone removes them, in time.
        why: what is not known, or that the topic keeps records for ever.
    """

    topic: str
    records: int
    last_at: datetime
    expires_at: datetime | None = None
    compacted: bool = False
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Erased:
    """What was blanked, by table, and what is left in Kafka.

    Attributes:
        counts: `outbox`, `kept`, `quarantine`, `inbox`; `waiting`: returns of a locked order, left.
        tombstones: orders that a tombstone is sent for.
    """

    counts: Mapping[str, int]
    in_kafka: tuple[InKafka, ...]
    tombstones: tuple[str, ...] = field(default=())


async def look(
    connection: asyncpg.Connection, kafka: KafkaConnection, flow: Flow, orders: Sequence[str]
) -> tuple[InKafka, ...]:
    """Return what of these orders stands in Kafka, and until when."""
    values = (_written(flow, orders), flow.aggregate_type, flow.own_event_types)
    rows = await connection.fetch(_PUBLISHED, *values, list(flow.others.groups))
    settings, why = await _settings(kafka, [row["topic"] for row in rows])
    return tuple(_in_kafka(row, settings.get(row["topic"]), why) for row in rows)


async def erase(
    connection: asyncpg.Connection,
    flow: Flow,
    orders: Sequence[str],
    in_kafka: tuple[InKafka, ...],
    *,
    who: str,
    why: str,
) -> Erased:
    """Blank what is stored of these orders, and send tombstones where the topic is compacted.

    Args:
        connection: as relay_operator.
        flow: whose orders.
        orders: canonical ids.
        in_kafka: of `look`.
        who: decides.
        why: the reason given.

    Raises:
        asyncpg.InsufficientPrivilegeError: erasing is relay_operator's.
    """
    # Each compacted topic of the flow has records of its own under the order's key.
    types = [flow.erased_event(one.topic) for one in in_kafka if one.compacted]
    types = [one for one in types if one in flow.routes]
    tombstones = list(orders) if types else []
    async with connection.transaction():
        await announce(connection, who, why)
        rows = await connection.fetch(
            _ERASE,
            flow.aggregate_type,
            flow.own_event_types,
            _written(flow, orders),
            list(flow.others.groups),
        )
        await connection.execute(_TOMBSTONE, flow.aggregate_type, types, ERASED, tombstones)
    counts = {row["what"]: row["count"] for row in rows}
    return Erased(counts, in_kafka, tuple(tombstones))


def _written(flow: Flow, orders: Sequence[str]) -> list[str]:
    """Return every spelling in which the orders' ids may stand."""
    return sorted({one for order in orders for one in (order, *spellings(flow, order))})


async def _settings(
    kafka: KafkaConnection, topics: Sequence[str]
) -> tuple[Mapping[str, Mapping[str, str]], str | None]:
    if not topics:
        return {}, None
    try:
        async with connected(kafka, _APPLICATION) as broker:
            return await broker.topic_settings(topics), None
    except BROKER_FAILURES as error:
        return {}, f"how the topic is set is not known: {error}"


def _in_kafka(row: Mapping[str, Any], own: Mapping[str, str] | None, why: str | None) -> InKafka:
    found = row["topic"], row["records"], row["last_at"]
    if own is None:
        return InKafka(*found, why=why or "how the topic is set may not be asked")
    policy = own.get("cleanup.policy", "delete")
    milliseconds = int(own.get("retention.ms", -1))
    compacted = "compact" in policy
    if "delete" not in policy or milliseconds < 0:
        said = None if compacted else "the topic keeps its records for ever"
        return InKafka(*found, compacted=compacted, why=said)
    expires_at = row["last_at"] + timedelta(milliseconds=milliseconds)
    return InKafka(*found, expires_at=expires_at, compacted=compacted)
