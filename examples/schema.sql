-- The orders' table of the examples for Node, Spring and Go; Django and FastAPI make their own.
CREATE TABLE orders (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    number     text NOT NULL UNIQUE,
    total      numeric(12, 2) NOT NULL,
    status     text NOT NULL DEFAULT 'submitted',
    created_at timestamptz NOT NULL DEFAULT now()
);
