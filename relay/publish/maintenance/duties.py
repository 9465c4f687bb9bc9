"""Hop 2: the duties of maintenance: partitions ahead, old ones away, a small ledger, retention.

Invariant: one at a time for a database (a lease; the second one does nothing). Every step
commits by itself, so that a crash between two loses nothing and the next run goes on. When no relay
runs for weeks, orders go to DEFAULT, and the first run sorts them into their days.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import asyncpg
from pydantic import Field

from relay.publish.maintenance.ledger_merge import merge_ledger
from relay.publish.maintenance.partition_days import PartitionReport, keep_partitions
from relay.publish.maintenance.retention import forget
from relay.runtime.settings import Settings
from relay.runtime.settings_model import MaintenanceSettings


class MaintenanceOptions(MaintenanceSettings):
    """What is made ahead and what is cleared away: the settings, and what the program chooses."""

    lock_attempts: int = Field(
        default=5, description="tries for a partition's lock in one run, each of 50 ms at most"
    )
    merge_after_seconds: float = Field(default=60.0, description="younger ledger rows are left")
    merge_span_seconds: float = Field(
        default=10.0, description="how imprecise the publish time of an event may become"
    )
    merge_ids: int = Field(default=1000, description="events in one joined ledger row, about")
    merge_slices: int = Field(
        default=60, description="spans of one run at most, after a long pause"
    )
    forget_seconds: float = Field(default=3600.0, description="seconds between two retentions")


def maintenance_options(settings: Settings) -> MaintenanceOptions:
    """Return them as the settings say."""
    return MaintenanceOptions(**dict(settings.maintenance))


@dataclass(frozen=True, slots=True)
class MaintenanceReport:
    """What a run did.

    Attributes:
        busy: another process was at it; nothing was done.
        merged_rows: how many ledger rows fewer there are.
        deleted_rows: by table, by retention.
    """

    busy: bool = False
    partitions: PartitionReport = field(default_factory=PartitionReport)
    merged_rows: int = 0
    deleted_rows: dict[str, int] = field(default_factory=dict)


# Not an advisory lock, whose key every login of the database could hold. It ends with its
# connection, too: a holder whose backend is not there any more gives way at once.
_TAKE = """
UPDATE relay.lease AS l
   SET owner = 'backend ' || pg_backend_pid(), epoch = epoch + 1, backend_pid = pg_backend_pid(),
       acquired_at = clock_timestamp(), released_at = NULL,
       expires_at = clock_timestamp() + make_interval(secs => $1)
 WHERE duty = 'maintenance' AND shard = 0
   AND (owner IS NULL OR released_at IS NOT NULL OR expires_at IS NULL
        OR expires_at < clock_timestamp()
        OR expires_at > clock_timestamp() + 2 * make_interval(secs => $1)
        OR NOT EXISTS (SELECT FROM pg_stat_activity AS a
                        WHERE a.pid = l.backend_pid AND a.datname = current_database()))
RETURNING epoch
"""
_RELEASE = """
UPDATE relay.lease SET released_at = clock_timestamp(), owner = NULL
 WHERE duty = 'maintenance' AND shard = 0 AND epoch = $1
"""
# Longer than any run; only a holder that is frozen is waited for so long.
_LEASE_SECONDS = 1800.0

_FORGET_DUE = """
INSERT INTO relay.maintenance AS m (duty) VALUES ('forget')
ON CONFLICT (duty) DO UPDATE SET ran_at = clock_timestamp()
      WHERE m.ran_at < clock_timestamp() - make_interval(secs => $1)
RETURNING true
"""


async def run_once(
    connection: asyncpg.Connection, options: MaintenanceOptions
) -> MaintenanceReport:
    """Do all that is due, once.

    Args:
        connection: as relay_publisher, in autocommit, used by nobody else meanwhile.
        options: how much to keep.
    """
    epoch = await connection.fetchval(_TAKE, _LEASE_SECONDS)
    if epoch is None:
        return MaintenanceReport(busy=True)
    try:
        return await _run(connection, options)
    finally:
        if not connection.is_closed():
            await connection.execute(_RELEASE, epoch)


async def _run(connection: asyncpg.Connection, options: MaintenanceOptions) -> MaintenanceReport:
    partitions = await keep_partitions(
        connection,
        days_ahead=options.days_ahead,
        keep_days=options.outbox_days,
        attempts=options.lock_attempts,
    )
    merged = await merge_ledger(
        connection,
        after_seconds=options.merge_after_seconds,
        span_seconds=options.merge_span_seconds,
        most_ids=options.merge_ids,
        most_slices=options.merge_slices,
    )
    deleted = {}
    if await connection.fetchval(_FORGET_DUE, options.forget_seconds):
        deleted = await forget(
            connection,
            ledger_days=options.ledger_days,
            inbox_days=options.inbox_days,
            position_days=options.position_days,
            record_days=options.record_days,
            kept_days=options.kept_days,
        )
    return MaintenanceReport(partitions=partitions, merged_rows=merged, deleted_rows=deleted)
