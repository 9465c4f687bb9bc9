-- A return that names several orders, by its key, its order_id or its ce_subject, is held for all of
-- them, and found by each.

SET LOCAL ROLE relay_owner;

ALTER TABLE relay.quarantine ADD COLUMN names text[];   -- orders; NULL: aggregate_id alone
CREATE INDEX quarantine_names ON relay.quarantine USING gin (names) WHERE names IS NOT NULL;

CREATE OR REPLACE VIEW relay.quarantine_summary AS
    SELECT quarantine_id, kind, reason, detail, aggregate_id, event_id, outbox_id, consumer_group,
           topic, partition, record_offset,
           coalesce(whole_bytes, octet_length(record_value)) AS value_bytes, traceparent,
           first_seen_at, last_seen_at, seen_count, state, resolved_at, resolved_by, resolved_why,
           aggregate_type, kept, from_offset, octet_length(record_value) AS kept_bytes, whole_sha256,
           names
      FROM relay.quarantine;

GRANT INSERT (names) ON relay.quarantine TO relay_publisher, relay_confirmer;
