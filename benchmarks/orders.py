"""What the order service of the benchmarks writes, as SQL: the same payload for every system.

Rows come from `r(i, key, version)`: a unique number, the aggregate's id (the record's key), and its
version there. The payload is some 330 bytes of JSON and names `seq`, `v` and `at`, from which the
topic is verified afterwards.
"""

from __future__ import annotations

import psycopg

KEYS = 50_000

# 31 days: those that `relay migrate` made (today and seven ahead), and 23 back.
PREPARE = """
SELECT relay.create_partition((clock_timestamp() AT TIME ZONE 'UTC')::date - back)
  FROM generate_series(1, 23) AS back;

CREATE FUNCTION public.bench_payload(i bigint, key text, version bigint) RETURNS text
LANGUAGE sql VOLATILE AS $$
SELECT format('{"order_id": "%s", "seq": %s, "v": %s, "at": %s, "customer_id": "customer-%s", '
              '"items": [{"sku": "SKU-%s", "quantity": 2, "price": "19.99"}, {"sku": "SKU-%s", '
              '"quantity": 1, "price": "49.50"}], "total": "89.48", "currency": "EUR", '
              '"submitted_at": "2026-11-22T00:00:00.000000Z", "note": "please ring twice"}',
              key, i, version, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
              i % 9973, i % 997, i % 991) $$;

CREATE FUNCTION public.bench_trace(i bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
SELECT '00-' || md5(i::text) || '-' || substr(md5(i::text), 3, 16) || '-01' $$;

CREATE FUNCTION public.bench_key(i bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
SELECT md5('key' || i)::uuid::text $$;

-- An order of the benchmarks is a row like any service's; version is raised under its lock.
CREATE TABLE public.bench_order (id bigint PRIMARY KEY, customer text NOT NULL,
    total numeric NOT NULL, version bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now());
INSERT INTO public.bench_order SELECT -1 - g, 'ada', 0 FROM generate_series(0, 999) AS g;

-- The table of the relay of the blog posts.
CREATE TABLE public.naive_outbox (id bigserial PRIMARY KEY, aggregate_type text NOT NULL,
    aggregate_id text NOT NULL, event_type text NOT NULL, payload jsonb NOT NULL,
    headers text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
"""

# $1: the number. One statement, as a service that knows its trade would write it.
PLACED = """
WITH r AS (SELECT $1::bigint AS i, bench_key($1::bigint % {keys}) AS key, $1::bigint AS version),
     o AS (INSERT INTO bench_order (id, customer, total) SELECT i, 'ada', 89.48 FROM r)
""".replace("{keys}", str(KEYS))

# $2: which of a few orders everybody wants; the row lock makes versions follow commits.
CONTENDED = """
WITH u AS (UPDATE bench_order SET version = version + 1 WHERE id = -1 - $2::bigint
           RETURNING version),
     r AS (SELECT $1::bigint AS i, bench_key(-1 - $2::bigint) AS key, u.version FROM u)
"""

OUTBOX = """
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, traceparent)
SELECT 'order', r.key, 'order.placed', bench_payload(r.i, r.key, r.version)::json, bench_trace(r.i)
  FROM r
"""

# The same bytes, as a serializer of the shop's own would hand them over.
OUTBOX_BYTES = """
INSERT INTO relay.outbox
       (aggregate_type, aggregate_id, event_type, payload_bytes, content_type, traceparent)
SELECT 'order', r.key, 'order.placed', convert_to(bench_payload(r.i, r.key, r.version), 'UTF8'),
       'application/json', bench_trace(r.i)
  FROM r
"""

NAIVE_OUTBOX = """
INSERT INTO naive_outbox (aggregate_type, aggregate_id, event_type, payload, headers)
SELECT 'order', r.key, 'order.placed', bench_payload(r.i, r.key, r.version)::jsonb, bench_trace(r.i)
  FROM r
"""


def fill(url: str, insert: str, count: int, *, start: int = 0, keys: int = KEYS) -> None:
    """Commit `count` orders with their rows, one transaction each, while no relay runs."""
    placed = PLACED.replace("$1::bigint", "k").replace(f"% {KEYS}", f"% {keys}")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute(
            f"""DO $do$ BEGIN FOR k IN {start}::bigint..{start + count - 1}::bigint LOOP
                {placed} {insert}; COMMIT; END LOOP; END $do$"""
        )
        connection.execute("ANALYZE")
        connection.execute("SET synchronous_commit = on")
        connection.execute("CHECKPOINT")


# Small payloads, 20 rows a transaction, spread over the days before today: what retention keeps.
_RETAIN = """
DO $do$ DECLARE
    days date[] := ARRAY(SELECT (now() AT TIME ZONE 'UTC')::date - back
                           FROM generate_series(1, 23) AS back ORDER BY back DESC);
    a_day bigint := {count} / 23;
BEGIN
    FOR d IN 1..23 LOOP
        FOR k IN 0..(a_day / 20 - 1) LOOP
            INSERT INTO relay.outbox
                   (aggregate_type, aggregate_id, event_type, payload, created_at)
            SELECT 'order', bench_key(i), 'order.placed', '{"order_id": "retained"}',
                   days[d] + make_interval(secs => 86399.0 * k / (a_day / 20))
              FROM generate_series(d * a_day + k * 20, d * a_day + k * 20 + 19) AS i;
            COMMIT;
        END LOOP;
    END LOOP;
END $do$
"""

# As a relay leaves it that has handed over everything.
_HANDED_OVER = """
UPDATE relay.checkpoint
   SET prev = pg_current_snapshot(), cur = NULL, last_id = NULL,
       high_id = coalesce((SELECT max(id) FROM relay.outbox), high_id)
"""


def retain(url: str, count: int) -> None:
    """Fill the outbox with rows that were handed over long ago."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(_RETAIN.replace("{count}", str(count)))
        connection.execute("VACUUM ANALYZE relay.outbox")
        hand_over(connection)
        connection.execute("CHECKPOINT")


def hand_over(connection: psycopg.Connection) -> None:
    """Move the checkpoint behind every row."""
    connection.execute(_HANDED_OVER)
