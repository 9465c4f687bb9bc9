"""A relay as shops make it at home: it polls the outbox, and notes in its own table what it sent.

Settings are the environment's: DATABASE_URL, KAFKA_BOOTSTRAP_SERVERS, RELAY_FLOW_EVENTS_TOPIC.
"""

import os
import signal
import threading
from contextlib import suppress
from typing import Any

import psycopg
from confluent_kafka import KafkaException, Producer

TABLE = "CREATE TABLE IF NOT EXISTS public.home_made_sent (event_id uuid PRIMARY KEY)"
WAITING = """
SELECT o.event_id::text, o.event_type, o.aggregate_id, o.created_at, o.payload::text, o.traceparent
  FROM relay.outbox AS o
 WHERE NOT EXISTS (SELECT FROM public.home_made_sent AS s WHERE s.event_id = o.event_id)
 ORDER BY o.id LIMIT 500
"""
NOTED = "INSERT INTO public.home_made_sent SELECT unnest(%s::uuid[])"
IDLE_SECONDS = 0.05


def send(producer: Producer, topic: str, row: Any, delivered: list[str]) -> None:
    """Send one row, as CloudEvents in Kafka's binary mode; note its event once Kafka has it."""
    event_id, event_type, aggregate_id, created_at, payload, traceparent = row
    headers = {
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_source": "/home-made",
        "ce_type": event_type,
        "ce_subject": aggregate_id,
        "ce_time": created_at.isoformat(),
        "content-type": "application/json",
    }
    if traceparent:
        headers["traceparent"] = traceparent
    producer.produce(
        topic, key=aggregate_id, value=payload,
        headers=[(name, text.encode()) for name, text in headers.items()],
        on_delivery=lambda error, _record: None if error else delivered.append(event_id),
    )  # fmt: skip


def main() -> None:
    """Publish until told to stop."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    topic = os.environ["RELAY_FLOW_EVENTS_TOPIC"]
    producer = Producer(
        {"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"], "acks": "all",
         "enable.idempotence": True, "linger.ms": 5, "message.timeout.ms": 5000,
         "partitioner": "murmur2_random"}
    )  # fmt: skip
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(TABLE)
        while not stop.is_set():
            rows, delivered = connection.execute(WAITING).fetchall(), list[str]()
            with suppress(KafkaException):  # the topic is not there
                for row in rows:
                    send(producer, topic, row, delivered)
            producer.flush()
            if delivered:
                connection.execute(NOTED, (delivered,))
            else:
                stop.wait(IDLE_SECONDS)


if __name__ == "__main__":
    main()
