-- A return that waits for a locked order is told to whoever may only look: without its bytes.

SET LOCAL ROLE relay_owner;

GRANT SELECT (pending_id, consumer_group, topic, partition, record_offset, aggregate_id,
              recorded_at, attempts, pending_since, retry_at)
    ON relay.pending_return TO relay_observer;
