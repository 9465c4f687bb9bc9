"""Hops 2 and 5: which services are at work now, for whoever hands them something.

Invariant: reads only, by the database's clock.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from relay.runtime.liveness import SILENT_SECONDS

_ACTIVE: Final = """
SELECT EXISTS (SELECT FROM relay.lease AS l WHERE l.duty = 'relay' AND l.released_at IS NULL
                  AND l.expires_at > clock_timestamp()
                  -- A replay's own publisher sends its items only.
                  AND NOT EXISTS (SELECT FROM relay.process_record AS p
                                   WHERE p.process_id::text = l.owner AND p.kind = 'replay'))
       AS event,
       EXISTS (SELECT FROM relay.process_record WHERE kind = 'confirm' AND stopped_at IS NULL
                  AND heartbeat_at >= clock_timestamp() - make_interval(secs => $1)) AS return
"""


async def active_services(connection: asyncpg.Connection) -> set[str]:
    """Return the kinds that somebody picks up now: events by a relay, returns by a consumer."""
    row = await connection.fetchrow(_ACTIVE, SILENT_SECONDS)
    return {kind for kind in ("event", "return") if row[kind]}
