-- Everything of the relay's own, in the schema `relay`, so that it can stand beside any order
-- service's tables. Applied by `relay migrate`, in one transaction, under an advisory lock.
-- PostgreSQL 13 or newer (pg_current_xact_id, pg_snapshot).

CREATE SCHEMA relay;

-- One row: what this installation is, and since when its orders are watched.
CREATE TABLE relay.installation (
    only_row       boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    kind           text        NOT NULL CHECK (kind IN ('sample', 'production')),
    watched_since  timestamptz NOT NULL DEFAULT clock_timestamp(),
    schema_version int         NOT NULL
);

-- Which of these files are in: an applied one is never edited.
CREATE TABLE relay.migration (
    series     text        NOT NULL CHECK (series IN ('relay', 'sample')),
    version    int         NOT NULL,
    name       text        NOT NULL,
    sha256     text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    by         text        NOT NULL DEFAULT session_user,
    PRIMARY KEY (series, version)
);

-- ---------------------------------------------------------------------------------- hop 1: place

-- Written by the order service, in the transaction of its order. Append-only: no row is ever
-- updated or deleted to mark it; history leaves by dropping partitions.
-- txid stands before id so that a row's transaction has its number before the row draws its id.
-- The identity must keep CACHE 1: a larger cache hands blocks of ids to sessions, and an order's
-- later event could then carry the smaller id (`relay check` looks).
CREATE TABLE relay.outbox (
    txid              xid8        NOT NULL DEFAULT pg_current_xact_id(),
    id                bigint      NOT NULL GENERATED ALWAYS AS IDENTITY (CACHE 1),
    event_id          uuid        NOT NULL DEFAULT gen_random_uuid(),
    aggregate_type    text        NOT NULL,
    aggregate_id      text        NOT NULL,
    aggregate_version int,
    event_type        text        NOT NULL,
    payload           json        NOT NULL,
    headers           json,
    traceparent       text,
    tracestate        text,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);

CREATE INDEX outbox_txid_id ON relay.outbox (txid, id);          -- the snapshot window
CREATE INDEX outbox_aggregate ON relay.outbox (aggregate_id);    -- diagnose ORDER
CREATE INDEX outbox_event ON relay.outbox (event_id);            -- diagnose --event, reconcile

-- A missing day must never fail an order.
CREATE TABLE relay.outbox_default PARTITION OF relay.outbox DEFAULT;

-- uuidv7 keeps the index on event_id local to its end; it exists since PostgreSQL 18.
DO $$
BEGIN
    IF current_setting('server_version_num')::int >= 180000 THEN
        ALTER TABLE relay.outbox ALTER COLUMN event_id SET DEFAULT uuidv7();
    END IF;
END $$;

-- Rows of dropped partitions that must stay: parked, or of orders still unreturned.
CREATE TABLE relay.kept (
    LIKE relay.outbox,
    kept_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    why     text        NOT NULL,
    PRIMARY KEY (id)
);
CREATE INDEX kept_aggregate ON relay.kept (aggregate_id);
CREATE INDEX kept_event ON relay.kept (event_id);

