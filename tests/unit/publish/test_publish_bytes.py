"""Our encodings against aiokafka's, byte for byte, and against what its decoder reads."""

import io
import random
import uuid
from struct import pack
from typing import Any

import pytest
from aiokafka.partitioner import murmur2 as reference_murmur2
from aiokafka.protocol.produce import ProduceRequest, ProduceResponse_v7
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from relay.publish.reading.page import ERASED, Page
from relay.publish.reading.uuid_text import uuid_texts
from relay.publish.reading.window import Position, Snapshot
from relay.publish.sending import wire
from relay.publish.sending.compression import Codec
from relay.publish.sending.partitioner import murmur2, partitions
from relay.publish.sending.record import (
    RecordEncoder,
    own_headers,
    record_sizes,
    records_of,
    varint,
)
from relay.publish.sending.wire_form import WireEncoder
from relay.runtime.flow import EventRoute, Flow
from relay.runtime.flow_settings import FlowSettings
from relay.runtime.flows import Routes, beside_each_other

AFTER = Position(Snapshot(3, 3))


def page_of(rows: list[dict[str, Any]]) -> Page:
    columns = [
        (
            number,
            row.get("event_id", uuid.UUID(int=number).bytes),
            row.get("key", b"k"),
            row.get("event_type", "order.placed"),
            row.get("payload", b"{}"),
            len(row.get("payload", b"{}")),
            row.get("headers"),
            None,
            None,
            pack(">q", row.get("created_at", 0)),
            row.get("aggregate_type", "order"),
            row.get("content_type"),
        )
        for number, row in enumerate(rows, 1)
    ]
    return Page.of_records(columns, AFTER)


def batch_bytes(tails: list[bytes], timestamp_ms: int = 1000, codec: int = 0) -> bytes:
    records = records_of(tails)
    checked = wire.checked_part(records, len(tails), timestamp_ms, codec, (9, 2, 77))
    return wire.batch_start(checked, calc_crc32c(checked)) + checked


def encode(rows: list[dict[str, Any]], tracestate: bytes | None = None) -> bytes:
    encoder = RecordEncoder(Routes.of([Flow()]), "/orders", {"order.placed": "https://s"}, 4)
    page, count = page_of(rows), len(rows)
    parents, states = [b"t" * 55] * count, [tracestate] * count
    return batch_bytes(encoder.tails(page, page.event_types, parents, states))


def test_a_batch_is_what_aiokafkas_builder_makes() -> None:
    rows = [{"key": b"o-%d" % n, "payload": b"x" * (n * 37)} for n in range(200)]
    reference = DefaultRecordBatchBuilder(
        2, 0, is_transactional=0, producer_id=9, producer_epoch=2, base_sequence=77,
        batch_size=10_000_000,
    )  # fmt: skip
    for place, row in enumerate(rows):
        reference.append(
            place, 1000, row["key"], row["payload"],
            [
                ("ce_specversion", b"1.0"), ("ce_type", b"order.placed"), ("ce_source", b"/orders"),
                ("content-type", b"application/json"), ("relay_epoch", b"4"),
                ("ce_dataschema", b"https://s"), ("ce_id", str(uuid.UUID(int=place + 1)).encode()),
                ("ce_subject", row["key"]), ("ce_time", b"2000-01-01T00:00:00.000000Z"),
                ("traceparent", b"t" * 55),
            ],
        )  # fmt: skip
    assert encode(rows) == bytes(reference.build())


def decoded(batch: bytes) -> list[Any]:
    read = DefaultRecordBatch(batch)
    assert read.validate_crc()
    return list(read)


def test_every_record_has_the_same_bytes_at_every_republish() -> None:
    rows = [{"key": b"a", "headers": b'{"x": "y"}'}]
    assert encode(rows) == encode(rows)


texts = st.text(min_size=0, max_size=300)


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "key": texts.map(lambda text: text.encode("utf-8", "replace")),
                "payload": st.binary(max_size=70_000).filter(bool),
                "event_id": st.uuids().map(lambda value: value.bytes),
                "created_at": st.integers(-(2**63), 2**63 - 1),
                "event_type": texts.map(lambda text: text.replace("\0", "")),  # as PostgreSQL's
                "headers": st.none()
                | st.dictionaries(texts, texts | st.integers() | st.none()).map(
                    lambda found: __import__("json").dumps(found).encode()
                ),
            }
        ),
        min_size=1,
        max_size=20,
    ),
    st.none() | st.binary(min_size=1, max_size=512),
)
def test_what_a_consumer_reads_is_what_the_rows_hold(
    rows: list[dict[str, Any]], tracestate: bytes | None
) -> None:
    records = decoded(encode(rows, tracestate))
    assert len(records) == len(rows)
    for place, (record, row) in enumerate(zip(records, rows, strict=True)):
        headers = dict(record.headers)
        assert len(headers) == len(record.headers)
        assert (record.offset, record.key, record.value) == (place, row["key"], row["payload"])
        assert headers["ce_id"] == str(uuid.UUID(bytes=row["event_id"])).encode()
        assert headers["ce_subject"] == row["key"]
        assert headers["ce_type"] == row["event_type"].encode("utf-8", "replace")
        assert headers.get("tracestate") == tracestate
        assert len(headers["ce_time"]) == 27


