"""A real Prometheus over two flows of one outbox: each gauge and alert is of its own flow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.corpus.wiring import Wiring
from tests.e2e.prometheus_stage import QUICK, Prometheus, Stage
from tests.integration.test_two_flows import FLOW, TABLE, WIRES

pytestmark = pytest.mark.timeout(300)

# Those with a flow's label whose state is made here; the other flow is in order.
OF_A_FLOW = {
    "RelayReturnsOverdue", "RelayOrdersWithoutEvent", "RelayQuarantine", "RelayNoConsumer",
}  # fmt: skip
GAUGES = (
    "relay_incidents_open", "relay_orders_without_event",
    "relay_quarantine_rows", "relay_hop_waiting", "relay_hop_oldest_age_seconds",
    "relay_consumer_active", "relay_outbox_lag_seconds",
)  # fmt: skip
WITH_EVENT = """
WITH made AS (INSERT INTO shop.{name}s (id) VALUES ($1) RETURNING id)
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT '{name}', id, 'created', '{{}}' FROM made
"""


async def test_each_flow_has_gauges_and_alerts_of_its_own(
    wiring: Wiring,
    prometheus: Prometheus,
    postgres_url: str,
    tmp_path: Path,
    eventually: Callable[..., Awaitable[object]],
) -> None:
    stage = Stage(wiring, prometheus, postgres_url)
    topics = await _two_flows(wiring, tmp_path)
    await eventually(prometheus.answers, 20)
    await stage.scraped("relay", wiring.start("run"))
    consumers = {
        name: await stage.scraped(name, wiring.start("confirm", "--flow", f"{name}s"))
        for name in WIRES
    }
    await eventually(lambda: _of_both(prometheus), 40)
    # Payments are lost, written past the outbox, answered with nonsense, and nobody reads returns.
    await wiring.pg.execute(WITH_EVENT.format(name="payment"), 1)
    await wiring.pg.execute("INSERT INTO shop.payments (id) VALUES (2)")
    _return(wiring, topics["payment"], b"1", b"no JSON")
    await stage.fires(*OF_A_FLOW - {"RelayNoConsumer"})
    consumers["payment"].kill()
    await stage.fires("RelayNoConsumer")
    # Both have order 1; what befell the payment says nothing of it.
    await wiring.pg.execute(WITH_EVENT.format(name="order"), 1)
    _return(wiring, topics["order"], b"1", b'{"status": "done"}')
    await eventually(lambda: wiring.pg.fetchval("SELECT status = 'done' FROM shop.orders"), 20)
    assert _firing(prometheus) == {(name, "payments") for name in OF_A_FLOW}
    # Mended: all of them stop.
    consumers["payment"] = await stage.scraped(
        "payment", wiring.start("confirm", "--flow", "payments")
    )
    _return(wiring, topics["payment"], b"1", b'{"status": "done"}')
    await wiring.pg.execute("UPDATE shop.payments SET status = 'done' WHERE id = 2")
    await wiring.pg.execute("UPDATE relay.quarantine SET state = 'discarded'")
    await stage.stops(*OF_A_FLOW, within=60)


async def _two_flows(wiring: Wiring, folder: Path) -> Mapping[str, str]:
    """Set up orders and payments, with the same ids; return their returns topics."""
    await wiring.pg.execute("CREATE SCHEMA shop")
    text, returns = "", {}
    for name, wire in WIRES.items():
        await wiring.pg.execute(TABLE.format(name=name))
        events = wiring.topics.create(f"{name}.events", 1)
        returns[name] = wiring.topics.create(f"{name}.returns", 1)
        text += FLOW.format(
            name=name, events=events, returns=returns[name], suffix=wiring.topics.suffix, wire=wire
        )
    config = folder / "relay.toml"
    config.write_text(text)
    for setting in [one for one in wiring.environment if one.startswith("RELAY_FLOW_")]:
        del wiring.environment[setting]
    wiring.environment |= {"RELAY_CONFIG": str(config), **QUICK}
    return returns


def _of_both(prometheus: Prometheus) -> bool:
    """Whether each gauge is there for both flows."""
    flows = {"orders", "payments"}
    return all(
        flows <= {one["metric"].get("flow") for one in prometheus.now(gauge)} for gauge in GAUGES
    )


def _firing(prometheus: Prometheus) -> set[tuple[str, str]]:
    """Return which alerts of a flow fire now, and of which flow."""
    found = [one["metric"] for one in prometheus.now('ALERTS{alertstate="firing"}')]
    return {(one["alertname"], one["flow"]) for one in found if one["alertname"] in OF_A_FLOW}


def _return(wiring: Wiring, topic: str, key: bytes, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": wiring.bootstrap, "log_level": 0})
    producer.produce(topic, key=key, value=value)
    assert producer.flush(10) == 0
