-- What a login may store is narrowed to what its program writes, and what a person decides is noted by
-- the database itself, whichever program he decides it with.
--
-- Words from closed lists of the code (hop, verdict, cause, reason) are not compared with those lists
-- here: a newer program, beside this schema for the length of a roll-out, writes words that are not in
-- them yet. They are held to letters and a length; whoever reads them expects unknown ones.

SET LOCAL ROLE relay_owner;
-- An order's INSERT queues behind whoever waits for a lock on the outbox: this file gives up instead.
SET LOCAL lock_timeout = '5s';

-- -------------------------------------------------------------------------------------- locks on rows
-- Keys of advisory locks are open to every login of the database; rows of this table to those only who
-- may change it. 'write_missing' and 'observe' are locked for a transaction, 'maintenance' is a lease.
INSERT INTO relay.lease (duty) VALUES ('write_missing'), ('observe') ON CONFLICT DO NOTHING;

-- The backend that conducts a replay.
ALTER TABLE relay.replay_job ADD COLUMN conductor_pid int;

-- Whose rows are whose. A trigger would refuse a change; this refuses to lock a row for long, too, which
-- would stop whoever must change it.
ALTER TABLE relay.lease ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON relay.lease FOR SELECT USING (true);
CREATE POLICY change ON relay.lease FOR UPDATE USING (
    CASE duty WHEN 'relay' THEN pg_has_role('relay_publisher', 'USAGE')
                                OR pg_has_role('relay_operator', 'USAGE')
              WHEN 'maintenance' THEN pg_has_role('relay_publisher', 'USAGE')
              ELSE true END);
ALTER TABLE relay.quarantine ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON relay.quarantine FOR SELECT USING (true);
CREATE POLICY add ON relay.quarantine FOR INSERT WITH CHECK (
    pg_has_role(CASE kind WHEN 'event' THEN 'relay_publisher' ELSE 'relay_confirmer' END, 'USAGE')
    OR (kind = 'event' AND pg_has_role('relay_operator', 'USAGE')));
CREATE POLICY change ON relay.quarantine FOR UPDATE USING (
    pg_has_role(CASE kind WHEN 'event' THEN 'relay_publisher' ELSE 'relay_confirmer' END, 'USAGE')
    OR pg_has_role('relay_operator', 'USAGE'));
ALTER TABLE relay.maintenance ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON relay.maintenance FOR SELECT USING (true);
CREATE POLICY add ON relay.maintenance FOR INSERT WITH CHECK (
    duty LIKE 'watchdog%' OR pg_has_role('relay_publisher', 'USAGE'));
CREATE POLICY change ON relay.maintenance FOR UPDATE USING (
    duty LIKE 'watchdog%' OR pg_has_role('relay_publisher', 'USAGE'));

-- ------------------------------------------------------------------------------------------ the lease

CREATE FUNCTION relay.guard_lease() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    publishes boolean := pg_has_role(current_user, 'relay_publisher', 'USAGE');
    refused   text;
BEGIN
    IF pg_has_role(current_user, 'relay_owner', 'USAGE') THEN
        RETURN NEW;
    END IF;
    refused := CASE
        WHEN (NEW.duty, NEW.shard) IS DISTINCT FROM (OLD.duty, OLD.shard) THEN 'a lease keeps its duty'
        WHEN NEW.expires_at > clock_timestamp() + interval '1 hour'
            THEN 'a lease ends within the hour, unless it is renewed'
        WHEN NEW.epoch NOT IN (OLD.epoch, OLD.epoch + 1) THEN 'an epoch is one more than the last'
        WHEN NEW.epoch > OLD.epoch AND NEW.backend_pid IS DISTINCT FROM pg_backend_pid()
            THEN 'a lease is taken for one''s own connection'
        WHEN NEW.epoch > OLD.epoch AND OLD.owner IS NOT NULL AND NEW.owner IS DISTINCT FROM OLD.owner
             AND OLD.released_at IS NULL AND OLD.expires_at >= clock_timestamp()
             AND OLD.expires_at <= clock_timestamp() + interval '1 hour'
            THEN 'another process holds this lease'
        WHEN NEW.epoch = OLD.epoch AND OLD.duty = 'relay' AND NOT publishes
             AND OLD.backend_pid IS DISTINCT FROM pg_backend_pid()
            THEN 'the lease of the relay was taken by another connection'
    END;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION '%', refused USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON relay.lease
    FOR EACH ROW EXECUTE FUNCTION relay.guard_lease();

