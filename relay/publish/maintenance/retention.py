"""Hop 2: forgets what is past its retention: ledger, inbox, positions, records, kept rows.

Invariant: rows go in small batches, each its own transaction, so that nobody waits for them and a
crash loses nothing. What a person decided (quarantine, closed orders, audit) is not forgotten here.
Kept rows (of orders that were stuck when their day was dropped) leave by name: what can no longer
be replayed is noted by range, and each batch has its row in the audit log.
"""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from relay.publish.maintenance.partition_days import FOR_EVER_DAYS

BATCH_ROWS = 5000
MOST_BATCHES = 200

# ctid: a batch is found once and deleted by place, whatever the key is.
_LEDGER = """
DELETE FROM relay.delivery_ledger WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM relay.delivery_ledger
     WHERE published_at < clock_timestamp() - make_interval(days => $1) LIMIT $2))
"""
# By functions of the owner's: the inbox is the consumer's; kept rows go in a transaction with its
# notes.
_INBOX = "SELECT relay.forget_inbox($1, $2)"
_POSITION = """
DELETE FROM relay.position WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM relay.position
     WHERE taken_at < clock_timestamp() - make_interval(days => $1) LIMIT $2))
"""
_PROCESS = """
DELETE FROM relay.process_record WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM relay.process_record
     WHERE heartbeat_at < clock_timestamp() - make_interval(days => $1) LIMIT $2))
"""
_OUTAGE = """
DELETE FROM relay.outage_record WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM relay.outage_record
     WHERE coalesce(to_at, from_at) < clock_timestamp() - make_interval(days => $1) LIMIT $2))
"""
_UNMATCHED = """
DELETE FROM relay.unmatched_record WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM relay.unmatched_record
     WHERE seen_at < clock_timestamp() - make_interval(days => $1) LIMIT $2))
"""
_WAL_MARK = """
DELETE FROM relay.wal_mark WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM relay.wal_mark
     WHERE taken_at < clock_timestamp() - make_interval(days => $1) LIMIT $2))
"""
_KEPT = "SELECT relay.forget_kept($1, $2)"


@dataclass(frozen=True, slots=True)
class _Duty:
    table: str
    statement: str
    days: int


async def forget(
    connection: asyncpg.Connection,
    *,
    ledger_days: int,
    inbox_days: int,
    position_days: int,
    record_days: int,
    kept_days: int,
) -> dict[str, int]:
    """Delete what is older than its days; return how many rows of which table."""
    duties = (
        _Duty("delivery_ledger", _LEDGER, ledger_days),
        _Duty("unmatched_record", _UNMATCHED, ledger_days),
        _Duty("position", _POSITION, position_days),
        _Duty("wal_mark", _WAL_MARK, position_days),
        _Duty("process_record", _PROCESS, record_days),
        _Duty("outage_record", _OUTAGE, record_days),
    )
    deleted = {duty.table: await _forget_one(connection, duty) for duty in duties}
    deleted["inbox"] = await _forget_by(connection, _INBOX, inbox_days)
    deleted["kept"] = await _forget_by(connection, _KEPT, kept_days)
    return {table: count for table, count in deleted.items() if count}


async def _forget_one(connection: asyncpg.Connection, duty: _Duty) -> int:
    deleted = 0
    for _ in range(MOST_BATCHES):
        status = await connection.execute(duty.statement, min(duty.days, FOR_EVER_DAYS), BATCH_ROWS)
        batch = int(status.removeprefix("DELETE "))
        deleted += batch
        if batch < BATCH_ROWS:
            break
    return deleted


async def _forget_by(connection: asyncpg.Connection, function: str, days: int) -> int:
    deleted = 0
    for _ in range(MOST_BATCHES):
        batch = await connection.fetchval(function, min(days, FOR_EVER_DAYS), BATCH_ROWS)
        deleted += batch
        if batch < BATCH_ROWS:
            break
    return deleted
