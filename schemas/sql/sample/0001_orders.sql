-- The sample order service's own tables. `relay migrate --relay-only` leaves them out: in production
-- the orders belong to the user's order service.

CREATE TABLE public.orders (
    order_id        uuid          PRIMARY KEY,
    customer_id     text          NOT NULL,
    idempotency_key text,
    items           json          NOT NULL,
    total           numeric       NOT NULL,
    currency        text          NOT NULL,
    status          text          NOT NULL DEFAULT 'submitted'
                                  CHECK (status IN ('submitted', 'processing', 'confirmed', 'rejected')),
    version         int           NOT NULL DEFAULT 1,
    submitted_at    timestamptz   NOT NULL DEFAULT clock_timestamp(),
    returned_at     timestamptz,
    return_reason   text,
    traceparent     text,
    UNIQUE (customer_id, idempotency_key)
);
CREATE INDEX orders_unreturned ON public.orders (submitted_at)
    WHERE status IN ('submitted', 'processing');

CREATE TABLE public.order_status_history (
    history_id  bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    order_id    uuid        NOT NULL,
    old_status  text,
    new_status  text        NOT NULL,
    reason      text,
    event_id    text,                                  -- the return that caused it
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX order_status_history_order ON public.order_status_history (order_id);
