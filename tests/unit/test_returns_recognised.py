"""Whose return a record on Kafka is, by whatever it names."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from relay.diagnose.gather.scan import Recogniser, WantedReturns
from relay.runtime.settings import load_settings

FIRST, SECOND = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
EVENT = "99999999-9999-4999-8999-999999999999"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01".encode()


@dataclass(frozen=True)
class Record:
    key: bytes | None = None
    value: bytes | None = b"{}"
    headers: tuple[tuple[str, bytes], ...] = ()


@pytest.fixture
def recogniser() -> Recogniser:
    wanted = WantedReturns(
        orders=frozenset({FIRST, SECOND}),
        by_event={EVENT: FIRST},
        by_trace={TRACE: FIRST},
        since=datetime(2026, 3, 2, tzinfo=UTC),
    )
    return Recogniser(load_settings(None, {}).flow, wanted)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (Record(FIRST.encode()), {FIRST}),
        (Record(None, f'{{"order_id": "{SECOND}"}}'.encode()), {SECOND}),
        (Record(headers=(("ce_causationid", EVENT.encode()),)), {FIRST}),
        (Record(headers=(("traceparent", PARENT),)), {FIRST}),
        (Record(headers=(("ce_subject", SECOND.encode()),)), {SECOND}),
        (Record(None, b'{"order_id": "' + FIRST.encode()), {FIRST}),
        (Record(b"somebody else"), set()),
    ],
)
def test_one_order(recogniser: Recogniser, record: Record, expected: set[str]) -> None:
    assert recogniser.orders_of(record) == expected


def test_one_that_names_another_order_is_also_the_one_it_answers(recogniser: Recogniser) -> None:
    record = Record(SECOND.encode(), headers=(("ce_causationid", EVENT.encode()),))
    assert recogniser.orders_of(record) == {FIRST, SECOND}


def test_an_order_of_the_same_trace_is_not_meant(recogniser: Recogniser) -> None:
    record = Record(SECOND.encode(), headers=(("traceparent", PARENT),))
    assert recogniser.orders_of(record) == {SECOND}
