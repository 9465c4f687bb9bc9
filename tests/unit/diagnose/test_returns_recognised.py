"""Whose return a record on Kafka is, by whatever it names."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.consumers.returns.reader import ReturnReader, event_named
from relay.diagnose.gather.recognise import Recogniser, WantedReturns
from relay.runtime.flow import ApplyColumns
from relay.runtime.settings import load_settings

FIRST, SECOND = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
LETTERS = "abcdefab-cdef-4abc-8def-abcdefabcdef"
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
        placed_at=datetime(2026, 3, 2, tzinfo=UTC),
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


TORN = [
    (b'{"order_id": "ORD-12345", "sta', "ORD-12345", True),
    (b'{"order_id": "ORD-12345', "ORD-12345", False),  # it may have been cut off itself
    (b'{"order_id": "ORD-123456", "sta', "ORD-12345", False),
    (b'{"order_id": "X-ORD-12345", "sta', "ORD-12345", False),
    (b'{"amount": 12.5, "sta', "5", False),
    (b'{"status": "confirmed", "order_id": "ORD-9", "note": "ORD-12345"}', "ORD-12345", False),
    (b'{"order_id": "ORD-12345", "status": "confirmed"}', "ORD-12345", True),
]


@pytest.mark.parametrize(("value", "order", "found"), TORN)
def test_short_and_numbered_ids_are_not_found_inside_others(
    value: bytes, order: str, found: bool
) -> None:
    flow = replace(
        load_settings(None, {}).flow,
        apply=ApplyColumns(table="o", key_column="id", key_type="text"),
    )
    wanted = WantedReturns(frozenset({order}), {EVENT: order}, {}, datetime(2026, 3, 2, tzinfo=UTC))
    assert Recogniser(flow, wanted).orders_of(Record(None, value)) == ({order} if found else set())


@pytest.mark.parametrize(
    "traceparent",
    [
        f"00-{'0' * 32}-{'0' * 16}-00",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-b7ad6b7169203331-01",
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"00-{TRACE}",
        f"00-{TRACE}-b7ad6b7169203331-01-more",
    ],
)
def test_a_trace_that_is_not_valid_names_nobody(recogniser: Recogniser, traceparent: str) -> None:
    headers = (("traceparent", traceparent.encode()),)
    assert recogniser.orders_of(Record(None, b"<xml/>", headers)) == set()


def test_a_version_still_to_come_is_read_as_far_as_it_is_known(recogniser: Recogniser) -> None:
    headers = (("traceparent", f"cc-{TRACE}-b7ad6b7169203331-01-more".encode()),)
    assert recogniser.orders_of(Record(None, b"<xml/>", headers)) == {FIRST}


texts = st.one_of(
    st.sampled_from(
        [
            FIRST,
            FIRST.upper(),
            f"{{{FIRST}}}",
            FIRST.replace("-", ""),
            SECOND,
            EVENT.upper(),
            "x",
            "",
        ]
    ),
    st.text(max_size=8),
)
values = st.one_of(
    st.none(),
    st.binary(max_size=40),
    st.fixed_dictionaries(
        {},
        optional={
            "order_id": st.one_of(texts, st.integers(-9, 2**40), st.none()),
            "status": st.one_of(
                st.sampled_from(["confirmed", "processing", "?"]), st.integers(0, 9)
            ),
        },
    ).map(orjson.dumps),
)
headers = st.lists(
    st.tuples(
        st.sampled_from(["ce_subject", "ce_causationid", "traceparent", "ce_id"]),
        st.one_of(texts.map(str.encode), st.just(PARENT), st.binary(max_size=8)),
    ),
    max_size=4,
).map(tuple)


@given(
    key=st.one_of(st.none(), texts.map(str.encode), st.binary(max_size=8)),
    value=values,
    headers=headers,
)
def test_what_the_consumer_can_read_is_read_as_the_consumer_reads_it(key, value, headers) -> None:
    flow = load_settings(None, {}).flow
    wanted = WantedReturns(
        frozenset({LETTERS, SECOND}),
        {EVENT: LETTERS},
        {TRACE: LETTERS},
        datetime(2026, 3, 2, tzinfo=UTC),
    )
    record = Record(key, value, headers)
    found = Recogniser(flow, wanted).orders_of(record)
    read = ReturnReader(flow).read(record)
    if read.order_id in wanted.orders:
        assert read.order_id in found
    if read.order_id is not None:
        meant = wanted.by_event.get(event_named(dict(headers)) or "")
        assert found <= {read.order_id, meant}


def test_an_order_of_the_same_trace_is_not_meant(recogniser: Recogniser) -> None:
    record = Record(SECOND.encode(), headers=(("traceparent", PARENT),))
    assert recogniser.orders_of(record) == {SECOND}
