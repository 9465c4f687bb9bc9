"""All hops: reads one order's timeline: the database first, then what only the broker knows.

Invariant: reads only. Without the database there is no timeline, an error; without the broker there
is one that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import asyncpg

from relay.diagnose.timeline import Timeline, tell
from relay.diagnose.timeline_records import read_records
from relay.diagnose.timeline_rows import read_rows
from relay.runtime.database import connect
from relay.runtime.flow import Flow
from relay.runtime.kafka import KafkaConnection

SCAN_SECONDS: Final = 10.0


class NoRelaySchemaError(Exception):
    """This database has no relay schema: run `relay migrate`."""


async def read_timelines(
    dsn: str | None,
    kafka: KafkaConnection,
    flow: Flow,
    order_ids: Sequence[str],
    *,
    scan_seconds: float = SCAN_SECONDS,
) -> list[Timeline]:
    """Read the timelines of some orders, in their order.

    Args:
        dsn: the orders' database; None: libpq's variables say where.
        kafka: the broker.
        flow: names topics, groups and the orders' table.
        order_ids: as `aggregate_id` has them.
        scan_seconds: how long to read the returns topic, for each order without an answer.

    Raises:
        DatabaseError: the database cannot be reached.
        NoRelaySchemaError: it was never migrated.
    """
    connection = await connect(dsn, "relay trace", require_primary=False)
    try:
        return [
            await _read(connection, kafka, flow, order_id, scan_seconds) for order_id in order_ids
        ]
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise NoRelaySchemaError(
            f"{error}: run `relay migrate`, or see the flow's columns in the settings"
        ) from error
    finally:
        await connection.close()


async def _read(
    connection: asyncpg.Connection,
    kafka: KafkaConnection,
    flow: Flow,
    order_id: str,
    scan_seconds: float,
) -> Timeline:
    rows = await read_rows(connection, flow, order_id)
    said, found = await read_records(kafka, flow, rows, at_most_seconds=scan_seconds)
    return tell(replace(rows, kafka=said, returns=(*rows.returns, *found)), flow)
