"""Hop 5: returns in Avro, Protobuf and by a function: what is read, held and waited for."""

import io
import json
import sys
import uuid
from dataclasses import replace
from types import SimpleNamespace
from typing import NamedTuple

import fastavro
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from relay.consumers.returns.decoding import DecoderUnavailableError, decoder_for
from relay.consumers.returns.reader import Return, ReturnReader, content_hash
from relay.consumers.returns.refusals import Reason, Refusal
from relay.diagnose.check.decoder import check_decoder
from relay.runtime.flow import Decoding, Flow
from relay.runtime.flow import SchemaRegistry as Where
from relay.runtime.settings import load_settings
from relay.runtime.settings_sources import SettingsError
from tests.schema_registry import framed, schema_registry

ORDER = "5bc02ba4-22b1-4a0a-8a0f-2d3a6dd0a7ee"
STATUS = {
    "type": "enum",
    "name": "Status",
    "namespace": "shop",
    "symbols": ["submitted", "processing", "confirmed", "rejected"],
}
RETURNED = {
    "type": "record",
    "name": "OrderReturned",
    "namespace": "shop",
    "fields": [
        {"name": "order_id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "status", "type": STATUS},
        {"name": "reason", "type": ["null", "string"], "default": None},
    ],
}
NESTED = {
    "type": "record",
    "name": "Answer",
    "fields": [
        {"name": "orderId", "type": "string"},
        {
            "name": "result",
            "type": {"type": "record", "name": "R", "fields": [{"name": "code", "type": "string"}]},
        },
    ],
}


class Record(NamedTuple):
    value: bytes | None
    key: bytes | None = ORDER.encode()
    headers: tuple = ()
    topic: str = "orders.returns"
    partition: int = 2
    offset: int = 7
    timestamp: int = 1_700_000_000_000


def avro(schema, value):
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), value)
    return stream.getvalue()


def said(status="confirmed", **more):
    return {"order_id": uuid.UUID(ORDER), "status": status, "reason": None, **more}


def reader_of(**decoding):
    return ReturnReader(replace(Flow(), decoding=Decoding(**decoding)))


async def read(reader, value, **more):
    record = Record(value, **more)
    await reader.prepare([record])
    return reader.read(record)


@pytest.fixture
def registry():
    with schema_registry() as served:
        yield served


def by(registry, **more):
    return reader_of(format="avro", registry=Where(registry.url), **more)


async def test_avro_by_the_registry_and_each_schema_is_asked_for_once(registry):
    number = registry.register("orders.returns-value", RETURNED)
    reader = by(registry)
    found = await read(reader, framed(number, avro(RETURNED, said(reason="paid"))))
    assert isinstance(found, Return)
    assert (found.order_id, found.status, found.reason) == (ORDER, "confirmed", "paid")
    await read(reader, framed(number, avro(RETURNED, said("rejected"))))
    assert registry.asked == [f"/schemas/ids/{number}"]


async def test_a_schema_that_uses_others(registry):
    registry.register("status", STATUS)
    fields = [RETURNED["fields"][0], {"name": "status", "type": "shop.Status"}]
    using = RETURNED | {"fields": fields}
    reference = {"name": "shop.Status", "subject": "status", "version": 1}
    number = registry.register("returns", using, references=(reference,))
    value = avro(RETURNED, said())[:-1]  # without the reason
    found = await read(by(registry), framed(number, value))
    assert isinstance(found, Return)
    assert found.status == "confirmed"


async def test_fields_of_other_names(registry):
    number = registry.register("returns", NESTED)
    fields = (("order_id", ("orderId",)), ("status", ("result", "code")))
    reader = by(registry, fields=fields)
    value = avro(NESTED, {"orderId": ORDER, "result": {"code": "rejected"}})
    assert (await read(reader, framed(number, value), key=None)).status == "rejected"
    reader = reader_of(fields=fields)
    value = json.dumps({"orderId": ORDER, "result": {"code": "rejected"}}).encode()
    assert (await read(reader, value, key=None)).status == "rejected"


@pytest.mark.parametrize(
    ("value", "detail"),
    [
        (b"", "not Avro"),
        (b"\xff" * 40, "not Avro"),
        (avro(RETURNED, said()) + b"x", "1 bytes too many"),
        (avro(RETURNED, said())[:-2], "not Avro"),
    ],
)
async def test_poison_is_held_and_its_words_hold_nothing_of_it(registry, value, detail):
    number = registry.register("returns", RETURNED)
    found = await read(by(registry), framed(number, value))
    assert isinstance(found, Refusal)
    assert (found.reason, found.order_id) == (Reason.MALFORMED, ORDER)
    assert f"schema {number}: {detail}" in found.detail or detail in found.detail


