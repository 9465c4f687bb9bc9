-- Partitions of the outbox, one a day (UTC), made and dropped by the relay's maintenance through
-- functions that the owner owns. An order's INSERT queues behind whoever waits for a strong lock, so
-- nothing here waits longer than lock_timeout: it fails instead (lock_not_available), and the caller
-- tries again later. Callers use READ COMMITTED: what is checked under a lock must be what is there.

SET LOCAL ROLE relay_owner;

-- Moves the rows of one range out of DEFAULT, with their id and txid: readers with an older snapshot
-- see the deleted rows, readers with a newer one the inserted ones, never both or neither.
CREATE FUNCTION relay.move_out_of_default(target text, from_at timestamptz, to_at timestamptz)
RETURNS bigint LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    moved bigint;
BEGIN
    EXECUTE format('WITH gone AS (DELETE FROM relay.outbox_default
                                   WHERE created_at >= $1 AND created_at < $2 RETURNING *)
                    INSERT INTO relay.%I SELECT * FROM gone', target)
      USING from_at, to_at;
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END $$;

-- Whether DEFAULT has grown so large (the relay was away for weeks) that reading it takes longer than
-- an order may wait: about 60,000 rows.
CREATE FUNCTION relay.default_is_large() RETURNS boolean LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$ SELECT pg_relation_size('relay.outbox_default') > 32 * 1024 * 1024 $$;

-- Whether today's orders go to a partition of their own, and not to DEFAULT.
CREATE FUNCTION relay.today_has_partition() RETURNS boolean LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT to_regclass('relay.outbox_p' || to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD'))
           IS NOT NULL
$$;

-- Makes a day's partition; returns how many rows it took over from DEFAULT, NULL: it was there.
-- ATTACH reads all of DEFAULT and locks it, and an INSERT that was routed to DEFAULT, and waits for it,
-- then fails: its row no longer belongs there (seen: four of four writers). So the parent is locked
-- first: whoever waits there has not been routed yet. Only when DEFAULT is large, and quiet because
-- the day is over and today has its partition, is the parent left unlocked: no order waits then.
CREATE FUNCTION relay.create_partition(day date)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET lock_timeout = '50ms'
AS $$
DECLARE
    name    text := 'outbox_p' || to_char(day, 'YYYYMMDD');
    from_at timestamptz := day::timestamptz;
    to_at   timestamptz := (day + 1)::timestamptz;
    quiet   boolean := to_at < clock_timestamp() - interval '5 minutes'
                       AND relay.today_has_partition();
    moved   bigint;
BEGIN
    IF to_regclass('relay.' || name) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    -- One maintainer at a time.
    LOCK TABLE ONLY relay.outbox IN SHARE UPDATE EXCLUSIVE MODE;
    IF to_regclass('relay.' || name) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    -- The CHECK spares ATTACH the scan of this table.
    EXECUTE format('CREATE TABLE relay.%I (LIKE relay.outbox INCLUDING DEFAULTS INCLUDING CONSTRAINTS
                        INCLUDING INDEXES INCLUDING STORAGE INCLUDING STATISTICS,
                        CONSTRAINT its_day CHECK (created_at >= %L AND created_at < %L))',
                   name, from_at, to_at);
    -- What is there already, before orders have to wait; then what came meanwhile.
    moved := relay.move_out_of_default(name, from_at, to_at);
    IF NOT (quiet AND relay.default_is_large()) THEN
        LOCK TABLE ONLY relay.outbox IN ACCESS EXCLUSIVE MODE;
        moved := moved + relay.move_out_of_default(name, from_at, to_at);
    END IF;
    EXECUTE format('ALTER TABLE relay.outbox ATTACH PARTITION relay.%I FOR VALUES FROM (%L) TO (%L)',
                   name, from_at, to_at);
    EXECUTE format('ALTER TABLE relay.%I DROP CONSTRAINT its_day', name);
    RETURN moved;
END $$;

-- Empties the oldest day of DEFAULT into a partition of its own; says which, NULL: there is nothing to
-- do. One day a call, so that its locks end with it: call it until the day is NULL. A large DEFAULT is
-- left alone while orders still go there: until the next day, whose partition was made ahead.
CREATE PROCEDURE relay.empty_default(INOUT emptied_day date DEFAULT NULL,
                                     INOUT moved bigint DEFAULT 0)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
BEGIN
    SELECT min(created_at)::date INTO emptied_day FROM relay.outbox_default;
    IF relay.default_is_large() AND NOT relay.today_has_partition() THEN
        emptied_day := NULL;
    END IF;
    moved := CASE WHEN emptied_day IS NULL THEN 0 ELSE relay.create_partition(emptied_day) END;
END $$;

-- Tells whether every row of a partition was handed over: none is outside the checkpoint's snapshot.
-- Sequential scans are off: with stale statistics one would read the whole day, under a lock.
CREATE FUNCTION relay.is_handed_over(partition_name text)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
AS $$
DECLARE
    point  relay.checkpoint;
    waits  boolean;
    shards int := 0;
