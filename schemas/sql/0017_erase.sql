-- A person's data taken out of what this schema holds: payloads, headers, returns' bytes and reasons.
-- The rows stay, as proof of what was sent when; what is in Kafka nobody can take out.

SET LOCAL ROLE relay_owner;

-- Of orders of one flow: its aggregate type, the event types that are its own, and the consumers of
-- other flows, whose returns may have the same ids. Returns that wait for a locked order are counted
-- and left: they are applied within seconds. Says how many rows of each table; one row of the audit log.
CREATE FUNCTION relay.erase(of_type text, own_types text[], order_ids text[], other_groups text[])
RETURNS TABLE (what text, count bigint) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    erased  CONSTANT text := 'application/x-relay-erased';
    counts  jsonb := '{}';
    changed bigint;
BEGIN
    UPDATE relay.outbox AS o
       SET payload = 'null', payload_bytes = NULL, headers = NULL, content_type = erased
     WHERE o.aggregate_id = ANY (order_ids) AND o.content_type IS DISTINCT FROM erased
       AND (o.aggregate_type = of_type OR o.event_type = ANY (own_types));
    GET DIAGNOSTICS changed = ROW_COUNT;
    counts := counts || jsonb_build_object('outbox', changed);
    UPDATE relay.kept AS o
       SET payload = 'null', payload_bytes = NULL, headers = NULL, content_type = erased
     WHERE o.aggregate_id = ANY (order_ids) AND o.content_type IS DISTINCT FROM erased
       AND (o.aggregate_type = of_type OR o.event_type = ANY (own_types));
    GET DIAGNOSTICS changed = ROW_COUNT;
    counts := counts || jsonb_build_object('kept', changed);
    -- What is blank can no longer be applied. The number keeps the rows of one offset apart.
    UPDATE relay.quarantine AS q
       SET record_value = convert_to('erased ' || q.quarantine_id, 'UTF8'), record_headers = NULL,
           detail = NULL, state = CASE WHEN q.state = 'released' THEN q.state ELSE 'discarded' END,
           resolved_at = coalesce(q.resolved_at, clock_timestamp()),
           resolved_by = coalesce(q.resolved_by, 'erase'),
           resolved_why = coalesce(q.resolved_why, 'erased')
     WHERE q.kind = 'return' AND (q.aggregate_id = ANY (order_ids) OR q.names && order_ids)
       AND q.consumer_group <> ALL (other_groups)
       AND q.record_value IS DISTINCT FROM convert_to('erased ' || q.quarantine_id, 'UTF8');
    GET DIAGNOSTICS changed = ROW_COUNT;
    counts := counts || jsonb_build_object('quarantine', changed);
    UPDATE relay.inbox AS i SET reason = NULL
     WHERE i.aggregate_id = ANY (order_ids) AND i.reason IS NOT NULL
       AND i.consumer_group <> ALL (other_groups);
    GET DIAGNOSTICS changed = ROW_COUNT;
    counts := counts || jsonb_build_object('inbox', changed);
    counts := counts || jsonb_build_object('waiting',
        (SELECT pg_catalog.count(*) FROM relay.pending_return AS p
          WHERE p.aggregate_id = ANY (order_ids) AND p.consumer_group <> ALL (other_groups)));
    PERFORM relay.write_audit('erase', CASE WHEN cardinality(order_ids) = 1 THEN order_ids[1] END,
                              NULL, counts || jsonb_build_object('orders', cardinality(order_ids),
                                                                 'ids', order_ids[1:1000]));
    RETURN QUERY SELECT key, value::bigint FROM jsonb_each_text(counts);
END $$;

REVOKE ALL ON FUNCTION relay.erase(text, text[], text[], text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION relay.erase(text, text[], text[], text[]) TO relay_operator;