def test_records_beyond_what_is_tabulated() -> None:
    tails = [b"\x01\x01\0"] * 17_000  # no key, no value, no headers
    assert [record.offset for record in decoded(batch_bytes(tails))] == list(range(17_000))
    assert all(
        size >= len(varint(len(tail))) + len(tail) + 2
        for size, tail in zip(record_sizes([b"x" * 100_000]), [b"x" * 100_000], strict=True)
    )


@given(st.integers(-(2**40), 2**40))
def test_varints_are_kafkas(number: int) -> None:
    from aiokafka.record.util import decode_varint  # noqa: PLC0415

    assert decode_varint(varint(number)) == (number, len(varint(number)))


@given(st.lists(st.uuids(), max_size=50))
def test_uuids_as_text(values: list[uuid.UUID]) -> None:
    assert uuid_texts([value.bytes for value in values]) == [str(v).encode() for v in values]


@given(st.lists(st.binary(max_size=70), min_size=1, max_size=60), st.integers(1, 500))
def test_partitions_are_java_murmur2(keys: list[bytes], count: int) -> None:
    expected = [(reference_murmur2(key) & 0x7FFFFFFF) % count for key in keys]
    assert partitions(keys, count) == expected
    assert murmur2(keys[0]) == reference_murmur2(keys[0])


def test_known_hashes_of_javas_own_tests() -> None:
    # org.apache.kafka.common.utils.UtilsTest.testMurmur2
    known = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }
    assert {key: (murmur2(key) ^ 2**31) - 2**31 for key in known} == known


def test_a_thousand_random_keys_spread_over_lengths() -> None:
    luck = random.Random(1)
    keys = [luck.randbytes(luck.randrange(1, 50)) for _ in range(1000)]
    assert partitions(keys, 12) == [(reference_murmur2(k) & 0x7FFFFFFF) % 12 for k in keys]


def test_a_produce_request_is_what_aiokafka_would_send() -> None:
    batches = {"orders": [(0, b"ab", b"cd"), (3, b"", b"x" * 1000)], "é": [(1, b"y", b"")]}
    theirs = ProduceRequest(
        None,
        -1,
        1500,
        [(topic, [(p, a + b) for p, a, b in parts]) for topic, parts in batches.items()],
    ).prepare({0: (0, 7)})
    ours = wire.ProduceRequest(wire.produce_body(batches, 1500)).prepare({0: (3, 13)})
    assert ours.encode() == theirs.encode()
    header = ours.build_request_header(5, "relay").encode()
    assert header == theirs.build_request_header(5, "relay").encode()


def test_a_produce_response_is_read_as_aiokafka_would() -> None:
    response = ProduceResponse_v7(
        [("orders", [(0, 0, 123, -1, 0), (3, 10, -1, -1, -1)]), ("é", [(1, 46, -1, -1, 0)])], 0
    )
    read = io.BytesIO(b"\0\0\0\x05" + response.encode())
    request = wire.ProduceRequest(b"")
    assert request.parse_response_header(read).correlation_id == 5
    assert request.RESPONSE_TYPE.decode(read) == {
        ("orders", 0): (0, 123),
        ("orders", 3): (10, -1),
        ("é", 1): (46, -1),
    }


@pytest.mark.parametrize("versions", [{}, {0: (0, 6)}, {0: (8, 13)}])
def test_a_broker_of_another_age_is_named(versions: dict[int, tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"Kafka 2\.1"):
        wire.ProduceRequest(b"").prepare(versions)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (None, []),
        (b'{"a": "b", "n": 1}', [(b"a", b"b")]),
        (b'{"ce_x": "b", "TraceParent": "c"}', []),
        (b"[1]", []),
        (b"{", []),
        (b"[" * 100_000, []),
        (b'{"a": "1", "a": "2"}', [(b"a", b"2")]),
    ],
)
def test_own_headers(document: bytes | None, expected: list[tuple[bytes, bytes]]) -> None:
    assert own_headers(document) == expected