-- ------------------------------------------------------------------------------------- the checkpoint

-- Moved by the connection that took the relay's lease, by one, to what this server has reached. The
-- takeover itself (a new epoch) moves nothing.
CREATE FUNCTION relay.guard_checkpoint() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    reached xid8 := pg_snapshot_xmax(pg_current_snapshot());
BEGIN
    IF pg_has_role(current_user, 'relay_owner', 'USAGE') THEN
        RETURN NEW;
    END IF;
    IF NEW.shard <> OLD.shard OR NEW.seq NOT IN (OLD.seq, OLD.seq + 1)
       OR (NEW.seq = OLD.seq
           AND (NEW.prev::text, NEW.cur::text, NEW.last_id)
               IS DISTINCT FROM (OLD.prev::text, OLD.cur::text, OLD.last_id))
       OR (NEW.seq > OLD.seq AND (pg_snapshot_xmax(NEW.prev) > reached
                                  OR pg_snapshot_xmax(NEW.cur) > reached)) THEN
        RAISE EXCEPTION 'a checkpoint moves by one, to what this server has reached'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM FROM relay.lease
      WHERE duty = 'relay' AND shard = NEW.shard AND epoch = NEW.epoch
        AND backend_pid = pg_backend_pid() AND released_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'a checkpoint is moved by the connection that took the lease of the relay'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON relay.checkpoint
    FOR EACH ROW EXECUTE FUNCTION relay.guard_checkpoint();

-- An operator publishes where no relay runs, under the same lease.
CREATE FUNCTION relay.guard_ledger() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM relay.lease WHERE duty = 'relay' AND released_at IS NULL
                      AND backend_pid = pg_backend_pid()) THEN
        RAISE EXCEPTION 'proof of publication is written by whoever took the lease of the relay'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON relay.delivery_ledger FOR EACH STATEMENT
    WHEN (NOT pg_has_role('relay_publisher', 'USAGE')) EXECUTE FUNCTION relay.guard_ledger();

-- ------------------------------------------------------------------------------------- the quarantine

CREATE FUNCTION relay.last_outbox_id() RETURNS bigint LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$ SELECT last_value FROM relay.outbox_id_seq $$;

CREATE FUNCTION relay.guard_quarantine() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    publishes boolean := pg_has_role(current_user, 'relay_publisher', 'USAGE');
    confirms  boolean := pg_has_role(current_user, 'relay_confirmer', 'USAGE');
    operates  boolean := pg_has_role(current_user, 'relay_operator', 'USAGE');
    refused   text;
