-- Payloads that are not JSON: bytes as the shop's own serializer wrote them (Avro, Protobuf, with
-- Confluent's framing or without), and their content type. A row has one payload, of either kind.

SET LOCAL ROLE relay_owner;

ALTER TABLE relay.outbox
    ALTER COLUMN payload DROP NOT NULL,
    ADD COLUMN payload_bytes bytea,
    ADD COLUMN content_type text,                      -- NULL: application/json, or octet-stream
    -- NOT VALID: the rows that are there have a payload, and need not be read to know it.
    ADD CONSTRAINT outbox_one_payload CHECK (num_nonnulls(payload, payload_bytes) = 1) NOT VALID;
ALTER TABLE relay.kept
    ALTER COLUMN payload DROP NOT NULL,
    ADD COLUMN payload_bytes bytea,
    ADD COLUMN content_type text;

GRANT INSERT (payload_bytes, content_type) ON relay.outbox TO relay_writer, relay_operator;

CREATE OR REPLACE VIEW relay.outbox_summary AS
    SELECT id, txid, event_id, aggregate_type, aggregate_id, aggregate_version, event_type,
           coalesce(octet_length(payload::text), octet_length(payload_bytes)) AS payload_bytes,
           traceparent, tracestate, created_at
      FROM relay.outbox;
CREATE OR REPLACE VIEW relay.kept_summary AS
    SELECT id, txid, event_id, aggregate_type, aggregate_id, aggregate_version, event_type,
           coalesce(octet_length(payload::text), octet_length(payload_bytes)) AS payload_bytes,
           traceparent, tracestate, created_at, kept_at, why
      FROM relay.kept;

-- As in 0003, with the columns by name: those of `kept` no longer stand as those of the outbox do.
CREATE OR REPLACE FUNCTION relay.keep_rows(partition_name text,
                                           placed_from timestamptz DEFAULT '-infinity',
                                           placed_until timestamptz DEFAULT 'infinity')
RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    first_id bigint;
    last_id  bigint;
    kept     text := 'INSERT INTO relay.kept (txid, id, event_id, aggregate_type, aggregate_id,
             aggregate_version, event_type, payload, headers, traceparent, tracestate, created_at,
             payload_bytes, content_type, kept_at, why)
         SELECT o.txid, o.id, o.event_id, o.aggregate_type, o.aggregate_id, o.aggregate_version,
                o.event_type, o.payload, o.headers, o.traceparent, o.tracestate, o.created_at,
                o.payload_bytes, o.content_type, clock_timestamp(), ';
BEGIN
    EXECUTE format('SELECT min(id), max(id) FROM relay.%I', partition_name) INTO first_id, last_id;
    EXECUTE format(
        kept || '''parked'' FROM relay.quarantine q
           JOIN relay.%1$I o ON o.id = q.outbox_id
          WHERE q.kind = ''event'' AND q.state IN (''held'', ''release_requested'')
            AND q.outbox_id BETWEEN $1 AND $2
         ON CONFLICT (id) DO NOTHING', partition_name) USING first_id, last_id;
    EXECUTE format(
        kept || '''overdue'' FROM relay.overdue d
           JOIN relay.%1$I o ON o.aggregate_id = d.aggregate_id AND o.event_id::text = d.event_id
          WHERE d.closed_at IS NULL AND d.placed_at BETWEEN $1 AND $2
         ON CONFLICT (id) DO NOTHING', partition_name) USING placed_from, placed_until;
END $$;
