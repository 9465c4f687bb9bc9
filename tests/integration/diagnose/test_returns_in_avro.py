"""Returns in Avro: what is said while the registry is away, and of schemas it does not know."""

import json

import pytest

from tests.integration.confirm.test_confirm_decoded import RETURNED, value
from tests.integration.diagnose.test_statuses_that_do_not_stand import (
    QUICK,
    checked,
    until_told,
)
from tests.schema_registry import SchemaRegistry, schema_registry

pytestmark = pytest.mark.timeout(540)


async def test_an_unreachable_registry_is_said_and_an_unknown_schema_is_held(
    wiring,
) -> None:
    held = SchemaRegistry()
    number = held.register("returns", RETURNED)
    with schema_registry(held=held):
        pass  # its port is known, and nobody answers there
    fields = {"order_id": "orderId", "status": "result"}
    wiring.environment |= {
        "RELAY_FLOW_DECODER": json.dumps({"format": "avro", "fields": fields}),
        "RELAY_REGISTRY_URL": held.url,
    }
    first, second = await wiring.place(2)
    wiring.send(wiring.returns, first, value(number, first))
    wiring.send(wiring.returns, second, value(number + 1, second))
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    await wiring.until_overdue([first, second])
    await until_told(wiring, [first, second], "registry_unreachable")
    found = json.loads(wiring.command("diagnose", first, "--json").stdout)["orders"][0]
    assert (found["verdict"], found["cause"]) == ("unknown", "registry_unreachable")
    seen = checked(wiring, "returns.decoder")
    assert (seen["state"], held.url in seen["found"]) == ("failed", True)
    with schema_registry(held.port, held):
        await wiring.until_returned([first])
        await until_told(wiring, [second], "return_unknown_schema")
        assert checked(wiring, "returns.decoder")["state"] == "ok"
        held.register("returns", RETURNED)
        reason = ("--reason", "registered")
        done = wiring.command("quarantine", "release", "--order", second, *reason)
        assert done.returncode == 0, done.stderr
        await wiring.until_returned([second])