BEGIN
    IF pg_has_role(current_user, 'relay_owner', 'USAGE') THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'INSERT' THEN
        refused := CASE
            WHEN NEW.state <> 'held' THEN 'what enters quarantine is held'
            WHEN NEW.outbox_id > relay.last_outbox_id() THEN 'no event has that outbox_id'
        END;
    ELSIF NEW.state = OLD.state THEN
        IF NOT (publishes OR confirms) AND (NEW.resolved_at, NEW.resolved_by, NEW.resolved_why)
                IS DISTINCT FROM (OLD.resolved_at, OLD.resolved_by, OLD.resolved_why) THEN
            refused := 'what was decided stays as it was decided';
        END IF;
    ELSE
        refused := CASE NEW.state
            -- The relay lets go of what is past all retention, and of what waited behind an event.
            WHEN 'discarded' THEN
                CASE WHEN NOT operates AND NOT (publishes AND OLD.state = 'release_requested')
                     THEN 'to discard is relay_operator''s' END
            WHEN 'release_requested' THEN
                CASE WHEN NOT operates AND NOT (publishes AND OLD.state = 'held'
                                                AND OLD.reason = 'order_parked')
                     THEN 'to release is relay_operator''s' END
            WHEN 'released' THEN
                CASE WHEN OLD.state <> 'release_requested'
                     THEN 'nobody asked for its release' END
            WHEN 'held' THEN
                CASE WHEN NOT (publishes OR confirms) AND OLD.state <> 'release_requested'
                     THEN 'what was decided is not taken back' END
        END;
    END IF;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION '%', refused USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON relay.quarantine
    FOR EACH ROW EXECUTE FUNCTION relay.guard_quarantine();

-- ------------------------------------------------------------------- cases, incidents, upkeep, replays

ALTER TABLE relay.overdue ADD CONSTRAINT overdue_words
    CHECK (hop ~ '^(-|[a-z_]{1,60})$' AND verdict ~ '^[a-z_]{1,60}$' AND cause ~ '^[a-z_]{1,60}$')
    NOT VALID;
ALTER TABLE relay.incident ADD CONSTRAINT incident_words
    CHECK (hop ~ '^(-|[a-z_]{1,60})$' AND verdict ~ '^[a-z_]{1,60}$' AND cause ~ '^[a-z_]{1,60}$')
    NOT VALID;

CREATE FUNCTION relay.guard_decision() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF pg_has_role(current_user, 'relay_operator', 'USAGE')
       OR pg_has_role(current_user, 'relay_owner', 'USAGE') THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER guard_insert BEFORE INSERT ON relay.overdue FOR EACH ROW
    WHEN (NEW.closed_as = 'closed')
    EXECUTE FUNCTION relay.guard_decision('to close a case is relay_operator''s');
CREATE TRIGGER guard_update BEFORE UPDATE ON relay.overdue FOR EACH ROW
    WHEN ((NEW.closed_as = 'closed' OR OLD.closed_as = 'closed')
          AND (NEW.closed_as, NEW.closed_at, NEW.closed_by, NEW.closed_why)
              IS DISTINCT FROM (OLD.closed_as, OLD.closed_at, OLD.closed_by, OLD.closed_why))
    EXECUTE FUNCTION relay.guard_decision('to close a case is relay_operator''s');
CREATE TRIGGER guard_insert BEFORE INSERT ON relay.incident FOR EACH ROW
    WHEN (NEW.closed_by NOT IN ('watchdog', 'joined'))
    EXECUTE FUNCTION relay.guard_decision('to close an incident is relay_operator''s');
CREATE TRIGGER guard_update BEFORE UPDATE ON relay.incident FOR EACH ROW
    WHEN ((NEW.closed_by NOT IN ('watchdog', 'joined') OR OLD.closed_by NOT IN ('watchdog', 'joined'))
          AND (NEW.closed_at, NEW.closed_by, NEW.closed_why)
              IS DISTINCT FROM (OLD.closed_at, OLD.closed_by, OLD.closed_why))
    EXECUTE FUNCTION relay.guard_decision('to close an incident is relay_operator''s');

-- The relay pauses a replay that cannot go on; everything else about it is decided by people.
CREATE TRIGGER guard_update BEFORE UPDATE ON relay.replay_job FOR EACH ROW
    WHEN (NEW.state <> OLD.state AND NOT (OLD.state = 'running' AND NEW.state = 'paused'))
    EXECUTE FUNCTION relay.guard_decision('to run a replay is relay_operator''s');

