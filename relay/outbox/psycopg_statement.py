"""Hop 1: the INSERT for drivers whose parameters are `%s`: psycopg, psycopg2, Django."""

from typing import Final, LiteralString

from relay.outbox.event import Row

# Every parameter is cast here, as in `relay.outbox.append`: a caller's own adapters change nothing.
INSERT: Final[LiteralString] = """
    INSERT INTO relay.outbox (aggregate_type, aggregate_id, aggregate_version, event_type,
                              payload, headers, traceparent, tracestate)
    VALUES (%s::text, %s::text, %s::int, %s::text,
            %s::text::json, %s::text::json, %s::text, %s::text)
    RETURNING id, event_id::text
"""
INSERT_BYTES: Final[LiteralString] = """
    INSERT INTO relay.outbox (aggregate_type, aggregate_id, aggregate_version, event_type,
                              payload_bytes, headers, traceparent, tracestate, content_type)
    VALUES (%s::text, %s::text, %s::int, %s::text,
            decode(%s::text, 'base64'), %s::text::json, %s::text, %s::text, %s::text)
    RETURNING id, event_id::text
"""


def statement(row: Row) -> LiteralString:
    """Return the INSERT of a row: of JSON, or of bytes."""
    return INSERT if row.payload_bytes is None else INSERT_BYTES
