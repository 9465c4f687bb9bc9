"""What a reader of a real Jaeger sees of orders that real processes handled: by names and tags."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.corpus.wiring import Wiring
from tests.e2e.conftest import Jaeger, tags

pytestmark = pytest.mark.timeout(240)

INSERT = """
WITH placed AS (
    INSERT INTO orders (order_id, customer_id, items, total, currency)
    VALUES ($1::text::uuid, 'c', '[{"sku": "tea", "quantity": 1, "price": "9.95"}]', 9.95, 'EUR'))
INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload, traceparent)
VALUES ('order', $1, 'order.placed',
        json_build_object('order_id', $1::text, 'total', '9.95', 'currency', 'EUR'), $2)
RETURNING event_id
"""


async def insert(wiring: Wiring, flags: str | None) -> tuple[str, str]:
    """An order whose writer sampled it, did not, or knows of no traces: its id, and its trace's."""
    order, trace_id = str(uuid4()), uuid4().hex
    header = None if flags is None else f"00-{trace_id}-{uuid4().hex[:16]}-{flags}"
    event_id: UUID = await wiring.pg.fetchval(INSERT, order, header)
    return order, event_id.hex if header is None else trace_id


def named(spans: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [span for span in spans if span["operationName"] == name]


async def test_what_became_of_each_order_is_told_by_its_trace(
    wiring: Wiring, jaeger: Jaeger
) -> None:
    wiring.environment |= {**jaeger.environment(), "OTEL_TRACES_EXPORTER": "otlp"}
    events, returns = wiring.events, wiring.returns
    wiring.relay()
    wiring.consumer()
    wiring.processor("--duplicate-rate", "1")
    await wiring.until_up()
    sampled, trace_id = await insert(wiring, "01")
    unsampled, unseen = await insert(wiring, "00")
    plain, made_of_event = await insert(wiring, None)
    await wiring.until_returned([sampled, unsampled, plain])
    wrong = json.dumps({"order_id": sampled, "status": "no such word"}).encode()
    await asyncio.to_thread(wiring.send, returns, sampled, wrong)

    # One that came twice, and one that is held: each says so.
    def handled(spans: list[dict[str, Any]]) -> bool:
        outcomes = [tags(one).get("relay.outcome") for one in named(spans, f"process {returns}")]
        return {"applied", "copy", "held"} <= set(outcomes)

    spans = await asyncio.to_thread(jaeger.wait_for_spans, trace_id, handled, 60)
    by_outcome = {tags(one)["relay.outcome"]: one for one in named(spans, f"process {returns}")}
    assert tags(by_outcome["copy"])["relay.duplicate"] is True
    assert "relay.duplicate" not in tags(by_outcome["applied"])
    assert tags(by_outcome["applied"])["order.status.new"] == "confirmed"
    assert tags(by_outcome["held"])["error"] is True
    (send,) = named(spans, f"send {events}")
    assert {one["operationName"] for one in spans} >= {f"process {events}", f"send {returns}"}
    assert {tags(one)["order.id"] for one in spans} == {sampled}

    # Without a traceparent the trace is made of the event's id, and has one root.
    own = await asyncio.to_thread(
        jaeger.wait_for_spans, made_of_event, lambda found: bool(named(found, f"process {returns}"))
    )
    roots = [one for one in own if not one["references"]]
    assert [one["operationName"] for one in roots] == [f"send {events}"]

    # A replay is a trace of its own; each leads to the other.
    done = await asyncio.to_thread(
        wiring.command, "replay", "--order", sampled, "--all", "--execute", "--yes",
        "--reason", "it was asked for", "--json",
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    replay_id: UUID = await wiring.pg.fetchval("SELECT replay_id FROM relay.replay_job")
    (replay,) = await asyncio.to_thread(
        jaeger.wait_for_spans, replay_id.hex, lambda found: bool(named(found, "replay"))
    )
    assert replay["serviceName"] == "relay-replay"
    assert tags(replay)["relay.replay.reason"] == "it was asked for"
    assert trace_id in {one["traceID"] for one in replay["references"]}
    spans = await asyncio.to_thread(
        jaeger.wait_for_spans, trace_id, lambda found: len(named(found, f"send {events}")) == 2
    )
    (again,) = [one for one in named(spans, f"send {events}") if one["spanID"] != send["spanID"]]
    assert tags(again)["relay.replay_id"] == str(replay_id)
    leads = {(one["traceID"], one["spanID"]) for one in again["references"]}
    assert (replay_id.hex, replay["spanID"]) in leads

    # Later orders' spans have come: of the one that was not sampled none ever will.
    assert jaeger.spans(unseen) == []