-- How far upkeep has come is never ahead of the clock: what lies before it is not looked at again.
CREATE FUNCTION relay.guard_maintenance() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF pg_has_role(current_user, 'relay_owner', 'USAGE') THEN
        RETURN NEW;
    END IF;
    IF greatest(NEW.done_until, NEW.ran_at) > clock_timestamp() + interval '1 minute' THEN
        RAISE EXCEPTION 'how far upkeep has come is never ahead of now'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON relay.maintenance
    FOR EACH ROW EXECUTE FUNCTION relay.guard_maintenance();

-- --------------------------------------------------------------------------- grants, column by column

-- By their own columns' names, because who may change a whole table may lock it, too, and so stop all
-- others. And a sequence's numbers are given out by the sequence: a row with a number of somebody's choice would
-- stand in the way of the next: INSERT is granted on every column but the identity. A later column
-- needs its own grants.
DO $$
DECLARE
    granted record;
BEGIN
    FOR granted IN
        SELECT c.oid::regclass AS relation, r.rolname, x.privilege_type AS privilege,
               string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns
          FROM pg_catalog.pg_class c
               CROSS JOIN LATERAL aclexplode(c.relacl) x
               JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
               JOIN pg_catalog.pg_attribute a
                 ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                AND NOT (a.attidentity <> '' AND x.privilege_type = 'INSERT')
         WHERE c.relnamespace = 'relay'::regnamespace AND c.relkind = 'r'
           AND x.privilege_type IN ('INSERT', 'UPDATE')
           AND r.rolname IN ('relay_publisher', 'relay_confirmer', 'relay_operator')
         GROUP BY c.oid, r.rolname, x.privilege_type
    LOOP
        EXECUTE format('REVOKE %s ON %s FROM %I', granted.privilege, granted.relation,
                       granted.rolname);
        EXECUTE format('GRANT %s (%s) ON %s TO %I', granted.privilege, granted.columns,
                       granted.relation, granted.rolname);
    END LOOP;
END $$;

-- How many orders went to DEFAULT is counted by `relay check`; an id and a number tell nobody anything.
GRANT SELECT (id, txid) ON relay.outbox_default
    TO relay_publisher, relay_confirmer, relay_operator, relay_observer;

-- What was refused stays as it was; what became of it is noted. A replay's plan is its maker's.
REVOKE UPDATE ON relay.quarantine, relay.replay_job FROM relay_publisher, relay_confirmer;
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['relay_publisher', 'relay_confirmer'] LOOP
        EXECUTE (SELECT format('REVOKE UPDATE (%s) ON relay.quarantine FROM %I',
                               string_agg(quote_ident(attname), ', '), role_name)
                   FROM pg_catalog.pg_attribute
                  WHERE attrelid = 'relay.quarantine'::regclass AND attnum > 0
                    AND NOT attisdropped);
    END LOOP;
    EXECUTE (SELECT format('REVOKE UPDATE (%s) ON relay.replay_job FROM relay_publisher',
                           string_agg(quote_ident(attname), ', '))
               FROM pg_catalog.pg_attribute
              WHERE attrelid = 'relay.replay_job'::regclass AND attnum > 0 AND NOT attisdropped);
END $$;
GRANT UPDATE (reason, detail, last_seen_at, seen_count, state, resolved_at, resolved_by, resolved_why,
              aggregate_type)
    ON relay.quarantine TO relay_publisher, relay_confirmer;
GRANT INSERT (aggregate_type), UPDATE (aggregate_type) ON relay.quarantine TO relay_operator;
GRANT UPDATE (sent_count, state, trouble) ON relay.replay_job TO relay_publisher;

-- The inbox is the consumer's: who may delete from it may lock it.
CREATE FUNCTION relay.forget_inbox(days int, most int)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    deleted bigint;
BEGIN
    IF days < 1 THEN
        RAISE EXCEPTION 'the inbox is kept for a day at least';
    END IF;
    DELETE FROM relay.inbox WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM relay.inbox
         WHERE received_at < clock_timestamp() - make_interval(days => $1) LIMIT $2));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;
REVOKE DELETE ON relay.inbox FROM relay_publisher;

