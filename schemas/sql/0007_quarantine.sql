-- What is refused and not kept whole: a value too large to be read, a batch that cannot be read, a
-- stretch of refusals of which only the place is kept once the quarantine is full.

SET LOCAL ROLE relay_owner;

-- kept: 'whole' (the record as it came), 'part' (the first bytes of it), 'place' (none: from_offset
-- to record_offset hold seen_count returns refused for this reason, and others that were not).
-- A default that is no expression: no row is rewritten.
ALTER TABLE relay.quarantine
    ADD COLUMN kept         text NOT NULL DEFAULT 'whole',
    ADD COLUMN from_offset  bigint,     -- the first offset it stands for; NULL: record_offset alone
    ADD COLUMN whole_bytes  int,        -- of the value, or of the batch, where not all is kept
    ADD COLUMN whole_sha256 text;       -- of the same

CREATE OR REPLACE VIEW relay.quarantine_summary AS
    SELECT quarantine_id, kind, reason, detail, aggregate_id, event_id, outbox_id, consumer_group,
           topic, partition, record_offset,
           coalesce(whole_bytes, octet_length(record_value)) AS value_bytes, traceparent,
           first_seen_at, last_seen_at, seen_count, state, resolved_at, resolved_by, resolved_why,
           aggregate_type, kept, from_offset, octet_length(record_value) AS kept_bytes, whole_sha256
      FROM relay.quarantine;

-- What diagnosis asks for: stretches of the returns topic that nobody could read.
CREATE INDEX quarantine_stretch ON relay.quarantine (consumer_group, topic, partition, record_offset)
    WHERE kind = 'return' AND from_offset IS NOT NULL;