async def test_an_unknown_schema_is_held_and_read_once_it_is_registered(registry):
    reader, value = by(registry), framed(100_001, avro(RETURNED, said()))
    found = await read(reader, value)
    assert isinstance(found, Refusal)
    assert (found.reason, found.order_id) == (Reason.UNKNOWN_SCHEMA, ORDER)
    assert "100001" in found.detail
    assert registry.register("returns", RETURNED) == 100_001
    assert (await read(reader, value)).status == "confirmed"


@pytest.mark.parametrize(
    ("schema", "kind", "detail"),
    [("{", "AVRO", "cannot be used"), ("syntax = 'proto3';", "PROTOBUF", "PROTOBUF, not Avro")],
)
async def test_a_schema_that_cannot_be_used(registry, schema, kind, detail):
    number = registry.register("returns", schema, kind)
    found = await read(by(registry), framed(number, b"x"))
    assert (found.reason, detail in found.detail) == (Reason.UNKNOWN_SCHEMA, True)


async def test_a_registry_that_does_not_answer_refuses_nothing(registry):
    number = registry.register("returns", RETURNED)
    record = Record(framed(number, avro(RETURNED, said())))
    for failing in (500, 503, 403):
        registry.failing = failing
        with pytest.raises(DecoderUnavailableError, match=str(failing)):
            await by(registry).prepare([record])
    with pytest.raises(DecoderUnavailableError, match=str(number)):
        by(registry).read(record)
    registry.failing = None
    reader = by(registry)
    await reader.prepare([record])
    registry.failing = 500
    assert reader.read(record).status == "confirmed"


async def test_what_is_no_registry_is_an_outage_and_not_an_unknown_schema(registry):
    decoding = Decoding("avro", registry=Where(registry.url + "/elsewhere"))
    reader = ReturnReader(replace(Flow(), decoding=decoding))
    with pytest.raises(DecoderUnavailableError, match="404"):
        await reader.prepare([Record(framed(1, b""))])
    gone = ReturnReader(
        replace(Flow(), decoding=Decoding("avro", registry=Where("http://127.0.0.1:1")))
    )
    with pytest.raises(DecoderUnavailableError, match="does not answer"):
        await gone.prepare([Record(framed(1, b""))])


async def test_a_registry_with_a_login_and_no_password_in_any_word(registry):
    registry.login = "Basic cmVhZGVyOnA6dw=="  # reader:p:w
    number = registry.register("returns", RETURNED)
    url = registry.url.replace("//", "//reader:p%3Aw@")
    reader = reader_of(format="avro", registry=Where(url))
    value = framed(number, avro(RETURNED, said()))
    assert (await read(reader, value)).status == "confirmed"
    wrong = Where(registry.url.replace("//", "//reader:secret@"))
    assert "secret" not in repr(wrong)
    with pytest.raises(DecoderUnavailableError) as caught:
        await reader_of(format="avro", registry=wrong).prepare([Record(value)])
    assert "401" in str(caught.value)
    assert "secret" not in str(caught.value)
    flow = replace(Flow(), decoding=Decoding("avro", registry=wrong))
    (checked,) = await check_decoder(flow)
    assert (checked.state.value, "secret" in checked.found) == ("failed", False)


async def test_json_among_avro_is_read_and_so_is_framed_json(registry):
    value = json.dumps({"status": "confirmed"}).encode()
    assert (await read(by(registry), value)).status == "confirmed"
    assert (await read(reader_of(), framed(7, value))).status == "confirmed"
    assert registry.asked == []


async def test_avro_without_framing_by_one_schema(tmp_path):
    file = tmp_path / "returned.avsc"
    file.write_text(json.dumps(RETURNED))
    reader = reader_of(format="avro", schema_file=str(file))
    assert (await read(reader, avro(RETURNED, said()))).status == "confirmed"
    assert (await read(reader, b"\x02x")).reason is Reason.MALFORMED


def proto():
    file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    for name in ("OrderPlaced", "OrderReturned"):
        message = file.message_type.add(name=name)
        message.field.add(name="order_id", number=1, type=9, label=1)
        message.field.add(name="status", number=2, type=14, label=1, type_name=".shop.Status")
        message.field.add(name="reason", number=3, type=9, label=1)
    status = file.enum_type.add(name="Status")
    for number, name in enumerate(("submitted", "confirmed", "rejected")):
        status.value.add(name=name, number=number)
    return descriptor_pb2.FileDescriptorSet(file=[file])