-- A number that is further than 10^12 beyond what this database itself gave out was never drawn here:
-- a sequence that is set behind it ends one day, and with it every order.
CREATE OR REPLACE FUNCTION relay.move_sequences_on()
RETURNS int LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    drawn      record;
    sequence   text;
    highest    bigint;
    last_drawn bigint;
    beyond     bigint;
    moved      int := 0;
BEGIN
    FOR drawn IN SELECT c.oid::regclass AS relation, a.attname AS name
                   FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                  WHERE c.relnamespace = 'relay'::regnamespace AND c.relkind IN ('r', 'p')
                    AND NOT c.relispartition AND a.attidentity <> ''
    LOOP
        sequence := pg_get_serial_sequence(drawn.relation::text, drawn.name);
        EXECUTE format('SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM %s', sequence)
           INTO last_drawn;
        beyond := least(last_drawn, 9000000000000000000) + 1000000000000;
        EXECUTE format('SELECT max(%1$I) FROM %2$s WHERE %1$I <= $1', drawn.name, drawn.relation)
           INTO highest USING beyond;
        IF drawn.relation = 'relay.outbox'::regclass THEN
            highest := greatest(
                highest,
                (SELECT max(high_id) FROM relay.checkpoint WHERE high_id <= beyond),
                (SELECT max(id) FROM relay.kept WHERE id <= beyond),
                (SELECT max(outbox_id) FROM relay.quarantine WHERE outbox_id <= beyond));
        END IF;
        IF highest > last_drawn THEN
            PERFORM setval(sequence, highest);
            moved := moved + 1;
        END IF;
    END LOOP;
    RETURN moved;
END $$;

-- ------------------------------------------------------------------ transaction numbers after a restore

-- Gives the rows (after, upto] the transaction numbers that belong to `snapshot` as the checkpoint.
-- Behind it (3 is the first transaction of any cluster): what has its proof in the ledger, or its place
-- in quarantine. Ahead of it (this transaction): everything else, which the relay sends. A row counts
-- as published only with a ledger row that is not older than itself: ids are issued again after a
-- restore. Joined ledger rows carry the time of their first record, ten seconds early at most; a replay
-- to another topic is no publication. For whoever took the lease of the relay, as `relay rebaseline`
-- does: an event's row is changed by nothing else.
CREATE FUNCTION relay.renumber_rows(after bigint, upto bigint, topics text[], snapshot pg_snapshot,
                                    OUT behind bigint, OUT ahead bigint)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF NOT EXISTS (SELECT FROM relay.lease WHERE duty = 'relay' AND released_at IS NULL
                      AND backend_pid = pg_backend_pid() AND expires_at > clock_timestamp()) THEN
        RAISE EXCEPTION 'rows are renumbered by whoever holds the lease of the relay'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    WITH proof AS MATERIALIZED (
        SELECT ids.id, max(l.published_at) AS published_at
          FROM relay.delivery_ledger AS l, unnest(l.outbox_ids) AS ids (id)
         WHERE l.id_range && int8range($1, $2, '(]') AND ids.id > $1 AND ids.id <= $2
           AND (l.replay_id IS NULL OR l.topic = ANY ($3))
         GROUP BY ids.id
    ), settled AS MATERIALIZED (
        SELECT outbox_id, event_id FROM relay.quarantine
         WHERE kind = 'event' AND state <> 'released' AND outbox_id > $1 AND outbox_id <= $2
    ), judged AS MATERIALIZED (
        SELECT o.id, o.created_at,
               s.outbox_id IS NOT NULL
               OR coalesce(p.published_at > o.created_at - interval '15 seconds'
                           -- of two rows with one id the proof is the first one's
                           AND o.created_at = min(o.created_at) OVER (PARTITION BY o.id), false)
                 AS is_behind
          FROM relay.outbox AS o
          LEFT JOIN proof AS p ON p.id = o.id
          LEFT JOIN settled AS s ON s.outbox_id = o.id AND s.event_id = o.event_id::text
         WHERE o.id > $1 AND o.id <= $2
    ), changed AS (
        UPDATE relay.outbox AS o
           SET txid = CASE WHEN j.is_behind THEN xid8 '3' ELSE pg_current_xact_id() END
          FROM judged AS j
         WHERE o.id = j.id AND o.created_at = j.created_at
           AND NOT (j.is_behind AND pg_visible_in_snapshot(o.txid, $4))
        RETURNING j.is_behind
    )
    SELECT count(*) FILTER (WHERE is_behind), count(*) FILTER (WHERE NOT is_behind)
      INTO behind, ahead FROM changed;
