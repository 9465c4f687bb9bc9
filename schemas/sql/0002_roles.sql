-- Least privilege: one group role (NOLOGIN) for each kind of program. Give them to login roles:
-- GRANT relay_publisher TO my_relay. Roles belong to the whole cluster, so they may be there
-- already, made by another database's migration, perhaps at this very moment.

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['relay_owner', 'relay_writer', 'relay_publisher',
                                     'relay_confirmer', 'relay_operator', 'relay_observer']
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role_name);
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN
                NULL;  -- another database's migration was faster
            WHEN insufficient_privilege THEN
                RAISE EXCEPTION 'role % does not exist, and % may not create it',
                                role_name, current_user
                    USING ERRCODE = 'insufficient_privilege',
                          HINT = 'A superuser runs deploy/roles.sql once for the cluster.';
        END;
    END LOOP;
END $$;

-- The migrator must be able to act as the owner. 'SET' is PostgreSQL 16's word for it: there, who
-- creates a role may administer it, and nothing more.
DO $$
BEGIN
    IF pg_has_role(current_user, 'relay_owner',
                   CASE WHEN current_setting('server_version_num')::int >= 160000
                        THEN 'SET' ELSE 'MEMBER' END) THEN
        RETURN;
    END IF;
    EXECUTE format('GRANT relay_owner TO %I', current_user);
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE EXCEPTION '% is not a member of relay_owner', current_user
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'A superuser runs deploy/roles.sql once for the cluster.';
END $$;

-- Everything in the schema belongs to relay_owner: its functions act for the others.
ALTER SCHEMA relay OWNER TO relay_owner;
DO $$
DECLARE
    relation regclass;
BEGIN
    FOR relation IN SELECT oid FROM pg_catalog.pg_class
                     WHERE relnamespace = 'relay'::regnamespace AND relkind IN ('r', 'p')
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO relay_owner', relation);
    END LOOP;
END $$;

-- From here on as the owner, so that what is made is the owner's.
SET LOCAL ROLE relay_owner;

-- What can be known of an outbox row without its payload.
CREATE VIEW relay.outbox_summary AS
    SELECT id, txid, event_id, aggregate_type, aggregate_id, aggregate_version, event_type,
           octet_length(payload::text) AS payload_bytes, traceparent, tracestate, created_at
      FROM relay.outbox;
CREATE VIEW relay.kept_summary AS
    SELECT id, txid, event_id, aggregate_type, aggregate_id, aggregate_version, event_type,
           octet_length(payload::text) AS payload_bytes, traceparent, tracestate, created_at,
           kept_at, why
      FROM relay.kept;
CREATE VIEW relay.quarantine_summary AS
    SELECT quarantine_id, kind, reason, detail, aggregate_id, event_id, outbox_id, consumer_group,
           topic, partition, record_offset, octet_length(record_value) AS value_bytes, traceparent,
           first_seen_at, last_seen_at, seen_count, state, resolved_at, resolved_by, resolved_why
      FROM relay.quarantine;

GRANT USAGE ON SCHEMA relay
    TO relay_writer, relay_publisher, relay_confirmer, relay_operator, relay_observer;

-- What everybody but the writer reads: nothing here holds a payload.
GRANT SELECT ON relay.installation, relay.migration, relay.dropped_partition, relay.checkpoint,
                relay.lease, relay.delivery_ledger, relay.inbox, relay.consumer_offset,
                relay.offset_gap, relay.process_record, relay.outage_record, relay.position,
                relay.overdue, relay.incident, relay.check_run, relay.probe_run, relay.replay_job,
                relay.replay_part, relay.replay_refused,
                relay.audit_log, relay.maintenance, relay.outbox_summary, relay.kept_summary,
                relay.quarantine_summary
    TO relay_publisher, relay_confirmer, relay_operator, relay_observer;
GRANT SELECT (txid, id, event_id, aggregate_type, aggregate_id, aggregate_version, event_type,
              traceparent, tracestate, created_at)
    ON relay.outbox, relay.kept TO relay_confirmer, relay_observer;

-- What every service writes about itself, and the watchdog that runs inside it.
GRANT INSERT, UPDATE ON relay.process_record, relay.outage_record, relay.overdue, relay.incident
    TO relay_publisher, relay_confirmer, relay_operator;
GRANT INSERT, UPDATE ON relay.maintenance TO relay_publisher, relay_confirmer, relay_operator;
GRANT INSERT ON relay.position TO relay_publisher, relay_confirmer, relay_operator;
GRANT INSERT (who, action, subject, why, result, detail) ON relay.audit_log
    TO relay_publisher, relay_confirmer, relay_operator;
GRANT UPDATE ON relay.lease TO relay_publisher, relay_confirmer, relay_operator;

-- The order service: it appends, and reads back what an ORM's RETURNING asks for. It can neither
-- write txid, id and created_at, nor change or see an event once it is written.
GRANT INSERT (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload,
              headers, traceparent, tracestate), SELECT (id, event_id)
    ON relay.outbox TO relay_writer;

-- The relay. DELETE is retention; partitions are dropped by functions of the owner's only.
GRANT SELECT ON relay.outbox, relay.kept, relay.quarantine, relay.pending_return
    TO relay_publisher;
GRANT UPDATE ON relay.checkpoint, relay.replay_job TO relay_publisher;
GRANT INSERT ON relay.replay_refused TO relay_publisher;
GRANT INSERT, DELETE ON relay.delivery_ledger TO relay_publisher;
GRANT INSERT, UPDATE ON relay.quarantine, relay.maintenance TO relay_publisher;
GRANT DELETE ON relay.inbox, relay.process_record, relay.outage_record, relay.position
    TO relay_publisher;

-- The confirmation consumer. The orders' own columns are granted where the orders are.
GRANT INSERT ON relay.inbox, relay.offset_gap TO relay_confirmer;
GRANT UPDATE (to_offset, missed_count, noticed_at) ON relay.offset_gap TO relay_confirmer;
GRANT INSERT, UPDATE ON relay.consumer_offset TO relay_confirmer;
GRANT SELECT, INSERT, UPDATE ON relay.quarantine TO relay_confirmer;
GRANT SELECT, INSERT, UPDATE, DELETE ON relay.pending_return TO relay_confirmer;

-- The operator: replay, close, quarantine, check, probe, rebaseline; sees payloads.
GRANT SELECT ON relay.outbox, relay.kept, relay.quarantine, relay.pending_return
    TO relay_operator;
GRANT UPDATE (txid) ON relay.outbox, relay.kept TO relay_operator;
GRANT UPDATE ON relay.checkpoint TO relay_operator;
GRANT UPDATE (state, resolved_at, resolved_by, resolved_why) ON relay.quarantine
    TO relay_operator;
-- Canaries, and events that were never written; and what publishing takes where no relay runs:
-- an event of somebody's that cannot be sent is parked by whoever holds the lease.
GRANT INSERT (aggregate_type, aggregate_id, aggregate_version, event_type, payload, headers,
              traceparent, tracestate) ON relay.outbox TO relay_operator;
GRANT INSERT (kind, reason, detail, aggregate_id, event_id, outbox_id, topic, traceparent),
      UPDATE (reason, detail, last_seen_at, seen_count) ON relay.quarantine TO relay_operator;
GRANT INSERT ON relay.pending_return TO relay_operator;  -- returns, to be looked at again
GRANT INSERT ON relay.delivery_ledger, relay.check_run TO relay_operator;
GRANT INSERT, UPDATE ON relay.probe_run, relay.replay_job TO relay_operator;
GRANT INSERT ON relay.replay_part, relay.replay_refused TO relay_operator;