BEGIN
    FOR point IN SELECT * FROM relay.checkpoint LOOP
        shards := shards + 1;
        EXECUTE format('SELECT EXISTS (SELECT FROM relay.%1$I WHERE txid >= $1)
                            OR EXISTS (SELECT FROM relay.%1$I WHERE txid = ANY ($2))', partition_name)
           INTO waits
          USING pg_snapshot_xmax(point.prev), ARRAY(SELECT pg_snapshot_xip(point.prev));
        IF waits THEN
            RETURN false;
        END IF;
    END LOOP;
    RETURN shards > 0;
END $$;

-- Saves the rows that must outlive their partition: parked ones, and those of open overdue orders. So
-- no stuck order pins its day. Under the lock of a drop only cases of orders placed about that day are
-- looked at: with a million cases open, all of them would make orders wait.
CREATE FUNCTION relay.keep_rows(partition_name text,
                                placed_from timestamptz DEFAULT '-infinity',
                                placed_until timestamptz DEFAULT 'infinity')
RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    first_id bigint;
    last_id  bigint;
BEGIN
    EXECUTE format('SELECT min(id), max(id) FROM relay.%I', partition_name) INTO first_id, last_id;
    EXECUTE format(
        'INSERT INTO relay.kept
         SELECT o.*, clock_timestamp(), ''parked'' FROM relay.quarantine q
           JOIN relay.%1$I o ON o.id = q.outbox_id
          WHERE q.kind = ''event'' AND q.state IN (''held'', ''release_requested'')
            AND q.outbox_id BETWEEN $1 AND $2
         ON CONFLICT (id) DO NOTHING', partition_name) USING first_id, last_id;
    EXECUTE format(
        'INSERT INTO relay.kept
         SELECT o.*, clock_timestamp(), ''overdue'' FROM relay.overdue d
           JOIN relay.%1$I o ON o.aggregate_id = d.aggregate_id AND o.event_id::text = d.event_id
          WHERE d.closed_at IS NULL AND d.placed_at BETWEEN $1 AND $2
         ON CONFLICT (id) DO NOTHING', partition_name) USING placed_from, placed_until;
END $$;

-- Lets go of kept rows past their own retention, some at a time; returns how many. An order that is
-- still parked then is stuck for good: its event is discarded, by name, with a row in the audit log,
-- and the range is noted with the dropped partitions.
CREATE FUNCTION relay.forget_kept(days int, most int)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    gone      bigint[];
    discarded bigint[];
    from_at   timestamptz;
    to_at     timestamptz;
    said      text := format('kept for %s days, past its retention', days);
BEGIN
    IF days < 1 THEN
        RAISE EXCEPTION 'kept rows are kept for a day at least';
    END IF;
    WITH old AS (
        SELECT id FROM relay.kept k
         WHERE kept_at < clock_timestamp() - make_interval(days => $1)
           AND NOT EXISTS (SELECT FROM relay.quarantine q      -- on its way at last
                            WHERE q.kind = 'event' AND q.outbox_id = k.id
                              AND q.state = 'release_requested')
         ORDER BY kept_at LIMIT $2 FOR UPDATE OF k SKIP LOCKED
    ), left_us AS (
        DELETE FROM relay.kept k USING old WHERE k.id = old.id RETURNING k.id, k.created_at
    )
    SELECT array_agg(id ORDER BY id), min(created_at), max(created_at) INTO gone, from_at, to_at
      FROM left_us;
    IF gone IS NULL THEN
        RETURN 0;
    END IF;
    WITH stuck AS (
        UPDATE relay.quarantine
           SET state = 'discarded', resolved_at = clock_timestamp(), resolved_by = 'retention',
               resolved_why = said
         WHERE kind = 'event' AND state = 'held' AND outbox_id = ANY (gone)
        RETURNING quarantine_id
    )
    SELECT array_agg(quarantine_id ORDER BY quarantine_id) INTO discarded FROM stuck;
    INSERT INTO relay.dropped_partition AS p
                (partition_name, from_at, to_at, id_range, row_count, kept_count)
         VALUES ('kept', from_at, to_at + interval '1 microsecond',
                 int8range(gone[1], gone[array_upper(gone, 1)], '[]'), cardinality(gone), 0)
    ON CONFLICT ON CONSTRAINT dropped_partition_pkey DO UPDATE
            SET from_at = least(p.from_at, excluded.from_at),
                to_at = greatest(p.to_at, excluded.to_at),
                id_range = range_merge(p.id_range, excluded.id_range),
                row_count = p.row_count + excluded.row_count,
                dropped_at = excluded.dropped_at;
    INSERT INTO relay.audit_log (who, action, why, result, detail)
         VALUES ('relay retention', 'forget_kept', said,
                 format('%s rows can no longer be replayed', cardinality(gone)),
                 jsonb_build_object('outbox_ids', gone,
                                    'discarded', coalesce(to_jsonb(discarded), '[]')));
    RETURN cardinality(gone);
END $$;

-- Drops a day that is over and handed over. Returns 'dropped', or why not: 'not_a_partition',
-- 'not_over', 'not_handed_over'. counted_rows is for the record: counted by the caller beforehand,
-- since counting under the lock would make orders wait.
-- The parent is locked first, as every reader and writer does; what can be done before that is.
CREATE FUNCTION relay.drop_partition(partition_name text, counted_rows bigint DEFAULT 0)
RETURNS text LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET lock_timeout = '50ms'
AS $$
DECLARE
    target    regclass := to_regclass(format('relay.%I', partition_name));
    starts_at timestamptz;
    ends_at   timestamptz;
    ids       int8range;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'relay.drop_partition needs READ COMMITTED: it rechecks under a lock';
    END IF;
    IF partition_name !~ '^outbox_p[0-9]{8}$' OR NOT EXISTS (
        SELECT FROM pg_inherits WHERE inhrelid = target AND inhparent = 'relay.outbox'::regclass
    ) THEN
        RETURN 'not_a_partition';
    END IF;
    starts_at := to_date(right(partition_name, 8), 'YYYYMMDD')::timestamptz;
    ends_at := (starts_at::date + 1)::timestamptz;
    IF ends_at > clock_timestamp() THEN
        RETURN 'not_over';
    END IF;
    IF NOT relay.is_handed_over(partition_name) THEN
        RETURN 'not_handed_over';
    END IF;
    PERFORM relay.keep_rows(partition_name);

    LOCK TABLE ONLY relay.outbox IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('LOCK TABLE ONLY relay.%I IN ACCESS EXCLUSIVE MODE', partition_name);
    IF NOT relay.is_handed_over(partition_name) THEN
        RETURN 'not_handed_over';
    END IF;
    -- An order is placed before its event is written, but for clocks that differ.
    PERFORM relay.keep_rows(partition_name, starts_at - interval '2 days', ends_at + interval '2 days');
    EXECUTE format('SELECT int8range(min(id), max(id), ''[]'') FROM relay.%I', partition_name)
       INTO ids;
    INSERT INTO relay.dropped_partition
                (partition_name, from_at, to_at, id_range, row_count, kept_count)
         VALUES (drop_partition.partition_name, starts_at, ends_at, ids,
                 coalesce(counted_rows, 0),
                 (SELECT count(*) FROM relay.kept WHERE ids @> id))
    ON CONFLICT ON CONSTRAINT dropped_partition_pkey DO UPDATE
            SET id_range = range_merge(dropped_partition.id_range, excluded.id_range),
                row_count = dropped_partition.row_count + excluded.row_count,
                kept_count = dropped_partition.kept_count + excluded.kept_count,
                dropped_at = excluded.dropped_at;
    EXECUTE format('DROP TABLE relay.%I', partition_name);
    RETURN 'dropped';
END $$;

-- After a logical copy, which copies rows and no sequences: sets each sequence of this schema behind the
-- ids that were given out, so that none is given out again; returns how many were behind.
CREATE FUNCTION relay.move_sequences_on()
RETURNS int LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    drawn      record;
    sequence   text;
    highest    bigint;
    last_drawn bigint;
    moved      int := 0;
BEGIN
    FOR drawn IN SELECT c.oid::regclass AS relation, a.attname AS name
                   FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                  WHERE c.relnamespace = 'relay'::regnamespace AND c.relkind IN ('r', 'p')
                    AND NOT c.relispartition AND a.attidentity <> ''
    LOOP
        EXECUTE format('SELECT max(%I) FROM %s', drawn.name, drawn.relation) INTO highest;
        IF drawn.relation = 'relay.outbox'::regclass THEN
            highest := greatest(highest, (SELECT max(high_id) FROM relay.checkpoint),
                                (SELECT max(id) FROM relay.kept),
                                (SELECT max(outbox_id) FROM relay.quarantine));
        END IF;
        sequence := pg_get_serial_sequence(drawn.relation::text, drawn.name);
        EXECUTE format('SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM %s', sequence)
           INTO last_drawn;
        IF highest > last_drawn THEN
            PERFORM setval(sequence, highest);
            moved := moved + 1;
        END IF;
    END LOOP;
    RETURN moved;
END $$;

REVOKE ALL ON FUNCTION relay.move_sequences_on(), relay.forget_kept(int, int),
                       relay.move_out_of_default(text, timestamptz, timestamptz),
                       relay.default_is_large(), relay.today_has_partition(),
                       relay.create_partition(date), relay.is_handed_over(text),
                       relay.keep_rows(text, timestamptz, timestamptz),
                       relay.drop_partition(text, bigint) FROM PUBLIC;
REVOKE ALL ON PROCEDURE relay.empty_default(date, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION relay.default_is_large(), relay.forget_kept(int, int),
                          relay.create_partition(date), relay.is_handed_over(text),
                          relay.drop_partition(text, bigint)
    TO relay_publisher;
GRANT EXECUTE ON PROCEDURE relay.empty_default(date, bigint) TO relay_publisher;
GRANT EXECUTE ON FUNCTION relay.move_sequences_on() TO relay_operator;