END $$;
REVOKE UPDATE (txid) ON relay.outbox, relay.kept FROM relay_operator;

-- ---------------------------------------------------------------------------------------- the audit log

-- Who and why are what the program that acts has set for its transaction (relay.audit_who, ...); the
-- login is the server's own word. Without them it was done in SQL, and the row says so.
CREATE FUNCTION relay.write_audit(action text, subject text, result text, detail jsonb)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    told_who    text := nullif(current_setting('relay.audit_who', true), '');
    told_why    text := nullif(current_setting('relay.audit_why', true), '');
    told_result text := nullif(current_setting('relay.audit_result', true), '');
    told_detail text := nullif(current_setting('relay.audit_detail', true), '');
BEGIN
    INSERT INTO relay.audit_log (who, action, subject, why, result, detail)
         VALUES (coalesce(told_who, session_user), action, subject, told_why,
                 coalesce(told_result, result, 'done'),
                 CASE WHEN told_who IS NULL THEN jsonb_build_object('by', 'SQL') ELSE '{}' END
                 || coalesce(told_detail::jsonb, '{}') || detail);
END $$;

-- Decisions about what is held. For a login that is the relay, too, those that the relay takes by itself
-- (it says 'relay') are none.
CREATE FUNCTION relay.audit_quarantine() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    decided record;
BEGIN
    FOR decided IN
        SELECT CASE WHEN n.state = o.state THEN 'quarantine_change'
                    WHEN n.state = 'discarded' THEN 'quarantine_discard'
                    ELSE 'quarantine_release' END AS action,
               CASE WHEN count(*) = count(n.aggregate_id)
                         AND min(n.aggregate_id) = max(n.aggregate_id) THEN min(n.aggregate_id)
                    END AS subject,
               count(*) AS rows,
               (array_agg(n.quarantine_id ORDER BY n.quarantine_id))[1:1000] AS ids
          FROM new_rows AS n JOIN old_rows AS o USING (quarantine_id)
         WHERE ((n.state <> o.state AND n.state IN ('discarded', 'release_requested'))
                OR (TG_ARGV[0] = 'operator' AND n.state = o.state
                    AND (n.reason, n.detail) IS DISTINCT FROM (o.reason, o.detail)))
           AND NOT (TG_ARGV[0] = 'relay' AND n.kind = 'event' AND n.resolved_by = 'relay')
         GROUP BY 1
    LOOP
        PERFORM relay.write_audit(decided.action, decided.subject, NULL,
                                  jsonb_build_object('count', decided.rows, 'ids', decided.ids));
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER audit_relay AFTER UPDATE ON relay.quarantine
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT
    WHEN (pg_has_role('relay_operator', 'USAGE') AND pg_has_role('relay_publisher', 'USAGE'))
    EXECUTE FUNCTION relay.audit_quarantine('relay');
CREATE TRIGGER audit_operator AFTER UPDATE ON relay.quarantine
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT
    WHEN (pg_has_role('relay_operator', 'USAGE') AND NOT pg_has_role('relay_publisher', 'USAGE'))
    EXECUTE FUNCTION relay.audit_quarantine('operator');

