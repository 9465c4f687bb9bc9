"""Hop 2: what the outbox is asked, and with which settings of the connection.

Invariant: every statement reads what one snapshot sees, and its plan depends neither on statistics
nor on how often it ran: each index is named by the order asked for (tests/integration/publish/
test_cursor_plans.py).
"""

from __future__ import annotations

from typing import Final

READER_SETTINGS: Final = {
    # The window's plans must not depend on statistics (a backlog is what ANALYZE has not seen) nor
    # on how often a statement ran: asyncpg prepares, and PostgreSQL would try five custom plans.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "default_transaction_read_only": "on",
    # A read is a few milliseconds; this is for a plan that went wrong all the same.
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "10s",
}

# Nothing has ended since, when it is the same as before: 0.05 ms, whatever the partitions.
SNAPSHOT: Final = "SELECT pg_current_snapshot()::text"

# The *_send functions give the bytes that go to Kafka as they are: 0.98 us a row here and 1.5 us in
# the server, against 2.2 and 1.9 for text, uuid and timestamptz values (benchmarks/drain).
# No column is unbounded, whatever the order service wrote: a large payload, its headers and a long
# aggregate id are left out and read on their own, a page's bytes at a time; of the others so much
# is read as decides. (octet_length of a text does not read it; bigint: two of them may be 1 GB. A
# record has the aggregate id twice: it is the key, and ce_subject.)
_COLUMNS: Final = """id, uuid_send(event_id),
    CASE WHEN octet_length(aggregate_id) <= 1024 THEN textsend(aggregate_id) ELSE '' END,
    CASE WHEN octet_length(event_type) <= 1024 THEN event_type
         ELSE left(event_type, 100) || '... (' || octet_length(event_type) || ' bytes)' END,
    CASE WHEN coalesce(octet_length(payload::text), octet_length(payload_bytes))::bigint
              + coalesce(octet_length(headers::text), 0) <= {inline}
         THEN coalesce(json_send(payload), payload_bytes) END,
    coalesce(octet_length(payload::text), octet_length(payload_bytes))::bigint
        + coalesce(octet_length(headers::text), 0) + 2 * octet_length(aggregate_id),
    CASE WHEN octet_length(headers::text) <= {inline} THEN json_send(headers) END,
    left(traceparent, 256), left(tracestate, 1024), timestamptz_send(created_at),
    left(aggregate_type, 256),
    CASE WHEN payload IS NULL THEN coalesce(left(content_type, 256), 'application/octet-stream')
         ELSE left(content_type, 256) END"""

# What is read of a partition: bare columns, so that the expressions above are prepared once and not
# once a partition: 0.18 ms a read of 31 partitions, against 0.30 (benchmarks/polls).
_BARE: Final = """id, txid, event_id, aggregate_type, aggregate_id, event_type, payload, headers,
    traceparent, tracestate, created_at, payload_bytes, content_type"""

# One statement, one snapshot: its first row is the snapshot itself, in the place of a traceparent.
_FROM_SNAPSHOT: Final = """
WITH now AS MATERIALIZED (SELECT pg_current_snapshot() AS cur)
SELECT NULL::bigint, NULL::bytea, NULL::bytea, NULL::text, NULL::bytea, NULL::bigint, NULL::bytea,
       now.cur::text, NULL::text, NULL::bytea, NULL::text, NULL::text
  FROM now
UNION ALL
"""

# Transactions that were new. Ordered as the index is, so that no statistics can choose another way.
# A row whose txid lies ahead of the cluster's (restored) is not visible in cur; without that clause
# every poll would return it. $1 xmax of `prev`, $2 a page and one.
_NEW: Final = f"""
SELECT {_BARE} FROM relay.outbox
 WHERE txid >= $1::xid8 AND pg_visible_in_snapshot(txid, (SELECT cur FROM now))
 ORDER BY txid, id LIMIT $2
"""  # noqa: S608 - constants of this module

# Transactions that were in progress ($4) and are over. Those still in progress are not looked up (a
# bulk load would be walked through at every poll), nor those that were rolled back. As one array:
# PostgreSQL 17 and newer go down the index once for all that stand together (200 of them: 1.2 ms;
# by LATERAL 3.2; benchmarks/polls).
_ENDED: Final = f"""
SELECT {_BARE} FROM relay.outbox
 WHERE txid = ANY (ARRAY(SELECT was FROM unnest($4::xid8[]) AS was
                          WHERE pg_visible_in_snapshot(was, (SELECT cur FROM now))
                            AND pg_xact_status(was) IS DISTINCT FROM 'aborted'))
 LIMIT $2
"""  # noqa: S608 - constants of this module

