-- Who publishes the outbox: our relay, or somebody else (Debezium on Kafka Connect, Sequin, a poller), whose
-- records the witness then writes into the ledger. Here, and not in a settings file alone, so that
-- nobody's `relay run` starts beside the other publisher by mistake.

SET LOCAL ROLE relay_owner;

CREATE TABLE relay.publisher (
    only_row        boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    kind            text        NOT NULL DEFAULT 'relay' CHECK (kind IN ('relay', 'external')),
    changed_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by      text        NOT NULL DEFAULT session_user,
    slot            text,                              -- the publisher's replication slot; NULL: it has none
    connector       text,                              -- its name in Kafka Connect; NULL: not one
    witness_group   text,                              -- whose offsets say how far the topics were read
    connector_state jsonb,                             -- what Kafka Connect said of it last, and when
    seen_at         timestamptz
);
INSERT INTO relay.publisher DEFAULT VALUES;

-- Records of the events' topics for which no row was found: published, and never committed here.
CREATE TABLE relay.unmatched_record (
    topic         text        NOT NULL,
    partition     int         NOT NULL,
    record_offset bigint      NOT NULL,
    topic_id      text,                                -- Kafka's own id of the topic
    event_id      uuid,
    record_key    bytea,                               -- its first 1,024 bytes
    recorded_at   timestamptz NOT NULL,                -- the record's own time
    reason        text        NOT NULL,                -- no_id | no_row | row_dropped | unreadable
    seen_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    retry_until   timestamptz,                         -- no_row: its commit may not be visible yet
    PRIMARY KEY (topic, partition, record_offset, recorded_at)
);
CREATE INDEX unmatched_record_retry ON relay.unmatched_record (topic, retry_until)
    WHERE retry_until IS NOT NULL;
CREATE INDEX unmatched_record_seen_at ON relay.unmatched_record USING brin (seen_at);

-- Every few seconds: which transactions had ended at a place of the WAL, so that a replication slot's
-- confirmed_flush_lsn says something about rows. What `seen` shows was committed before `lsn`.
CREATE TABLE relay.wal_mark (
    taken_at timestamptz PRIMARY KEY DEFAULT clock_timestamp(),
    lsn      pg_lsn      NOT NULL,
    seen     pg_snapshot NOT NULL
);
CREATE INDEX wal_mark_lsn ON relay.wal_mark (lsn);

GRANT SELECT ON relay.publisher, relay.wal_mark
    TO relay_publisher, relay_confirmer, relay_operator, relay_observer;
GRANT SELECT ON relay.unmatched_record
    TO relay_publisher, relay_confirmer, relay_operator, relay_observer;

-- The witness works as the relay does: its leader keeps the checkpoint, and sends what is replayed.
GRANT UPDATE (kind, changed_at, changed_by, slot, connector, witness_group, connector_state, seen_at)
    ON relay.publisher TO relay_publisher;
GRANT INSERT (topic, partition, record_offset, topic_id, event_id, record_key, recorded_at, reason,
              retry_until), DELETE, UPDATE (retry_until)
    ON relay.unmatched_record TO relay_publisher;
GRANT INSERT (lsn, seen), DELETE ON relay.wal_mark TO relay_publisher;
GRANT INSERT (consumer_group, topic, partition, next_offset, topic_id, owner),
      UPDATE (next_offset, topic_id, last_record_offset, last_record, owner, updated_at)
    ON relay.consumer_offset TO relay_publisher;
GRANT INSERT (consumer_group, topic, partition, from_offset, to_offset, missed_count, reason),
      UPDATE (to_offset, missed_count, noticed_at)
    ON relay.offset_gap TO relay_publisher;