-- Cases and incidents closed by hand, or opened again. The cases of an incident that is closed by hand
-- go with it, in its row.
CREATE FUNCTION relay.audit_case() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW.closed_as = 'closed' AND EXISTS (
        SELECT FROM relay.incident AS i
         WHERE i.incident_id = NEW.incident_id AND i.closed_by = NEW.closed_by
           AND i.closed_why IS NOT DISTINCT FROM NEW.closed_why AND i.closed_at >= now()
    ) THEN
        RETURN NULL;
    END IF;
    PERFORM relay.write_audit(CASE WHEN NEW.closed_as = 'closed' THEN 'close' ELSE 'reopen' END,
                              NEW.aggregate_id, NULL,
                              jsonb_build_object('event', NEW.event_id, 'closed_by', NEW.closed_by));
    RETURN NULL;
END $$;
CREATE TRIGGER audit_insert AFTER INSERT ON relay.overdue FOR EACH ROW
    WHEN (NEW.closed_as = 'closed') EXECUTE FUNCTION relay.audit_case();
CREATE TRIGGER audit_update AFTER UPDATE ON relay.overdue FOR EACH ROW
    WHEN ((NEW.closed_as = 'closed' OR OLD.closed_as = 'closed')
          AND (NEW.closed_as, NEW.closed_at, NEW.closed_by, NEW.closed_why)
              IS DISTINCT FROM (OLD.closed_as, OLD.closed_at, OLD.closed_by, OLD.closed_why))
    EXECUTE FUNCTION relay.audit_case();

CREATE FUNCTION relay.audit_incident() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM relay.write_audit(
        CASE WHEN NEW.closed_by NOT IN ('watchdog', 'joined') THEN 'close' ELSE 'reopen' END,
        'I-' || NEW.incident_id, NULL,
        jsonb_build_object('closed_by', NEW.closed_by, 'orders',
                           (SELECT count(*) FROM relay.overdue
                             WHERE incident_id = NEW.incident_id AND closed_at IS NULL)));
    RETURN NULL;
END $$;
CREATE TRIGGER audit_insert AFTER INSERT ON relay.incident FOR EACH ROW
    WHEN (NEW.closed_by NOT IN ('watchdog', 'joined')) EXECUTE FUNCTION relay.audit_incident();
CREATE TRIGGER audit_update AFTER UPDATE ON relay.incident FOR EACH ROW
    WHEN ((NEW.closed_by NOT IN ('watchdog', 'joined') OR OLD.closed_by NOT IN ('watchdog', 'joined'))
          AND (NEW.closed_at, NEW.closed_by, NEW.closed_why)
              IS DISTINCT FROM (OLD.closed_at, OLD.closed_by, OLD.closed_why))
    EXECUTE FUNCTION relay.audit_incident();

-- Replays: planned (the first time there is something to send or to do), and every move that a person
-- makes. `sent` is no decision, and a pause by the relay is told by its `trouble`.
CREATE FUNCTION relay.audit_replay() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    before text := CASE WHEN TG_OP = 'UPDATE' THEN OLD.state END;
BEGIN
    IF NEW.state = 'planned' THEN
        PERFORM relay.write_audit(
            'replay_planned', NEW.replay_id::text, format('%s events, nothing sent', NEW.item_count),
            jsonb_build_object('selection', NEW.selection, 'events', NEW.item_count));
    ELSE
        PERFORM relay.write_audit(
            CASE NEW.state
                WHEN 'running' THEN CASE WHEN coalesce(before, 'planned') = 'planned'
                                         THEN 'replay_started' ELSE 'replay_resumed' END
                WHEN 'paused' THEN 'replay_paused'
                WHEN 'cancelled' THEN 'replay_cancelled'
                ELSE 'replay_finished' END,
            NEW.replay_id::text, NULL,
            jsonb_build_object('sent', NEW.sent_count, 'events', NEW.item_count));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER audit_insert AFTER INSERT ON relay.replay_job FOR EACH ROW
    WHEN (NEW.state <> 'planned' OR NEW.item_count > 0 OR NEW.plan <> '{}')
    EXECUTE FUNCTION relay.audit_replay();