# $3 the largest payload taken along.
WINDOW_OF_NEW: Final = f"""{_FROM_SNAPSHOT}
SELECT {_COLUMNS.format(inline="$3")} FROM ({_NEW}) AS found
"""  # noqa: S608 - constants of this module

WINDOW: Final = f"""{_FROM_SNAPSHOT}
SELECT {_COLUMNS.format(inline="$3")} FROM (({_NEW}) UNION ALL ({_ENDED})) AS found
"""  # noqa: S608 - constants of this module

# Larger windows: a page of the transactions that were new, by the primary key.
# $1 and $2 the ids between which to look, $3 xmax of `prev`, $4 `cur`.
PAGE_OF_NEW: Final = f"""
SELECT {_COLUMNS.format(inline="$6")} FROM (
    SELECT {_BARE} FROM relay.outbox
     WHERE id > $1 AND id <= $2 AND txid >= $3::xid8
       AND pg_visible_in_snapshot(txid, $4::text::pg_snapshot)
     ORDER BY id LIMIT $5
) AS found
"""  # noqa: S608 - constants of this module

# ... and of those that were in progress and are over ($3): by transaction, since by id it would
# walk through the rows of others. OFFSET 0 keeps one index probe a transaction.
PAGE_OF_ENDED: Final = f"""
SELECT {_COLUMNS.format(inline="$5")} FROM (
    SELECT ended.*
      FROM unnest($3::xid8[]) AS prev(txid)
     CROSS JOIN LATERAL (
           SELECT {_BARE} FROM relay.outbox
            WHERE outbox.txid = prev.txid AND id > $1 AND id <= $2
            ORDER BY txid, id LIMIT $4 OFFSET 0
          ) AS ended
     ORDER BY id LIMIT $4
) AS found
"""  # noqa: S608 - constants of this module

# Where the rows before a window end, about: the last of them by transaction.
LAST_BEFORE: Final = """
SELECT max(id) FROM (
    SELECT id FROM relay.outbox WHERE txid < $1::xid8 ORDER BY txid DESC, id DESC LIMIT 1000
) AS recent
"""

# The lowest id of a window's new transactions, if it is not above the hint $3. Ordered as the index
# is, and fenced: planned as "the first by primary key" it would walk all the retained rows. Entries
# above the hint are dismissed inside the index, 10 million in half a second.
LOWEST_OF_NEW: Final = """
SELECT min(id) FROM (
    SELECT id FROM relay.outbox
     WHERE txid >= $1::xid8 AND txid < $2::xid8 AND id <= $3
     ORDER BY txid, id OFFSET 0
) AS below_hint
"""

LOWEST_OF_ENDED: Final = """
SELECT min(first.id)
  FROM unnest($1::xid8[]) AS prev(txid)
 CROSS JOIN LATERAL (
       SELECT id FROM relay.outbox WHERE outbox.txid = prev.txid ORDER BY txid, id LIMIT 1 OFFSET 0
      ) AS first
"""

# Two probes of each partition's primary key.
BOUNDS: Final = "SELECT min(id), max(id) FROM relay.outbox"

# Across a gap in the ids (a sequence that was set forward) in one step.
NEXT_ID: Final = "SELECT min(id) FROM relay.outbox WHERE id > $1"

# Rows that left quarantine, wherever they are now.
BY_ID: Final = f"""
SELECT {_COLUMNS.format(inline="$2")} FROM relay.outbox WHERE id = ANY ($1::bigint[])
UNION ALL
SELECT {_COLUMNS.format(inline="$2")} FROM relay.kept WHERE id = ANY ($1::bigint[])
"""  # noqa: S608 - the columns are a constant of this module

LONG_IDS: Final = """
SELECT id, textsend(aggregate_id) FROM relay.outbox WHERE id = ANY ($1::bigint[])
UNION ALL
SELECT id, textsend(aggregate_id) FROM relay.kept WHERE id = ANY ($1::bigint[])
"""

LARGE_PAYLOADS: Final = """
SELECT id, coalesce(json_send(payload), payload_bytes), json_send(headers)
  FROM relay.outbox WHERE id = ANY ($1::bigint[])
UNION ALL
SELECT id, coalesce(json_send(payload), payload_bytes), json_send(headers)
  FROM relay.kept WHERE id = ANY ($1::bigint[])
"""
