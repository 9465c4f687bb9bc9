"""A real Prometheus over a system that goes through every state: each metric, alert and panel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from relay.diagnose.watch.completeness import MINUTE, minutes
from relay.embedded.ports import free_port
from relay.runtime.flow import EventRoute, Flow
from tests.corpus.wiring import Wiring
from tests.e2e.prometheus_stage import (
    ALERTS,
    OF_A_WITNESS,
    QUICK,
    Prometheus,
    Stage,
    without_data,
)
from tests.every_metric import every_metric

pytestmark = pytest.mark.timeout(300)

OURS = {name: rule for name, rule in ALERTS.items() if OF_A_WITNESS not in rule["expr"]}
# A record that no consumer and no quarantine takes: both are asked for a place in vain.
REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'full up'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON relay.quarantine FOR EACH ROW EXECUTE FUNCTION refuse();
"""
WITHOUT_EVENT = """
UPDATE orders SET status = 'confirmed'
 WHERE order_id::text NOT IN (SELECT aggregate_id FROM relay.outbox)
"""
STEAL = """
UPDATE relay.lease SET owner = 'somebody', epoch = epoch + 1, released_at = NULL,
       expires_at = clock_timestamp() + interval '1 hour'
"""
GIVE_BACK = "UPDATE relay.lease SET released_at = clock_timestamp() WHERE owner = 'somebody'"


async def _backdated(wiring: Wiring, count: int, status: str) -> None:
    """Orders of the minutes whose deadline passes now and next, so that the test need not wait."""
    flow = Flow(events={"order.placed": EventRoute(wiring.events, wiring.deadline_seconds)})
    now = await wiring.pg.fetchval("SELECT clock_timestamp()")
    ends = minutes(now, flow)
    await wiring.pg.execute("UPDATE relay.installation SET watched_since = now() - interval '1 h'")
    for end in {one + after for one in ends.values() for after in (timedelta(0), MINUTE)}:
        for _ in range(count):
            await wiring.pg.execute(
                """WITH o AS (INSERT INTO orders (order_id, customer_id, items, total, currency,
                                                  status, submitted_at)
                              VALUES ($1, 'c', '[]', 1, 'EUR', $2,
                                      $3::timestamptz - interval '30 s'))
                   INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload,
                                             created_at)
                   VALUES ('order', $1::text, 'order.placed', '{}',
                           $3::timestamptz - interval '30 s')""",
                uuid4(),
                status,
                end,
            )


async def _losses(stage: Stage, processor: Any) -> Any:
    """No processor, a writer that bypasses the outbox, returns that cannot be applied."""
    wiring = stage.wiring
    processor.terminate()
    await wiring.place(2)
    await wiring.insert_these([str(uuid4())])
    for _ in range(3):
        await asyncio.to_thread(wiring.send, wiring.returns, "k", b"no JSON")
    await stage.fires(
        "RelayHopUnserved",
        "RelayReturnsOverdue",
        "RelayIncidentOpen",
        "RelayHopStuck",
        "RelayOrdersWithoutEvent",
        "RelayQuarantine",
        "RelayQuarantineFull",
    )
    processor = wiring.processor(RELAY_METRICS_ENABLED="false")
    await stage.fires("RelayReturnsSlow")
    await wiring.pg.execute(WITHOUT_EVENT)
    await wiring.pg.execute("UPDATE relay.quarantine SET state = 'discarded'")
    await stage.stops(
        "RelayHopUnserved",
        "RelayHopStuck",
        "RelayReturnsOverdue",
        "RelayReturnsSlow",
        "RelayOrdersWithoutEvent",
        "RelayQuarantine",
    )
    return processor


async def _gaps(stage: Stage, consumer: Any) -> Any:
    """Returns that were deleted before anybody read them; a record that nothing takes."""
    wiring = stage.wiring
    consumer.kill()
    await asyncio.to_thread(wiring.send, wiring.returns, "k", b"no JSON")
    await asyncio.to_thread(wiring.delete_records, wiring.returns)
    await stage.fires("RelayTargetDown", "RelayNoConsumer")
    await wiring.pg.execute(REFUSE)
    consumer = await stage.scraped("confirm", wiring.consumer())
    await stage.fires("RelayOffsetGap")
    await asyncio.to_thread(wiring.send, wiring.returns, "k", b"no JSON")
    await stage.fires("RelayPartitionBlocked")
    await wiring.pg.execute("DROP TRIGGER refuse ON relay.quarantine")
    await stage.stops("RelayTargetDown", "RelayNoConsumer", "RelayOffsetGap")
    return consumer


