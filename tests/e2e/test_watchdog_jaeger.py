"""Lost orders are found in a real Jaeger by verdict and hop, sampled or not, in their own trace."""

import json
from uuid import UUID

import asyncpg
import pytest

from relay.diagnose.watch.overdue_spans import OverdueSpans
from relay.diagnose.watch.round import Round, WatchOptions
from relay.runtime.flow import EventRoute, Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.telemetry.tracing import Tracing, configure

pytestmark = pytest.mark.timeout(180)

SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-00"


async def insert(pg: asyncpg.Connection, traceparent: str | None, *, event: bool = True) -> str:
    """An order of an hour ago, without a relay that would publish it."""
    order_id: str = await pg.fetchval(
        """INSERT INTO orders (order_id, customer_id, items, total, currency, submitted_at)
           VALUES (gen_random_uuid(), 'c', '[]', 1, 'EUR', now() - interval '1 hour')
           RETURNING order_id::text"""
    )
    if event:
        await pg.execute(
            """INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload,
                                         traceparent, created_at)
               VALUES ('order', $1, 'order.placed', '{}', $2, now() - interval '1 hour')""",
            order_id,
            traceparent,
        )
    return order_id


def tags(span: dict) -> dict:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def tracing_to(jaeger) -> Tracing:
    return configure(
        "relay",
        {**jaeger.environment(), "OTEL_TRACES_SAMPLER": "parentbased_always_off"},
        version="1",
        instance_id="1",
        install=False,
    )


async def test_a_search_by_verdict_and_hop_finds_the_lost_orders(
    jaeger, pg, kafka_bootstrap
) -> None:
    await pg.execute("UPDATE relay.installation SET watched_since = now() - interval '1 day'")
    sampled = await insert(pg, SAMPLED)
    unsampled = await insert(pg, UNSAMPLED)
    plain = await insert(pg, None)
    bypassed = await insert(pg, None, event=False)
    tracing = tracing_to(jaeger)
    flow = Flow(events={"order.placed": EventRoute("orders.events", 900.0)})
    kafka = KafkaConnection(kafka_bootstrap)
    work = Round(pg, kafka, flow, WatchOptions(), OverdueSpans(tracing, flow))
    report = await work.run()
    again = await work.run()
    assert (report.opened, report.reported, again.reported) == (4, 4, 0)
    assert tracing.close(20)

    def spans_of(trace_id: str, count: int) -> list[dict]:
        return jaeger.wait_for_spans(trace_id, lambda spans: len(spans) >= count)

    (overdue,) = spans_of("4bf92f3577b34da6a3ce929d0e0e4736", 1)
    said = tags(overdue)
    assert overdue["operationName"] == "return delayed: not_published"
    assert overdue["serviceName"] == "relay-watchdog"
    # From the last proof, an hour ago, until it was looked at; Jaeger counts microseconds.
    assert 3_590e6 < overdue["duration"] < 3_700e6
    assert said["order.id"] == sampled
    assert (said["order.hop"], said["order.verdict"]) == ("publish", "not_published")
    assert (said["error"], said["otel.status_code"]) == (True, "ERROR")
    assert said["order.evidence.place"].startswith("ok ")
    assert overdue["references"][0]["spanID"] == "00f067aa0ba902b7"

    spans = spans_of("5bf92f3577b34da6a3ce929d0e0e4736", 2)
    rebuilt = [one for one in spans if tags(one).get("relay.reconstructed") is True]
    assert [one["operationName"] for one in rebuilt] == ["create orders.events"]
    assert rebuilt[0]["spanID"] == "00f067aa0ba902b8"
    assert rebuilt[0]["serviceName"] == "relay-reconstructed"
    assert not any(one.get("warnings") for one in spans)
    assert {tags(one)["order.id"] for one in spans} == {unsampled}

    event_id: UUID = await pg.fetchval(
        "SELECT event_id FROM relay.outbox WHERE aggregate_id = $1", plain
    )
    own = spans_of(event_id.hex, 2)
    assert {tags(one)["order.id"] for one in own} == {plain}

    def found(**wanted: str) -> set[str]:
        traces = jaeger.search("relay-watchdog", wanted)
        orders = {tags(span).get("order.id") for trace in traces for span in trace["spans"]}
        # Other tests' orders are under the same service.
        return orders & {sampled, unsampled, plain, bypassed}

    assert found(**{"order.verdict": "not_published"}) == {sampled, unsampled, plain}
    assert found(**{"order.verdict": "no_outbox_row"}) == {bypassed}
    assert found(**{"order.hop": "place"}) == {bypassed}
    evidence = json.loads(await pg.fetchval("SELECT evidence FROM relay.overdue LIMIT 1"))
    assert len(evidence["lines"]) == 5
    await how_they_ended(jaeger, pg, work, {"returned": sampled, "closed": unsampled})


async def how_they_ended(
    jaeger, pg: asyncpg.Connection, work: Round, orders: dict[str, str]
) -> None:
    """One comes back after all, one is closed by hand: their traces say so, once."""
    await pg.execute(
        "UPDATE orders SET status = 'confirmed', returned_at = now() WHERE order_id = $1::uuid",
        orders["returned"],
    )
    await pg.execute(
        """UPDATE relay.overdue SET closed_at = now(), closed_as = 'closed', closed_by = 'kim',
                  closed_why = 'refunded' WHERE aggregate_id = $1""",
        orders["closed"],
    )
    tracing = tracing_to(jaeger)
    work.spans = OverdueSpans(tracing, work.flow)
    report, again = await work.run(), await work.run()
    assert (report.settled, again.settled, again.reported) == (2, 0, 0)
    assert tracing.close(20)

    def span_called(name: str, trace_id: str) -> tuple[dict, list[dict]]:
        spans = jaeger.wait_for_spans(
            trace_id, lambda spans: name in {one["operationName"] for one in spans}
        )
        return next(one for one in spans if one["operationName"] == name), spans

    late, spans = span_called("return came late: not_published", SAMPLED[3:35])
    missing = next(s for s in spans if s["operationName"] == "return delayed: not_published")
    assert late["references"][0]["spanID"] == missing["spanID"]
    closed, _ = span_called("return closed by hand: not_published", UNSAMPLED[3:35])
    assert tags(closed)["order.closed_why"] == "refunded"
