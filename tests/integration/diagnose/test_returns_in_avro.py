"""Returns in Avro: what is said while the registry is away, and once it is there."""

import json

import pytest

from tests.integration.confirm.test_confirm_decoded import RETURNED, value
from tests.schema_registry import SchemaRegistry, schema_registry

pytestmark = pytest.mark.timeout(400)


async def test_an_unreachable_registry_is_said_and_blames_nobody(wiring) -> None:
    held = SchemaRegistry()
    number = held.register("returns", RETURNED)
    with schema_registry(held=held):
        pass  # its port is known, and nobody answers there
    fields = {"order_id": "orderId", "status": "result"}
    wiring.environment |= {
        "RELAY_FLOW_DECODER": json.dumps({"format": "avro", "fields": fields}),
        "RELAY_REGISTRY_URL": held.url,
    }
    (order,) = await wiring.place()
    wiring.send(wiring.returns, "no order's key", value(number, order))
    relay = wiring.relay()
    await wiring.until_published([order])
    relay.terminate()
    wiring.skip_to_end(wiring.group, wiring.events)
    (told,) = await wiring.told([order])
    assert (told.verdict, told.cause) == ("unknown", "registry_unreachable")
    assert held.url in str(told)
    with schema_registry(held.port, held):
        (told,) = await wiring.told([order])
    assert (told.verdict, told.cause) == ("not_confirmed", "consumer_down")
