-- The shop's own tables; V2__relay.sql is what `relay migrate --sql --within-transaction` prints.
CREATE TABLE orders (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    number     text NOT NULL UNIQUE,
    total      numeric(12, 2) NOT NULL,
    status     text NOT NULL DEFAULT 'submitted',
    created_at timestamptz NOT NULL DEFAULT now()
);