-- What left with a dropped partition and can no longer be replayed, by range.
CREATE TABLE relay.dropped_partition (
    partition_name text        PRIMARY KEY,
    from_at        timestamptz NOT NULL,
    to_at          timestamptz NOT NULL,
    id_range       int8range,
    row_count      bigint      NOT NULL,
    kept_count     bigint      NOT NULL DEFAULT 0,
    dropped_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- -------------------------------------------------------------------------------- hop 2: publish

-- prev: every row visible in it has been handed over. cur: the window being paged, with the last id
-- handed over of it; both NULL between windows. (epoch, seq) guard every write.
CREATE TABLE relay.checkpoint (
    shard             int         PRIMARY KEY,
    prev              pg_snapshot NOT NULL,
    cur               pg_snapshot,
    last_id           bigint,
    high_id           bigint      NOT NULL DEFAULT -9223372036854775808,  -- highest handed over: a hint
    epoch             bigint      NOT NULL DEFAULT 0,
    seq               bigint      NOT NULL DEFAULT 0,
    system_identifier bigint,                          -- where it was written: the cluster,
    home              text,                            -- the database and this table in it (oids),
    timeline          text,                            -- and how often the cluster was promoted
    updated_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((cur IS NULL) = (last_id IS NULL))
);
-- From here the first row ever written is read.
INSERT INTO relay.checkpoint (shard, prev) VALUES (0, '3:3:');

-- Who is the active one: the relay of a shard (duty 'relay'), the watchdog (duty 'watchdog').
-- Lease time is clock_timestamp() of this database.
CREATE TABLE relay.lease (
    duty        text        NOT NULL,
    shard       int         NOT NULL DEFAULT 0,
    owner       text,
    epoch       bigint      NOT NULL DEFAULT 0,
    backend_pid int,
    acquired_at timestamptz,
    expires_at  timestamptz,
    released_at timestamptz,
    PRIMARY KEY (duty, shard)
);
INSERT INTO relay.lease (duty) VALUES ('relay'), ('watchdog'), ('maintenance');

-- One row per (batch, partition): the exact offset of every event published.
-- base_offset NULL: the broker said "duplicate" and so gave no valid offset.
CREATE TABLE relay.delivery_ledger (
    ledger_id    bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    shard        int         NOT NULL DEFAULT 0,
    epoch        bigint      NOT NULL,
    topic        text        NOT NULL,
    partition    int         NOT NULL,
    base_offset  bigint,
    record_count int         NOT NULL CHECK (record_count > 0),
    outbox_ids   bigint[]    NOT NULL,                 -- in record order
    id_range     int8range   NOT NULL,
    replay_id    uuid,
    published_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (cardinality(outbox_ids) = record_count)
);
-- Ids are not compressed: that costs a tenth of what PostgreSQL does for a published event.
ALTER TABLE relay.delivery_ledger SET (toast_tuple_target = 8160);
ALTER TABLE relay.delivery_ledger ALTER outbox_ids SET STORAGE EXTERNAL;
CREATE INDEX delivery_ledger_id_range ON relay.delivery_ledger USING gist (id_range);
CREATE INDEX delivery_ledger_position ON relay.delivery_ledger (topic, partition, base_offset);
CREATE INDEX delivery_ledger_published_at ON relay.delivery_ledger USING brin (published_at);

-- What cannot be sent or applied, and waits for a person. An order with a held event is parked:
-- its later events wait here too.
CREATE TABLE relay.quarantine (
    quarantine_id  bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    kind           text        NOT NULL CHECK (kind IN ('event', 'return')),
    reason         text        NOT NULL,               -- from a closed list in the code
    detail         text,
    aggregate_id   text,                               -- the order, when known
    event_id       text,
    outbox_id      bigint,                             -- kind 'event'
    consumer_group text,                               -- kind 'return'
    topic          text,
    partition      int,
    record_offset  bigint,
    record_key     bytea,
    record_value   bytea,
    record_headers jsonb,                              -- [[name, base64], ...]
    traceparent    text,
    first_seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_count     int         NOT NULL DEFAULT 1,
    state          text        NOT NULL DEFAULT 'held'
                               CHECK (state IN ('held', 'release_requested', 'released', 'discarded')),
    resolved_at    timestamptz,
    resolved_by    text,
    resolved_why   text
);
CREATE UNIQUE INDEX quarantine_outbox_row ON relay.quarantine (outbox_id) WHERE kind = 'event';
-- With the bytes: a topic that is made anew has other records at the same offsets.
CREATE UNIQUE INDEX quarantine_record
    ON relay.quarantine (consumer_group, topic, partition, record_offset,
                         md5(coalesce(record_value, ''))) WHERE kind = 'return';
CREATE INDEX quarantine_to_release ON relay.quarantine (kind, consumer_group, quarantine_id)
    WHERE state = 'release_requested';
CREATE INDEX quarantine_open ON relay.quarantine (aggregate_id, outbox_id)
    WHERE state IN ('held', 'release_requested');
CREATE INDEX quarantine_aggregate ON relay.quarantine (aggregate_id);

-- -------------------------------------------------------------------------------- hop 5: confirm

-- One row per return that took part in a decision. event_id is the return's identity as text:
-- 'source/id', or 'topic-partition-offset' when it has none or the same one with other content.
CREATE TABLE relay.inbox (
    event_id       text        PRIMARY KEY,
    aggregate_id   text        NOT NULL,
    causation_id   text,                               -- ce_causationid: the event it answers
    status         text        NOT NULL,               -- as the return says
    old_status     text,
    new_status     text,
    outcome        text        NOT NULL,               -- applied | no_change | observed | ...
    reason         text,
    content_hash   bytea       NOT NULL,
    consumer_group text        NOT NULL,
    topic          text        NOT NULL,
    partition      int         NOT NULL,
    record_offset  bigint      NOT NULL,
    recorded_at    timestamptz NOT NULL,               -- the record's own timestamp
    traceparent    text,
    received_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX inbox_aggregate ON relay.inbox (aggregate_id);
CREATE INDEX inbox_received_at ON relay.inbox USING brin (received_at);

-- The database's offset rules; Kafka's committed offset is for lag tools only.
CREATE TABLE relay.consumer_offset (
    consumer_group text        NOT NULL,
    topic          text        NOT NULL,
    partition      int         NOT NULL,
    next_offset    bigint      NOT NULL,
    topic_id       text,                               -- Kafka's own id of the topic
    last_record_offset bigint,                         -- of the last record handled ...
    last_record    bytea,                              -- ... and its hash: is it still the same log?
    owner          text,
    updated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer_group, topic, partition)
);

-- Records that this consumer could not see: never a silent reset.
CREATE TABLE relay.offset_gap (
    gap_id         bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    consumer_group text        NOT NULL,
    topic          text        NOT NULL,
    partition      int         NOT NULL,
    from_offset    bigint      NOT NULL,               -- first not seen
    to_offset      bigint      NOT NULL,               -- first seen again
    missed_count   bigint      NOT NULL,               -- 0: how many they were is unknown
    reason         text        NOT NULL,               -- out_of_range | topic_recreated |
                                                       -- log_truncated | not_readable
    noticed_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- Offsets that hold nothing to read (transaction markers) are one growing row for each session.
CREATE UNIQUE INDEX offset_gap_not_readable
    ON relay.offset_gap (consumer_group, topic, partition, from_offset)
    WHERE reason = 'not_readable';

-- Returns of orders that somebody else holds a lock on, retried in the order they came.
CREATE TABLE relay.pending_return (
    pending_id     bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    consumer_group text        NOT NULL,
    topic          text        NOT NULL,
    partition      int         NOT NULL,
    record_offset  bigint      NOT NULL,
    aggregate_id   text        NOT NULL,
    record_key     bytea,
    record_value   bytea,
    record_headers jsonb,                              -- [[name, base64], ...]
    recorded_at    timestamptz NOT NULL,
    attempts       int         NOT NULL DEFAULT 0,
    pending_since  timestamptz NOT NULL DEFAULT clock_timestamp(),
    retry_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX pending_return_partition
    ON relay.pending_return (consumer_group, topic, partition, pending_id);
CREATE INDEX pending_return_aggregate ON relay.pending_return (aggregate_id);

-- ------------------------------------------------------- recorded as it happens, for the diagnosis

CREATE TABLE relay.process_record (
    process_id   uuid        PRIMARY KEY,
    kind         text        NOT NULL,                 -- relay | confirm | watchdog | ...
    instance     text        NOT NULL,                 -- host:pid
    version      text        NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    stopped_at   timestamptz,
    stop_reason  text,
    detail       jsonb       NOT NULL DEFAULT '{}'     -- epoch, state, rates: what status shows
);
CREATE INDEX process_record_heartbeat ON relay.process_record (kind, heartbeat_at);

CREATE TABLE relay.outage_record (
    outage_id  bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    process_id uuid        NOT NULL,
    kind       text        NOT NULL,                   -- the process's kind
    resource   text        NOT NULL CHECK (resource IN ('database', 'broker')),
    from_at    timestamptz NOT NULL,
    to_at      timestamptz,
    error      text        NOT NULL,
    UNIQUE (process_id, resource, from_at)
);
CREATE INDEX outage_record_from_at ON relay.outage_record (from_at);

-- Every 10 s and on change: log end, committed offset and members, per topic, partition, group.
CREATE TABLE relay.position (
    position_id      bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    taken_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    topic            text        NOT NULL,
    partition        int         NOT NULL,
    consumer_group   text        NOT NULL DEFAULT '',  -- '' : the log itself
    log_start        bigint,
    log_end          bigint,
    committed_offset bigint,
    members          int,
    group_state      text,
    shrank           boolean     NOT NULL DEFAULT false  -- the log ended before where it had ended
);
CREATE INDEX position_series ON relay.position (topic, consumer_group, partition, taken_at);
CREATE INDEX position_shrank ON relay.position (topic, taken_at) WHERE shrank;
CREATE INDEX position_taken_at ON relay.position USING brin (taken_at);

-- One row per overdue event.
CREATE TABLE relay.overdue (
    event_id     text        PRIMARY KEY,
    aggregate_id text        NOT NULL,
    event_type   text        NOT NULL,
    placed_at    timestamptz NOT NULL,
    deadline_at  timestamptz NOT NULL,
    hop          text        NOT NULL,
    verdict      text        NOT NULL,
    cause        text        NOT NULL,
    incident_id  bigint,
    evidence     jsonb       NOT NULL DEFAULT '[]',
    opened_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    diagnosed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reported_at  timestamptz,                          -- its `return overdue` span was exported
    reported_as  text,                                 -- the verdict in that span
    outbox_id    bigint,                               -- of the event
    traceparent  text,                                 -- of the event
    closed_at    timestamptz,
    closed_as    text,                                 -- returned | closed
    closed_by    text,
    closed_why   text
);
CREATE INDEX overdue_aggregate ON relay.overdue (aggregate_id);
CREATE INDEX overdue_open ON relay.overdue (placed_at) WHERE closed_at IS NULL;
CREATE INDEX overdue_incident ON relay.overdue (incident_id, placed_at);
CREATE INDEX overdue_stale ON relay.overdue (diagnosed_at) WHERE closed_at IS NULL;

CREATE TABLE relay.incident (
    incident_id bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    hop         text        NOT NULL,
    verdict     text        NOT NULL,
    cause       text        NOT NULL,
    from_at     timestamptz NOT NULL,
    to_at       timestamptz NOT NULL,
    order_count int         NOT NULL DEFAULT 0,
    story       jsonb       NOT NULL DEFAULT '{}',
    opened_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    alerted_count int       NOT NULL DEFAULT 0,        -- order_count at the last alert
    closed_at   timestamptz,
    closed_by   text,
    closed_why  text
);

-- How far each duty of maintenance has come, so that no run reads the whole history again.
CREATE TABLE relay.maintenance (
    duty       text        PRIMARY KEY,
    done_until timestamptz,
    ran_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    report     jsonb       NOT NULL DEFAULT '{}'
);

CREATE TABLE relay.check_run (
    check_run_id bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    run_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_by       text        NOT NULL DEFAULT session_user,
    healthy      boolean     NOT NULL,
    results      jsonb       NOT NULL
);

-- Canaries. aggregate_id stands where an order's id would; the positions are its record's and its
-- return's, so that neither is counted as an order's.
CREATE TABLE relay.probe_run (
    probe_id          uuid        PRIMARY KEY,
    run_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    aggregate_id      text        NOT NULL,
    through_processor boolean     NOT NULL DEFAULT false,
    ok                boolean,
    failed_hop        text,
    timings           jsonb       NOT NULL DEFAULT '{}',
    topic             text,
    partition         int,
    record_offset     bigint,
    return_partition  int,
    return_offset     bigint
);
CREATE INDEX probe_run_aggregate ON relay.probe_run (aggregate_id);
CREATE INDEX probe_run_at ON relay.probe_run (run_at);

-- What is to be published again. Made as a plan, of which nothing is sent before somebody runs it.
-- Items have positions, from 0: `released_count` of them may be sent by now, `sent_count` were
-- (or were refused), and that one moves in the statement that moves the checkpoint.
CREATE TABLE relay.replay_job (
    replay_id      uuid        PRIMARY KEY,
    planned_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    planned_by     text        NOT NULL DEFAULT session_user,
    selection      jsonb       NOT NULL,
    plan           jsonb       NOT NULL,
    target_topic   text,                               -- NULL: where the event belongs
    item_count     bigint      NOT NULL DEFAULT 0,
    state          text        NOT NULL DEFAULT 'planned'
                               CHECK (state IN ('planned', 'running', 'paused', 'cancelled', 'sent',
                                                'done')),
    released_count bigint      NOT NULL DEFAULT 0,
    sent_count     bigint      NOT NULL DEFAULT 0,
    reason         text,
    run_by         text,
    trouble        text,                               -- why it was paused, unless by a person
    started_at     timestamptz,
    finished_at    timestamptz,
    progress       jsonb       NOT NULL DEFAULT '{}',
    CHECK (sent_count <= item_count AND released_count <= item_count)
);
CREATE INDEX replay_job_running ON relay.replay_job (started_at) WHERE state = 'running';

-- Its items, 1,000 to a row: ten million of them are planned in seconds.
CREATE TABLE relay.replay_part (
    replay_id  uuid     NOT NULL REFERENCES relay.replay_job ON DELETE CASCADE,
    number     int      NOT NULL,
    outbox_ids bigint[] NOT NULL,                      -- positions number * 1000 and on
    PRIMARY KEY (replay_id, number)
);
-- To compress ten million ids takes twice as long as to find them.
ALTER TABLE relay.replay_part ALTER outbox_ids SET STORAGE EXTERNAL;

-- Items that could not be sent.
CREATE TABLE relay.replay_refused (
    replay_id  uuid        NOT NULL REFERENCES relay.replay_job ON DELETE CASCADE,
    outbox_id  bigint      NOT NULL,
    reason     text        NOT NULL,                   -- from a closed list in the code
    refused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (replay_id, outbox_id)
);

CREATE TABLE relay.audit_log (
    audit_id bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    login    text        NOT NULL DEFAULT session_user,   -- at and login: nobody may write them
    who      text        NOT NULL DEFAULT session_user,   -- as the person calls himself
    action   text        NOT NULL,
    subject  text,
    why      text,
    result   text        NOT NULL DEFAULT 'done',
    detail   jsonb       NOT NULL DEFAULT '{}'
);
