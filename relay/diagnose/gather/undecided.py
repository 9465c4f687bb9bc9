"""Hop 1: finds the transactions that have written where orders or events stand, and have not ended.

Invariant: reads only. What such a transaction wrote nobody can see: as long as one is open, or was
prepared and never decided, an id without a row may be one of its orders. Locks are shown to every
role; who has them may be hidden.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.gather.reading import part
from relay.runtime.flow import Flow

# Of those that began a moment ago there are always some.
_OPEN_SECONDS: Final = 10.0

# Whoever writes to a table holds this lock on it until it ends; a prepared transaction, too. When
# a transaction of a hidden backend began is bounded by the events that were written after it.
_UNDECIDED: Final = """
SELECT coalesce('the prepared transaction ' || p.gid, 'a transaction of ' || a.usename, '')
       || CASE WHEN l.pid IS NULL THEN '' ELSE ' (pid ' || l.pid || ')' END AS whose,
       coalesce(p.prepared, a.xact_start) AS since
  FROM pg_catalog.pg_locks AS l
  LEFT JOIN pg_catalog.pg_locks AS x
         ON x.virtualtransaction = l.virtualtransaction AND x.pid IS NOT DISTINCT FROM l.pid
        AND x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock'
  LEFT JOIN pg_catalog.pg_prepared_xacts AS p ON l.pid IS NULL AND p.transaction = x.transactionid
  LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
 WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted
   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
   AND l.relation IN (to_regclass($1), 'relay.outbox'::regclass)
   AND coalesce(coalesce(p.prepared, a.xact_start) < clock_timestamp() - make_interval(secs => $2),
                age(x.transactionid) > age((
                    SELECT o.txid::xid FROM relay.outbox_summary AS o
                     WHERE o.created_at < clock_timestamp() - make_interval(secs => $2)
                     ORDER BY o.id DESC LIMIT 1)), false)
 GROUP BY 1, 2 ORDER BY since LIMIT 4
"""
_NAMED: Final = 3


async def undecided(connection: asyncpg.Connection, flow: Flow) -> Missing | None:
    """Say which transactions may hold an order that nobody can see yet; None: there are none."""
    columns = flow.orders_columns
    table = "relay.outbox" if columns is None else columns.table
    found = await part(
        connection,
        "transactions that are open",
        lambda: connection.fetch(_UNDECIDED, table, _OPEN_SECONDS),
    )
    if isinstance(found, Missing):
        return found
    return _missing(found) if found else None


def _missing(found: list[asyncpg.Record]) -> Missing:
    named = [
        f"{whose}, open since {since:%Y-%m-%d %H:%M:%S} UTC" if since else f"{whose}, open"
        for whose, since in found[:_NAMED]
    ]
    more = ", and others" if len(found) > _NAMED else ""
    return Missing(
        "what has been written and not committed",
        Cause.WRITE_UNDECIDED,
        f"{'; '.join(named)}{more}",
        "commit it or roll it back (a prepared one: COMMIT PREPARED or ROLLBACK PREPARED)",
    )
