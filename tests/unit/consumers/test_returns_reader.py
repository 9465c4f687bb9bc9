"""Hop 5: reading a return out of whatever a foreign processor sends: a table."""

from dataclasses import replace
from typing import NamedTuple

import pytest

from relay.consumers.returns.reader import Return, ReturnReader
from relay.consumers.returns.refusals import Reason, Refusal
from relay.runtime.flow import ApplyColumns, Flow, FlowError

ORDER = "5bc02ba4-22b1-4a0a-8a0f-2d3a6dd0a7ee"


class Record(NamedTuple):
    value: bytes | None
    key: bytes | None = ORDER.encode()
    headers: tuple = ()
    topic: str = "orders.returns"
    partition: int = 2
    offset: int = 7
    timestamp: int = 1_700_000_000_000


FLOW = Flow()
READER = ReturnReader(FLOW)


def read(value, **more):
    return READER.read(Record(value, **more))


READABLE = [
    (b'{"status": "confirmed"}', {}, {"status": "confirmed", "order_id": ORDER}),
    (b'{"status": "confirmed", "order_id": "%s"}' % ORDER.encode(), {"key": None}, {}),
    (b'{"status": "confirmed", "order_id": null}', {}, {"order_id": ORDER}),
    (b'{"status": "confirmed"}', {"key": ORDER.upper().encode()}, {"order_id": ORDER}),
    (b'{"status": "confirmed"}', {"key": b"{%s}" % ORDER.encode()}, {"order_id": ORDER}),
    (
        b'{"status": "confirmed"}',
        {"key": b"customer-7", "headers": (("ce_subject", ORDER.encode()),)},
        {"order_id": ORDER},
    ),
    (b'{"status": "processing", "reason": "soon"}', {}, {"reason": "soon"}),
    (b'{"status": "processing", "reason": ""}', {}, {"reason": None}),
    (b'{"status": "processing", "reason": ["a"]}', {}, {"reason": '["a"]'}),
    (b'{"status": "processing", "reason": "a\\u0000b"}', {}, {"reason": "a�b"}),
    (
        b'{"status": "rejected"}',
        {"headers": (("ce_id", b"7"), ("ce_source", b"/p"), ("ce_causationid", b"e-1"))},
        {"own_identity": "/p/7", "causation_id": "e-1"},
    ),
    (b'{"status": "rejected"}', {"headers": (("ce_id", b"7"),)}, {"own_identity": "/7"}),
    (b'{"status": "rejected"}', {"headers": (("ce_id", None),)}, {"own_identity": None}),
    (b'{"status": "rejected"}', {"headers": (("ce_id", b"\xff"),)}, {"own_identity": None}),
    (b'{"status": "rejected"}', {"headers": (("ce_id", b"x" * 513),)}, {"own_identity": None}),
    (b'{"status": "rejected"}', {"headers": (("ce_id", b"a\x1fb"),)}, {"own_identity": None}),
]


@pytest.mark.parametrize(("value", "record", "expected"), READABLE)
def test_what_can_be_read(value, record, expected):
    found = read(value, **record)
    assert isinstance(found, Return)
    assert {name: getattr(found, name) for name in expected} == expected
    assert found.position == "orders.returns-2-7"


REFUSED = [
    (None, {}, Reason.MALFORMED, "no value"),
    (b"", {}, Reason.MALFORMED, "no value"),
    (b"{", {}, Reason.MALFORMED, "not JSON"),
    (b"\x00", {}, Reason.MALFORMED, "not JSON"),
    (b'{"status": Infinity}', {}, Reason.MALFORMED, "not JSON"),
    (b'{"status": "\\ud800"}', {}, Reason.MALFORMED, "not JSON"),
    (b"[]", {}, Reason.MALFORMED, "a JSON object is needed, not list"),
    (b"{}", {}, Reason.MALFORMED, "no status"),
    (b'{"status": true}', {}, Reason.MALFORMED, "no status"),
    (b'{"status": "confirmed"}', {"key": None}, Reason.MALFORMED, "neither an order_id nor a key"),
    (b'{"status": "confirmed"}', {"key": b"\xff"}, Reason.MALFORMED, "neither"),
    (b'{"status": "confirmed"}', {"key": b"7"}, Reason.MALFORMED, "no order id of type uuid"),
    (b'{"status": "confirmed", "order_id": 1.5}', {}, Reason.MALFORMED, "no order id"),
    (b'{"status": "Confirmed"}', {}, Reason.UNKNOWN_STATUS, "9 characters"),
    (b'{"status": 7}', {}, Reason.UNKNOWN_STATUS, "1 characters"),
]


@pytest.mark.parametrize(("value", "record", "reason", "detail"), REFUSED)
def test_what_cannot_be_read(value, record, reason, detail):
    found = read(value, **record)
    assert isinstance(found, Refusal)
    assert found.reason is reason
    assert detail in found.detail


def test_a_malformed_return_is_still_somebodys():
    assert read(b"{").order_id == ORDER
    assert read(b'{"status": 1.5, "order_id": "%s"}' % ORDER.encode(), key=None).order_id == ORDER


def test_a_value_beyond_the_limit_is_not_even_parsed():
    reader = ReturnReader(replace(FLOW, max_return_bytes=30))
    assert isinstance(reader.read(Record(b'{"status":"confirmed"}')), Return)
    found = reader.read(Record(b'{"status":"confirmed"} ' + b" " * 10))
    assert isinstance(found, Refusal)
    assert "30 are read" in found.detail


def test_aliases_are_the_processors_own_words():
    flow = replace(FLOW, status_aliases={"OK": "confirmed", "2": "rejected"})
    reader = ReturnReader(flow)
    assert reader.read(Record(b'{"status": "OK"}')).status == "confirmed"
    assert reader.read(Record(b'{"status": 2}')).status == "rejected"
    with pytest.raises(FlowError, match="status_aliases"):
        replace(FLOW, status_aliases={"OK": "shipped"})
    with pytest.raises(FlowError, match="status_aliases"):
        replace(FLOW, status_aliases={"confirmed": "rejected"})


def test_a_key_column_of_another_type():
    reader = ReturnReader(replace(FLOW, apply=ApplyColumns(key_type="bigint")))
    assert reader.read(Record(b'{"status": "confirmed", "order_id": 7}')).order_id == "7"
