"""Hop 1's event: what beside the payload is checked, and the schemas of the event types."""

import json
from typing import Any

import pytest

from relay.outbox import (
    Event,
    EventRefusedError,
    EventTypes,
    FieldRefusedError,
    SchemaMismatchError,
    UnknownEventTypeError,
    standard,
)
from relay.outbox.event import checked

ORDER = "0191e3c0-7f5e-7bd1-a6b0-3a1d0f6f9a52"
PLACED: dict[str, Any] = {
    "order_id": ORDER,
    "customer_id": "c1",
    "items": [{"sku": "tea", "quantity": 2, "price": "9.95"}],
    "total": "19.90",
    "currency": "EUR",
    "submitted_at": "2026-01-31T12:34:56.789012Z",
}


def changed(path: str, value: Any) -> dict[str, Any]:
    payload = json.loads(json.dumps(PLACED))
    *parents, last = [int(part) if part.isdigit() else part for part in path[1:].split("/")]
    place = payload
    for part in parents:
        place = place[part]
    place[last] = value
    return payload


def refusal(event: Event, types: EventTypes | None = None) -> EventRefusedError:
    with pytest.raises(EventRefusedError) as refused:
        checked(event, types)
    return refused.value


def test_a_valid_order_becomes_a_row_with_its_text_kept() -> None:
    text = json.dumps(PLACED, indent=3)
    row = checked(Event("order.placed", ORDER, text, aggregate_version=1), None)
    assert row.payload == text
    assert (row.aggregate_type, row.aggregate_id, row.headers) == ("order", ORDER, None)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/total", 19.9),
        ("/total", "19,90"),
        ("/total", "-1.00"),
        ("/total", "1e3"),
        ("/total", "٣"),
        ("/total", "1.00\n"),
        ("/items/0/price", "007"),
        ("/items/0/price", 9),
        ("/items/0/quantity", 0),
        ("/items/0/quantity", 1.5),
        ("/items/0/quantity", "2"),
        ("/items", []),
        ("/items/0", None),
        ("/currency", "euro"),
        ("/currency", "EUR\n"),
        ("/customer_id", ""),
        ("/submitted_at", "yesterday"),
        ("/submitted_at", "2026-02-30T00:00:00Z"),
        ("/order_id", "another"),
        ("/order_id", None),
    ],
)
def test_a_schema_mismatch_names_the_path(path: str, value: Any) -> None:
    refused = refusal(Event("order.placed", ORDER, changed(path, value)))
    assert isinstance(refused, SchemaMismatchError)
    assert refused.path == path


@pytest.mark.parametrize("name", sorted(PLACED))
def test_every_member_of_an_order_is_required(name: str) -> None:
    payload = {key: value for key, value in PLACED.items() if key != name}
    refused = refusal(Event("order.placed", ORDER, payload))
    assert isinstance(refused, SchemaMismatchError)
    assert name in str(refused)


def test_members_that_a_later_version_may_add_are_allowed() -> None:
    checked(Event("order.placed", ORDER, changed("/items/0/colour", "red")), None)


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"order_id": ORDER, "status": "confirmed"}, None),
        ({"order_id": ORDER, "status": "processing", "reason": None}, None),
        ({"order_id": ORDER, "status": "done"}, "/status"),
        ({"order_id": ORDER}, ""),
        ({"order_id": ORDER, "status": "rejected", "reason": 7}, "/reason"),
        ({"order_id": ORDER, "status": "rejected", "returned_at": "noon"}, "/returned_at"),
    ],
)
def test_returns_have_a_schema_too(payload: dict[str, Any], path: str | None) -> None:
    event = Event("order.returned", ORDER, payload)
    if path is None:
        checked(event, None)
    else:
        assert refusal(event).path == path


def test_a_mismatch_does_not_repeat_the_customers_data() -> None:
    refused = refusal(Event("order.placed", ORDER, changed("/total", "secret" * 1000)))
    assert "secret" not in str(refused)


def test_an_unknown_event_type_is_refused_until_it_is_registered() -> None:
    event = Event("order.cancelled", ORDER, {"why": "changed my mind"})
    assert isinstance(refusal(event), UnknownEventTypeError)
    checked(event, standard().with_type("order.cancelled", None))
    strict = standard().with_type("order.cancelled", {"properties": {"why": {"maxLength": 3}}})
    assert refusal(event, strict).path == "/why"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"aggregate_id": ""}, "aggregate_id"),
        ({"aggregate_id": "x" * 256}, "aggregate_id"),
        ({"aggregate_id": "a\x00b"}, "aggregate_id"),
        ({"aggregate_id": "\ud800"}, "aggregate_id"),
        ({"aggregate_id": 7}, "aggregate_id"),
        ({"aggregate_type": ""}, "aggregate_type"),
        ({"event_type": None}, "event_type"),
        ({"aggregate_version": -1}, "aggregate_version"),
        ({"aggregate_version": 2**31}, "aggregate_version"),
        ({"aggregate_version": True}, "aggregate_version"),
        ({"headers": {"ce_id": "mine"}}, "headers/ce_id"),
        ({"headers": {"TraceParent": "mine"}}, "headers/TraceParent"),
        ({"headers": {"a": 1}}, "headers/a"),
        ({"headers": {"a": "\x00"}}, "headers/a"),
        ({"headers": {"a": "x" * 20_000}}, "headers"),
        ({"headers": {"": "x"}}, "headers"),
    ],
)
def test_fields_beside_the_payload_are_checked(fields: dict[str, Any], path: str) -> None:
    event = Event(**{"event_type": "x", "aggregate_id": "1", "payload": "{}"} | fields)
    refused = refusal(event, EventTypes().with_type("x", None))
    assert isinstance(refused, FieldRefusedError)
    assert refused.path == path
    str(refused).encode()


def test_headers_are_kept_in_their_order() -> None:
    event = Event("x", "1", "{}", headers={"b": "2", "a": "é"})
    assert checked(event, EventTypes().with_type("x", None)).headers == '{"b":"2","a":"é"}'
