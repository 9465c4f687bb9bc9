-- Parked orders are known by aggregate type and aggregate id: customer 42 is not order 42.

SET LOCAL ROLE relay_owner;

-- NULL: not known, and then any order of that id (written before, or by an older version meanwhile).
ALTER TABLE relay.quarantine ADD COLUMN aggregate_type text;

-- What waits now, the latest first; the relay fills in the others as it comes to them. Each is looked
-- up by its outbox id, so that a large quarantine does not make anybody wait.
UPDATE relay.quarantine AS q
   SET aggregate_type =
       coalesce((SELECT left(o.aggregate_type, 256) FROM relay.outbox AS o
                  WHERE o.id = q.outbox_id LIMIT 1),
                (SELECT left(k.aggregate_type, 256) FROM relay.kept AS k
                  WHERE k.id = q.outbox_id LIMIT 1))
 WHERE q.quarantine_id = ANY (ARRAY(SELECT quarantine_id FROM relay.quarantine
                                     WHERE kind = 'event'
                                       AND state IN ('held', 'release_requested')
                                     ORDER BY quarantine_id DESC LIMIT 10000));

CREATE OR REPLACE VIEW relay.quarantine_summary AS
    SELECT quarantine_id, kind, reason, detail, aggregate_id, event_id, outbox_id, consumer_group,
           topic, partition, record_offset, octet_length(record_value) AS value_bytes, traceparent,
           first_seen_at, last_seen_at, seen_count, state, resolved_at, resolved_by, resolved_why,
           aggregate_type
      FROM relay.quarantine;