@pytest.fixture
def descriptors(tmp_path):
    file = tmp_path / "shop.desc"
    file.write_bytes(proto().SerializeToString())
    return str(file)


def message(**values):
    pool = descriptor_pool.DescriptorPool()
    pool.Add(proto().file[0])
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.OrderReturned"))
    return kind(**values).SerializeToString()


async def test_protobuf_bare_and_framed(descriptors):
    reader = reader_of(format="protobuf", schema_file=descriptors, message="shop.OrderReturned")
    value = message(order_id=ORDER, status=1, reason="paid")
    found = await read(reader, value, key=None)
    assert (found.order_id, found.status, found.reason) == (ORDER, "confirmed", "paid")
    # Confluent's: how many indexes, zigzag, then each; the second message of the file is 1.
    assert (await read(reader, framed(7, b"\x02\x02" + value))).status == "confirmed"
    first = await read(reader, framed(7, b"\x00" + value))
    assert (first.reason, "another message" in first.detail) == (Reason.MALFORMED, True)
    assert (await read(reader, message(status=2))).order_id == ORDER  # by its key
    for poison in (b"\x0a\xff", b"\xff\xff", framed(7, b"\xff" * 20), framed(7, b"")):
        assert (await read(reader, poison)).reason is Reason.MALFORMED
    unwritten = message(order_id=ORDER)  # proto3 writes no enum that is its first
    assert (await read(reader, unwritten)).status == "submitted"


async def test_a_function_of_the_users_own(monkeypatch):
    def decode(value, headers, key):
        if value == b"away":
            raise TimeoutError("registry")
        kind, _, status = value.partition(b"|")
        return {"status": {b"A": "confirmed"}[status], "order_id": key.decode(), "kind": kind}

    monkeypatch.setitem(sys.modules, "their_returns", SimpleNamespace(decode=decode, text="x"))
    reader = reader_of(format="python", function="their_returns:decode")
    assert (await read(reader, b"17|A")).status == "confirmed"
    held = await read(reader, b"17|secret")
    assert (held.reason, "secret" in held.detail) == (Reason.MALFORMED, False)
    with pytest.raises(DecoderUnavailableError, match="registry"):
        reader.read(Record(b"away"))
    for wrong in (
        "their_returns:nothing",
        "no_such_module:f",
        "their_returns",
        "their_returns:text",
    ):
        with pytest.raises(SettingsError, match="decoder: function"):
            decoder_for(Decoding("python", function=wrong))


def test_two_returns_of_other_bytes_are_never_copies():
    # Value and key together are the same bytes; where one ends and the other begins is not.
    one, other = Record(b"a\0b", key=b"c"), Record(b"a", key=b"b\0c")
    assert content_hash(one) != content_hash(other)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('format = "xml"', "format"),
        ('format = "avro"', "registry"),
        ('format = "protobuf"', "needs message, schema_file"),
        ('format = "python"', "needs function"),
        ('format = "json"\nmessage = "x"', "message: not of format json"),
        ('format = "avro"\nschema = "x"', "did you mean .*schema_file"),
        ('fields = { state = "x" }', "one of order_id, status, reason"),
        ('fields = { status = "a..b" }', "status"),
    ],
)
def test_settings_that_contradict_each_other_are_named(tmp_path, text, says):
    file = tmp_path / "relay.toml"
    file.write_text(f"[flow.orders.decoder]\n{text}\n")
    with pytest.raises(SettingsError, match=says):
        load_settings(config=file, environment={}).flow  # noqa: B018 - it is built here


async def test_files_that_cannot_be_used_are_named(tmp_path, descriptors):
    text, avsc = tmp_path / "text", tmp_path / "other.avsc"
    text.write_text("{")
    avsc.write_text(json.dumps(NESTED))
    for decoding, says in [
        (Decoding("avro", schema_file=str(tmp_path / "none")), "No such file"),
        (Decoding("avro", schema_file=str(text)), "no Avro schema"),
        (Decoding("avro", schema_file=str(avsc)), "no field 'status'.*orderId, result"),
        (Decoding("protobuf", schema_file=str(text), message="a"), "protoc"),
        (Decoding("protobuf", schema_file=descriptors, message="shop.Gone"), "OrderReturned"),
    ]:
        with pytest.raises(SettingsError, match=says):
            decoder_for(decoding)
        (checked,) = await check_decoder(replace(Flow(), decoding=decoding))
        assert checked.state.value == "failed"
