-- When each duty (the watchdog's round, positions, upkeep, ...) was last completed, when it is due
-- again, and how it failed since: so that "nothing was found" is never said where nobody has looked.

SET LOCAL ROLE relay_owner;

CREATE TABLE relay.duty_record (
    duty         text        PRIMARY KEY,
    instance     text        NOT NULL,             -- host:pid of whoever did it last
    completed_at timestamptz,
    due_at       timestamptz,                      -- completed again by then, or nobody does it
    failed_at    timestamptz,
    failures     bigint      NOT NULL DEFAULT 0,   -- since it was last completed
    error        text,
    failure_code text,
    set_aside    bigint      NOT NULL DEFAULT 0    -- orders that the last round could not judge
);

GRANT SELECT ON relay.duty_record
    TO relay_publisher, relay_confirmer, relay_operator, relay_observer;
GRANT INSERT, UPDATE ON relay.duty_record TO relay_publisher, relay_confirmer, relay_operator;