CREATE TRIGGER audit_plan AFTER UPDATE ON relay.replay_job FOR EACH ROW
    WHEN (NEW.state = 'planned' AND (NEW.item_count <> OLD.item_count OR NEW.plan <> OLD.plan))
    EXECUTE FUNCTION relay.audit_replay();
CREATE TRIGGER audit_move AFTER UPDATE OF state ON relay.replay_job FOR EACH ROW
    WHEN (NEW.state NOT IN ('planned', 'sent')
          AND NOT (NEW.state = 'paused' AND pg_has_role('relay_publisher', 'USAGE')
                   AND NEW.trouble IS NOT NULL AND NEW.reason IS NOT DISTINCT FROM OLD.reason
                   AND current_setting('relay.audit_who', true) IS NULL))
    EXECUTE FUNCTION relay.audit_replay();

-- An operator who takes the place of the relay, writes events, or has returns decided once more.
CREATE FUNCTION relay.audit_lease() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM relay.write_audit('lease_taken', 'shard ' || NEW.shard, NULL,
                              jsonb_build_object('owner', NEW.owner, 'epoch', NEW.epoch,
                                                 'before', OLD.owner));
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER UPDATE ON relay.lease FOR EACH ROW
    WHEN (NEW.duty = 'relay' AND NEW.epoch <> OLD.epoch
          AND NOT pg_has_role('relay_publisher', 'USAGE'))
    EXECUTE FUNCTION relay.audit_lease();

CREATE FUNCTION relay.audit_events() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ids bigint[] := ARRAY(SELECT id FROM relay.outbox WHERE txid = pg_current_xact_id()
                           ORDER BY id DESC LIMIT 1000);
BEGIN
    PERFORM relay.write_audit('events_written', NULL, NULL, jsonb_build_object('outbox_ids', ids));
    RETURN NULL;
END $$;
CREATE FUNCTION relay.audit_pending() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM relay.write_audit(
        'returns_given', CASE WHEN count(DISTINCT aggregate_id) = 1 THEN min(aggregate_id) END, NULL,
        jsonb_build_object('count', count(*),
                           'pending_ids', (array_agg(pending_id ORDER BY pending_id))[1:1000]))
       FROM new_rows HAVING count(*) > 0;
    RETURN NULL;
END $$;
CREATE TRIGGER audit AFTER INSERT ON relay.pending_return
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT
    WHEN (NOT pg_has_role('relay_confirmer', 'USAGE')) EXECUTE FUNCTION relay.audit_pending();

REVOKE ALL ON FUNCTION relay.guard_lease(), relay.guard_checkpoint(), relay.guard_ledger(),
                       relay.guard_quarantine(), relay.guard_decision(), relay.guard_maintenance(),
                       relay.last_outbox_id(), relay.forget_inbox(int, int), relay.write_audit(text, text, text, jsonb),
                       relay.renumber_rows(bigint, bigint, text[], pg_snapshot),
                       relay.audit_quarantine(), relay.audit_case(), relay.audit_incident(),
                       relay.audit_replay(), relay.audit_lease(), relay.audit_events(),
                       relay.audit_pending() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION relay.last_outbox_id() TO relay_publisher, relay_confirmer, relay_operator;
GRANT EXECUTE ON FUNCTION relay.forget_inbox(int, int) TO relay_publisher;
GRANT EXECUTE ON FUNCTION relay.renumber_rows(bigint, bigint, text[], pg_snapshot) TO relay_operator;

-- Last, for it waits for the writers that are at work: orders wait behind it.
CREATE TRIGGER audit AFTER INSERT ON relay.outbox FOR EACH STATEMENT
    WHEN (pg_has_role('relay_operator', 'USAGE') AND NOT pg_has_role('relay_writer', 'USAGE'))
    EXECUTE FUNCTION relay.audit_events();
