"""Hop 1: the INSERT for drivers whose parameters are `%s`: psycopg, psycopg2, Django."""

from typing import Final

# Every parameter is cast here, as in `relay.outbox.append`: a caller's own adapters change nothing.
INSERT: Final = """
    INSERT INTO relay.outbox (aggregate_type, aggregate_id, aggregate_version, event_type,
                              payload, headers, traceparent, tracestate)
    VALUES (%s::text, %s::text, %s::int, %s::text,
            %s::text::json, %s::text::json, %s::text, %s::text)
    RETURNING id, event_id::text
"""
