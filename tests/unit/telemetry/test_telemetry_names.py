"""Span names and attribute keys are those of the conventions, and 1.45 is one line away."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import messaging_attributes as conventions
from opentelemetry.trace import SpanKind as ApiSpanKind

from relay.telemetry import names


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (names.MESSAGING_SYSTEM, conventions.MESSAGING_SYSTEM),
        (names.KAFKA_OFFSET, conventions.MESSAGING_KAFKA_OFFSET),
        (names.KAFKA_MESSAGE_KEY, conventions.MESSAGING_KAFKA_MESSAGE_KEY),
        (names.KAFKA_MESSAGE_TOMBSTONE, conventions.MESSAGING_KAFKA_MESSAGE_TOMBSTONE),
        (names.OPERATION_NAME, conventions.MESSAGING_OPERATION_NAME),
        (names.OPERATION_TYPE, conventions.MESSAGING_OPERATION_TYPE),
        (names.DESTINATION_NAME, conventions.MESSAGING_DESTINATION_NAME),
        (names.DESTINATION_PARTITION_ID, conventions.MESSAGING_DESTINATION_PARTITION_ID),
        (names.CONSUMER_GROUP_NAME, conventions.MESSAGING_CONSUMER_GROUP_NAME),
        (names.CLIENT_ID, conventions.MESSAGING_CLIENT_ID),
        (names.MESSAGE_ID, conventions.MESSAGING_MESSAGE_ID),
        (names.BATCH_MESSAGE_COUNT, conventions.MESSAGING_BATCH_MESSAGE_COUNT),
    ],
)
def test_keys_are_those_of_the_published_conventions(ours: str, theirs: str) -> None:
    assert ours == theirs


def test_kinds_have_otlp_numbers() -> None:
    for kind in ApiSpanKind:
        assert names.SpanKind[kind.name] == kind.value + 1


def test_span_names_and_what_their_spans_say() -> None:
    assert names.create_span("orders.events") == "create orders.events"
    assert names.send_span("orders.returns") == "send orders.returns"
    assert names.process_span("orders.events") == "process orders.events"
    assert names.process_attributes("orders.events", group="g") == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders.events",
        "messaging.consumer.group.name": "g",
    }
    assert names.send_attributes("t", client_id="c")["messaging.client.id"] == "c"
    assert names.create_attributes("t")["messaging.operation.type"] == "create"


def test_the_next_conventions_are_one_line_away() -> None:
    source = inspect.getsource(names)
    line = 'CONVENTIONS: Final[Literal["1.44", "1.45"]] = "1.44"'
    assert source.count(line) == 1
    module: dict[str, Any] = {"__name__": "names_1_45"}
    exec(source.replace(line, line.replace('= "1.44"', '= "1.45"')), module)
    assert module["send_attributes"]("t")["messaging.system.name"] == "kafka"
    assert module["KAFKA_OFFSET"] == "kafka.offset"
    assert module["SCHEMA_URL"].endswith("/1.45.0")
