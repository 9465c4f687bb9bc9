"""Every hop's span names, kinds and attribute keys, from OpenTelemetry's messaging conventions.

Invariant: no other module spells a span name or an attribute key. The conventions in force are
1.44; 1.45 renames four keys, and `CONVENTIONS` is the one line to change when backends follow.
Nothing here can fail: these are constants.

Source: https://github.com/open-telemetry/semantic-conventions, docs/messaging (v1.44.0, v1.45.0).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal

CONVENTIONS: Final[Literal["1.44", "1.45"]] = "1.44"

SCHEMA_URL: Final = f"https://opentelemetry.io/schemas/{CONVENTIONS}.0"

# One row per key that 1.45 renames: (1.44, 1.45).
_RENAMED: Final = {
    "system": ("messaging.system", "messaging.system.name"),
    "offset": ("messaging.kafka.offset", "kafka.offset"),
    "key": ("messaging.kafka.message.key", "kafka.message.key"),
    "tombstone": ("messaging.kafka.message.tombstone", "kafka.message.tombstone"),
}
_COLUMN: Final = ("1.44", "1.45").index(CONVENTIONS)

# Attribute keys of the conventions.
MESSAGING_SYSTEM: Final = _RENAMED["system"][_COLUMN]
KAFKA_OFFSET: Final = _RENAMED["offset"][_COLUMN]
KAFKA_MESSAGE_KEY: Final = _RENAMED["key"][_COLUMN]
KAFKA_MESSAGE_TOMBSTONE: Final = _RENAMED["tombstone"][_COLUMN]
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION_NAME: Final = "messaging.destination.name"
DESTINATION_PARTITION_ID: Final = "messaging.destination.partition.id"
CONSUMER_GROUP_NAME: Final = "messaging.consumer.group.name"
CLIENT_ID: Final = "messaging.client.id"
MESSAGE_ID: Final = "messaging.message.id"
BATCH_MESSAGE_COUNT: Final = "messaging.batch.message_count"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
HTTP_ROUTE: Final = "http.route"
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"

# Attribute keys of our own.
ORDER_ID: Final = "order.id"
ORDER_STATUS_OLD: Final = "order.status.old"
ORDER_STATUS_NEW: Final = "order.status.new"
ORDER_HOP: Final = "order.hop"
ORDER_VERDICT: Final = "order.verdict"
ORDER_CAUSE: Final = "order.cause"
ORDER_INCIDENT: Final = "order.incident"
ORDER_EVIDENCE: Final = "order.evidence"  # and a dot, and the hop it is about
ORDER_MISSING: Final = "order.evidence.missing"
ORDER_NEXT: Final = "order.next"
ORDER_CLOSED_BY: Final = "order.closed_by"
ORDER_CLOSED_WHY: Final = "order.closed_why"
OUTBOX_WAITED_SECONDS: Final = "relay.outbox.waited_seconds"
RELAY_BATCH_SIZE: Final = "relay.batch.size"  # BATCH_MESSAGE_COUNT is a span's of many messages
RELAY_OUTCOME: Final = "relay.outcome"
RELAY_DUPLICATE: Final = "relay.duplicate"
RELAY_EPOCH: Final = "relay.epoch"
RELAY_REPLAY_ID: Final = "relay.replay_id"
RELAY_REPLAY_REASON: Final = "relay.replay.reason"
RELAY_REPLAY_WHO: Final = "relay.replay.who"
RELAY_REPLAY_RESULT: Final = "relay.replay.result"
RELAY_RECONSTRUCTED: Final = "relay.reconstructed"

KAFKA: Final = "kafka"


class SpanKind(IntEnum):
    """Span kinds with the numbers OTLP gives them (one more than the OpenTelemetry API's)."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


# Services of their own, whichever process writes them.
WATCHDOG_SERVICE: Final = "relay-watchdog"
RECONSTRUCTED_SERVICE: Final = "relay-reconstructed"

REPLAY_SERVICE: Final = "relay-replay"

REPLAY: Final = "replay"
REPLAY_RESUMED: Final = "replay resumed"


def server_span(method: str, route: str) -> str:
    """Name of the SERVER span of an HTTP request, before hop 1: `POST /orders`."""
    return f"{method} {route}"


def create_span(topic: str) -> str:
    """Name of hop 1's PRODUCER span: the event is made; its context is what the row stores."""
    return f"create {topic}"


def send_span(topic: str) -> str:
    """Name of the span that hands a record to Kafka: CLIENT at hop 2, PRODUCER at hop 4."""
    return f"send {topic}"


def process_span(topic: str) -> str:
    """Name of the CONSUMER span of hops 3 and 5."""
    return f"process {topic}"


def wait_span(topic: str) -> str:
    """Name of the INTERNAL span of a row's wait in the outbox, from its commit to the hand-over."""
    return f"wait {topic}"


def return_missing_span(verdict: str, *, delayed: bool) -> str:
    """Name of the watchdog's span of a return that is past its deadline, with the verdict.

    Args:
        verdict: from the closed list, so that the names are few.
        delayed: it will come by itself once its hop moves again.
    """
    return f"return {'delayed' if delayed else 'missing'}: {verdict}"


def return_settled_span(verdict: str, *, returned: bool) -> str:
    """Name of the watchdog's span that ends a `return missing`: it came late, or was closed."""
    return f"return {'came late' if returned else 'closed by hand'}: {verdict}"


def _messaging(operation: str, topic: str) -> dict[str, str | int]:
    return {
        MESSAGING_SYSTEM: KAFKA,
        OPERATION_NAME: operation,
        OPERATION_TYPE: operation,
        DESTINATION_NAME: topic,
    }


def create_attributes(topic: str) -> dict[str, str | int]:
    """What every `create` span to `topic` says."""
    return _messaging("create", topic)


def wait_attributes(topic: str) -> dict[str, str]:
    """What every `wait` span says: where the row was to go; it is no operation of messaging."""
    return {MESSAGING_SYSTEM: KAFKA, DESTINATION_NAME: topic}


def send_attributes(
    topic: str, *, client_id: str | None = None, server: str | None = None
) -> dict[str, str | int]:
    """What every `send` span to `topic` says; `server`: `host:port` of a broker."""
    client = {} if client_id is None else {CLIENT_ID: client_id}
    return _messaging("send", topic) | client | _server(server)


def process_attributes(
    topic: str,
    *,
    group: str | None = None,
    client_id: str | None = None,
    server: str | None = None,
) -> dict[str, str | int]:
    """What every `process` span of `topic` says; `server`: `host:port` of a broker."""
    consumer = {CONSUMER_GROUP_NAME: group, CLIENT_ID: client_id}
    given = {key: value for key, value in consumer.items() if value is not None}
    return _messaging("process", topic) | given | _server(server)


def _server(server: str | None) -> dict[str, str | int]:
    if server is None:
        return {}
    host, _, port = server.rpartition(":")
    return {SERVER_ADDRESS: host.strip("[]"), SERVER_PORT: int(port)}
