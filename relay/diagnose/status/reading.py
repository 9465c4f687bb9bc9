"""Asks database and broker how things stand, and has it decided.

Invariant: it always answers: with either of them away it tells what the other one knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import asyncpg

from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.gather.publisher import read_unread
from relay.diagnose.gather.reading import database_missing
from relay.diagnose.status.counts import read_counts
from relay.diagnose.status.evidence import Counts
from relay.diagnose.status.hops import Status, decide
from relay.diagnose.status.lags import read_lags
from relay.runtime.database import DATABASE_FAILURES, connect
from relay.runtime.flow import Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.kept_connections import KeptConnections

_APPLICATION_NAME: Final = "relay-status"
_CONNECT_SECONDS: Final = 5.0
_SECONDS: Final = 20.0


async def read_status(
    dsn: str | None,
    kafka: KafkaConnection,
    flow: Flow,
    *,
    kept: KeptConnections | None = None,
) -> Status:
    """Read how every hop stands; where that is asked again and again, `kept` lends a connection."""
    counts = await _counts(dsn, flow, kept)
    if isinstance(counts, Missing):
        lags = await read_lags(kafka, flow, None)
    else:
        lags = await read_lags(
            kafka,
            flow,
            None if isinstance(counts.next_offsets, Missing) else counts.next_offsets,
            canaries=() if isinstance(counts.canaries, Missing) else counts.canaries,
            answered=() if isinstance(counts.answered, Missing) else counts.answered,
        )
        publisher = counts.publisher
        if publisher is not None and not isinstance(publisher, Missing):
            left = await read_unread(kafka, flow, publisher.read_to)
            counts = replace(counts, publisher=replace(publisher, unread=left))
    now = datetime.now(UTC) if isinstance(counts, Missing) else counts.now
    return decide(counts, lags, flow, now)


async def _counts(dsn: str | None, flow: Flow, kept: KeptConnections | None) -> Counts | Missing:
    try:
        async with (
            asyncio.timeout(_SECONDS),
            _opened(dsn) if kept is None else kept.borrow() as connection,
        ):
            return await read_counts(connection, flow)
    except DATABASE_FAILURES as error:
        return database_missing("the database", error)


@asynccontextmanager
async def _opened(dsn: str | None) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(
        dsn, _APPLICATION_NAME, require_primary=False, timeout_seconds=_CONNECT_SECONDS
    )
    try:
        yield connection
    finally:
        with suppress(*DATABASE_FAILURES):
            await connection.close(timeout=1)