async def _leases(stage: Stage, empty_database: str) -> None:
    """Somebody else holds the leases; rounds that fail; another database behind the name."""
    wiring = stage.wiring
    prometheus = stage.prometheus
    await wiring.pg.execute(STEAL)
    await wiring.place(1)
    await stage.fires("RelayNobodyActive", "RelayNoWatchdog")
    gone = prometheus.now("relay_overdue_orders or relay_hop_waiting or relay_incidents_open")
    assert gone == [], "what a watchdog measured goes with its lease"
    await wiring.pg.execute(GIVE_BACK)
    await stage.stops("RelayNobodyActive", "RelayNoWatchdog")
    await wiring.pg.execute("ALTER TABLE relay.maintenance RENAME TO mislaid")
    await stage.fires("RelayDutyFailing", "RelayNotMeasured")
    await wiring.pg.execute("ALTER TABLE relay.mislaid RENAME TO maintenance")
    assert wiring.command("migrate", "--sample", DATABASE_URL=empty_database).returncode == 0
    other = await stage.scraped("other", wiring.relay(DATABASE_URL=empty_database))
    await stage.fires("RelayTwoActive")
    other.terminate()
    del prometheus.targets["other"]
    prometheus.write()
    await stage.stops("RelayTwoActive", "RelayNotMeasured", "RelayDutyFailing")


async def _database_away(stage: Stage) -> None:
    """All that a database takes with it, and that all of it stops."""
    wiring = stage.wiring
    await stage.database_away()
    await stage.fires(
        "RelayDependencyAway", "RelayProbeStale", "RelayProbeStopped", "RelayNobodyActive",
        "RelayNoConsumer", "RelayNoWatchdog",
    )  # fmt: skip
    await stage.database_back()
    await wiring.pg.execute("UPDATE relay.quarantine SET state = 'discarded'")
    orders = await wiring.place(3)
    await wiring.until_returned(orders)
    await stage.fires("RelaySpansDropped", within=60)
    await stage.stops(*OURS.keys() - {"RelaySpansDropped"}, within=90)


async def test_every_metric_every_alert_and_every_panel(
    wiring: Wiring,
    prometheus: Prometheus,
    postgres_url: str,
    empty_database: str,
    eventually: Callable[..., Awaitable[Any]],
) -> None:
    stage = Stage(wiring, prometheus, postgres_url)
    wiring.environment |= QUICK
    wiring.environment["OTEL_TRACES_EXPORTER"] = "otlp"
    wiring.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
    wiring.environment["RELAY_CONFIRM_QUARANTINE_ROWS"] = "1"
    await eventually(prometheus.answers, 20)
    await stage.fires("RelayNothingScraped")
    await _backdated(wiring, 5, "submitted")  # missing, and long due
    relay = await stage.scraped("relay", wiring.relay())
    consumer = await stage.scraped("confirm", wiring.consumer())
    await stage.stops("RelayNothingScraped")
    await stage.fires("RelayReturnBurnFast", "RelayReturnBurnSlow")
    processor = wiring.processor(RELAY_METRICS_ENABLED="false")
    await wiring.until_up()

    # Orders that come in time, and a canary.
    await stage.scraped("probe", wiring.start("probe", "--create-topic", "--every", "1"))
    orders = await wiring.place(5)
    await wiring.until_returned(orders)
    processor = await _losses(stage, processor)
    consumer = await _gaps(stage, consumer)
    await _leases(stage, empty_database)
    await _database_away(stage)

    fired = await asyncio.to_thread(prometheus.alerts, "firing", ever=True)
    assert OURS.keys() - fired - stage.seen["firing"] == set()
    pending = await asyncio.to_thread(prometheus.alerts, "pending", ever=True)
    # What a Prometheus finds as it starts it does not write as pending; promtool's tests have that.
    waiting = {name for name, rule in OURS.items() if "for" in rule} - {"RelayNothingScraped"}
    assert waiting - pending - stage.seen["pending"] == set()
    await _everything_has_data(prometheus)
    for process in (relay, consumer, processor):
        assert process.is_running()
    await wiring.pg.close()  # the one that database_back opened


async def _everything_has_data(prometheus: Prometheus) -> None:
    names = {
        sample.name
        for family in every_metric().registry.collect()
        for sample in family.samples
        if sample.name.startswith("relay_")
    }
    found = await without_data(prometheus, names, lambda text: OF_A_WITNESS not in text)
    assert found == (set(), []), "metrics that were never set, queries without data"
    for hop in ("publish", "process", "return", "confirm", "end_to_end"):
        name = f"relay_{hop}_latency_seconds_bucket"
        found_of_hop = await asyncio.to_thread(prometheus.exemplars, name)
        assert found_of_hop, name
        assert len(found_of_hop[0]["exemplars"][0]["labels"]["trace_id"]) == 32
