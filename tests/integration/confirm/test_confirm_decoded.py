"""Hop 5: returns in Avro, through consumer, quarantine, diagnosis, reconcile and replay.

The registry is a test double of the REST contract, on a real port: tests/schema_registry.py.
"""

import io
from dataclasses import replace

import fastavro
import pytest

from relay.consumers.returns.decoding import decoder_for
from relay.diagnose.reconcile.reconciliation import Range, reconcile
from relay.replay.returns import ReturnsUnreadError, Stretch, feed_returns
from relay.runtime.flow import Decoding
from relay.runtime.flow import SchemaRegistry as Where
from relay.runtime.kafka_connection import KafkaConnection
from tests.schema_registry import SchemaRegistry, framed, schema_registry

RETURNED = {
    "type": "record",
    "name": "OrderReturned",
    "fields": [{"name": "orderId", "type": "string"}, {"name": "result", "type": "string"}],
}
FIELDS = (("order_id", ("orderId",)), ("status", ("result",)))


def value(number, order, status="confirmed"):
    stream = io.BytesIO()
    said = {"orderId": order, "result": status}
    fastavro.schemaless_writer(stream, fastavro.parse_schema(RETURNED), said)
    return framed(number, stream.getvalue())


def reading(lab, registry):
    decoding = Decoding("avro", registry=Where(registry.url), fields=FIELDS)
    lab.flow = replace(lab.flow, decoding=decoding)


async def test_poison_and_unknown_schemas_are_held_and_an_unreachable_registry_refuses_nothing(lab):
    orders = await lab.place(4)
    held = SchemaRegistry()
    number = held.register("returns", RETURNED)
    with schema_registry(held=held) as registry:
        reading(lab, registry)
    # It is down: nobody can read what comes, and nothing is refused for it.
    lab.raw(orders[0].encode(), value(number, orders[0]))
    lab.sent()
    running = lab.start()

    async def waits():
        return running.service.waiting_for and "registry" in running.service.waiting_for

    await lab.until(waits)
    assert await lab.pg.fetchval("SELECT count(*) FROM relay.quarantine") == 0
    assert running.service.failure_code.startswith("registry:")
    await lab.until_sql(
        "SELECT EXISTS (SELECT FROM relay.outage_record WHERE resource = 'registry')"
    )
    with schema_registry(held.port, held) as registry:
        await lab.until_confirmed(orders[0])
        await lab.until_sql(
            "SELECT to_at IS NOT NULL FROM relay.outage_record WHERE resource = 'registry'"
        )
        lab.raw(orders[1].encode(), value(number, orders[1])[:-4])  # poison
        lab.raw(orders[2].encode(), value(number + 1, orders[2]))  # of a schema to come
        lab.raw(orders[3].encode(), value(number, orders[3], "rejected"))
        lab.sent()
        await lab.until_handled(4)
        assert await lab.statuses(orders) == ["confirmed", "submitted", "submitted", "rejected"]
        rows = await lab.pg.fetch(
            "SELECT aggregate_id, reason, detail, record_value FROM relay.quarantine"
        )
        refused = {row[0]: row for row in rows}
        assert refused[orders[1]]["reason"] == "malformed"
        assert f"schema {number}" in refused[orders[1]]["detail"]
        assert refused[orders[2]]["reason"] == "unknown_schema"
        assert refused[orders[2]]["record_value"] == value(number + 1, orders[2])
        # Registered, it is released as it came.
        assert registry.register("returns", RETURNED) == number + 1
        await lab.pg.execute(
            "UPDATE relay.quarantine SET state = 'release_requested' WHERE aggregate_id = $1",
            orders[2],
        )
        await lab.until_confirmed(orders[2])


async def test_replay_and_reconcile_read_by_the_same_decoder(lab):
    (order,) = await lab.place()
    held = SchemaRegistry()
    number = held.register("returns", RETURNED)
    with schema_registry(held=held) as registry:
        reading(lab, registry)
        lab.raw(b"no order", value(number, order))
        lab.sent()
        kafka = KafkaConnection(lab.bootstrap_servers)
        fed = await feed_returns(lab.pg, kafka, lab.flow, Stretch(), execute=False)
        assert (fed.read, fed.fed, fed.orders) == (1, 1, {order})
        found = await reconcile(lab.dsn, kafka, lab.flow, Range())
        assert found.tally.counts["returns waiting for the consumer"] == 1
    decoder_for.cache_clear()  # as another process, which has asked nobody yet
    with pytest.raises(ReturnsUnreadError, match="registry"):
        await feed_returns(lab.pg, kafka, lab.flow, Stretch(), execute=False)
