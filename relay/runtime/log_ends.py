"""Hops 4 and 5: where a topic's logs were recorded to end before a time, by our own clock.

Invariant: reads only what the watchdog wrote down; what nobody recorded is absent.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import asyncpg

from relay.runtime.times import later

# Where the log ends is written every ten seconds while it grows, every minute while it does not.
_LOG_ENDS: Final = """
SELECT DISTINCT ON (partition) partition, log_end FROM relay.position
 WHERE topic = $1 AND consumer_group = '' AND log_end IS NOT NULL
   AND taken_at < $2 AND taken_at >= $3
 ORDER BY partition, taken_at DESC
"""
# The broker is asked a moment before the time that is written.
_SAMPLE_SECONDS: Final = 30.0
_LOOK_BACK_SECONDS: Final = 3600.0


async def read_log_ends(connection: asyncpg.Connection, topic: str, at: datetime) -> dict[int, int]:
    """Return where a topic's partitions were last recorded to end before a time.

    What was written later stands at these offsets or behind them, whatever time it claims.
    """
    before = later(at, -_SAMPLE_SECONDS)
    rows = await connection.fetch(_LOG_ENDS, topic, before, later(before, -_LOOK_BACK_SECONDS))
    return {row["partition"]: row["log_end"] for row in rows}
