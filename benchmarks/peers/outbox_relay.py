"""Prints this relay as one more system of the peers' harness.

    .venv/bin/python -m benchmarks.peers.outbox_relay > systems/outbox-relay.toml

The harness makes a new database for every run from the `schema` in the file, so that one holds the
whole schema of `relay migrate`, with 31 daily partitions: 23 days back, today, and the
seven that the relay itself keeps ahead.
"""

from __future__ import annotations

import sys

from relay.runtime.migration_files import load, script

_PARTITIONS = """
-- 31 partitions: those of migrate (today and seven days ahead), and 23 days back.
SELECT relay.create_partition((clock_timestamp() AT TIME ZONE 'UTC')::date - back)
  FROM generate_series(1, 23) AS back;
"""

_TOML = '''\
# Printed by `python -m benchmarks.peers.outbox_relay`, from schemas/sql.
# Start it with OUTBOX_RELAY, the `relay` to measure (by default the one on the PATH).
about = "outbox-relay: snapshot window, one batch in flight per partition, ledger, checkpoint"
insert = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, traceparent)
SELECT 'order', r.agg, 'order.placed', bench_payload(r.i, r.agg, r.v)::json, bench_trace(r.i)
  FROM r"""
start = """
export DATABASE_URL="$DSN" KAFKA_BOOTSTRAP_SERVERS="$BOOTSTRAP"
export RELAY_FLOW_EVENTS_TOPIC="$TOPIC" RELAY_FLOW_APPLY=observe RELAY_METRICS_ENABLED=false
unset PYTHONDONTWRITEBYTECODE
exec "${OUTBOX_RELAY:-relay}" run"""
schema = """
'''


def text() -> str:
    """Return the file."""
    whole = script(load(sample=False), "production")
    schema = whole + _PARTITIONS
    return _TOML + schema.replace("\\", "\\\\").replace('"""', '\\"""') + '"""\n'


if __name__ == "__main__":
    sys.stdout.write(text())
