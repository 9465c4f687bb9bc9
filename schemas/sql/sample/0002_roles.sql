-- What the roles may do with the sample's orders. In production, grant the like of it on your own.

-- The order service owns the orders' content; the status belongs to the confirmation consumer.
GRANT SELECT, INSERT ON public.orders TO relay_writer;
GRANT UPDATE (items, total, currency, version) ON public.orders TO relay_writer;
GRANT SELECT, INSERT ON public.order_status_history TO relay_writer;
-- The sample order service looks whether it stands beside a sample, and refuses otherwise.
GRANT SELECT ON relay.installation TO relay_writer;

-- The confirmation consumer: the status columns, and the history. With ctid it need not look up again
-- what it has locked.
GRANT SELECT (ctid, order_id, status, version, submitted_at, returned_at, return_reason,
              traceparent),
      UPDATE (status, version, returned_at, return_reason)
    ON public.orders TO relay_confirmer;
GRANT SELECT, INSERT ON public.order_status_history TO relay_confirmer;

-- The watchdog and the diagnosis look, and change nothing.
GRANT SELECT (order_id, status, version, submitted_at, returned_at, return_reason, traceparent)
    ON public.orders TO relay_publisher, relay_observer;
GRANT SELECT ON public.order_status_history TO relay_publisher, relay_observer;
GRANT SELECT ON public.orders, public.order_status_history TO relay_operator;