def test_compression_is_left_out_when_it_does_not_help() -> None:
    gzip = Codec.named("gzip")
    assert gzip.compressed(b"a" * 1000)[1] == 1
    assert gzip.compressed(b"ab") == (b"ab", 0)
    assert Codec.named("none").compressed(b"a" * 1000) == (b"a" * 1000, 0)


def test_a_compressed_batch_is_read_back() -> None:
    encoder, page = (
        RecordEncoder(Routes.of([Flow()]), None, {}, 4),
        page_of([{"payload": b"a" * 500}] * 20),
    )
    tails = encoder.tails(page, page.event_types, [b"t" * 55] * 20, [None] * 20)
    records, codec = Codec.named("gzip").compressed(records_of(tails))
    checked = wire.checked_part(records, 20, 1, codec, (1, 1, 1))
    batch = wire.batch_start(checked, calc_crc32c(checked)) + checked
    assert [record.value for record in decoded(batch)] == [b"a" * 500] * 20


ROUTED = FlowSettings(
    aggregate_type="payment",
    returns_topic="payments.returns",
    confirm_group="payments",
    apply="observe",
    wire="debezium",
    wire_headers={"eventType": "event_type", "aggregate": "aggregate_type"},
)


def test_a_record_of_the_debezium_preset_and_a_tombstone() -> None:
    routes = Routes.of([ROUTED.flow("payments")])
    rows = [
        {"key": b"p-1", "payload": b'{"a": 1}', "aggregate_type": "payment"},
        {"key": b"p-2", "payload": b" null ", "headers": b'{"x": "y", "id": "no", "relay_": "no"}'},
        {"key": b"p-3", "payload": b""},
    ]
    page, encoder = page_of(rows), WireEncoder(routes, None, {}, 4)
    kinds = routes.kinds(page.aggregate_types, page.event_types)
    tails = encoder.tails(page, kinds, [b"t" * 55] * 3, [None, b"v=1", None], b"r")
    whole, tombstone, empty = decoded(batch_bytes(tails))
    assert (whole.key, whole.value) == (b"p-1", b'{"a": 1}')
    assert dict(whole.headers) == {
        "id": str(uuid.UUID(int=1)).encode(),
        "eventType": b"order.placed",
        "aggregate": b"payment",
        "relay_event_type": b"order.placed",
        "relay_created_at": b"2000-01-01T00:00:00.000000Z",
        "relay_epoch": b"4",
        "replay_id": b"r",
        "traceparent": b"t" * 55,
    }
    assert (tombstone.key, tombstone.value, empty.value) == (b"p-2", None, None)
    more = dict(tombstone.headers)
    assert (more["x"], more["tracestate"]) == (b"y", b"v=1")
    assert more["id"] == str(uuid.UUID(int=2)).encode()


def test_a_page_of_two_presets_keeps_its_order() -> None:
    orders = Flow(events={"created": EventRoute("orders.events")})
    routes = Routes.of(beside_each_other([orders, ROUTED.flow("payments")]))
    types = ["order", "payment", "order", "payment", "payment"]
    rows = [
        {"key": b"%d" % number, "event_type": "created", "aggregate_type": one}
        for number, one in enumerate(types)
    ]
    page, encoder = page_of(rows), WireEncoder(routes, None, {}, 4)
    kinds = routes.kinds(page.aggregate_types, page.event_types)
    assert [routes.topic(kind) for kind in kinds[:2]] == ["orders.events", "outbox.event.payment"]
    records = decoded(batch_bytes(encoder.tails(page, kinds, [b"t" * 55] * 5, [None] * 5)))
    assert [record.key for record in records] == [b"0", b"1", b"2", b"3", b"4"]
    assert ["ce_source" in dict(one.headers) for one in records] == [
        one == "order" for one in types
    ]
    assert ["id" in dict(one.headers) for one in records] == [one == "payment" for one in types]


def test_what_was_erased_goes_as_a_tombstone_in_both_presets() -> None:
    rows = [
        {"key": b"1", "payload": b"null", "content_type": ERASED, "aggregate_type": "payment"},
        {"key": b"2", "payload": b"null", "aggregate_type": "payment"},
        {"key": b"3", "payload": b"{}", "aggregate_type": "payment"},
    ]
    page, parents, states = page_of(rows), [b"t" * 55] * 3, [None] * 3
    found = []
    for flow in (Flow(aggregate_type="payment"), ROUTED.flow("payments")):
        routes = Routes.of([flow])
        kinds = routes.kinds(page.aggregate_types, page.event_types)
        tails = WireEncoder(routes, None, {}, 4).tails(page, kinds, parents, states)
        found.append([record.value for record in decoded(batch_bytes(tails))])
    assert found == [[None, b"null", b"{}"], [None, None, b"{}"]]
