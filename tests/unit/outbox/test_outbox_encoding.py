"""A mapping that JSON has no form for is refused with the place of the value, and what to write."""

import datetime as dt
from collections import UserDict
from decimal import Decimal
from uuid import uuid4

import pytest

from relay.outbox import Event, EventTypes, NotJsonError, SchemaMismatchError
from relay.outbox.event import checked

TYPES = EventTypes.of("order.placed")


class __proxy__:  # noqa: N801 - as Django calls its lazy strings
    pass


@pytest.mark.parametrize(
    ("payload", "path", "hint"),
    [
        ({"a": [{"total": Decimal("9.90")}]}, "/a/0/total", "str(value)"),
        ({"a/b~c": dt.datetime.now(dt.UTC)}, "/a~1b~0c", "isoformat"),
        ({"at": dt.date(2026, 1, 2)}, "/at", "isoformat"),
        ({"for": dt.timedelta(1)}, "/for", "total_seconds"),
        ({"id": uuid4()}, "/id", "str(value)"),
        ({"raw": b"x"}, "/raw", "base64"),
        ({"tags": {"a"}}, "/tags", "sorted(value)"),
        ({"name": __proxy__()}, "/name", "lazy string"),
        ({"user": UserDict()}, "/user", "dict(value)"),
        ({"o": {(1, 2): 1}}, "/o", "str(key)"),
        ({"o": object()}, "/o", "give text"),
    ],
)
def test_the_value_is_named_with_what_to_write_instead(payload, path, hint) -> None:
    with pytest.raises(NotJsonError) as found:
        checked(Event("order.placed", "1", payload), TYPES)
    assert found.value.path == path
    assert hint in found.value.reason


def test_a_structure_within_itself_is_refused() -> None:
    payload: dict[str, object] = {}
    payload["self"] = payload
    with pytest.raises(NotJsonError, match="Circular"):
        checked(Event("order.placed", "1", payload), TYPES)


def test_a_shops_own_payload_is_told_from_the_samples() -> None:
    event = Event("order.placed", "1", {"number": "A-1"})
    with pytest.raises(SchemaMismatchError) as found:
        checked(event, None)
    assert "EventTypes.of('order.placed')" in found.value.__notes__[0]
    assert checked(event, TYPES).payload == '{"number":"A-1"}'
