"""Orders through every service, and their traces as a real Jaeger shows them."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

Eventually = Callable[..., Awaitable[Any]]

CLIENT = "00-{trace_id}-00f067aa0ba902b7-{flags}"
NAMES = {
    "POST /orders",
    "create orders.events",
    "send orders.events",
    "process orders.events",
    "send orders.returns",
    "process orders.returns",
}


@dataclass
class Loop:
    """The four services of one flow, on topics and groups of this test's own."""

    start: Any
    environment: dict[str, str]
    events: str
    returns: str
    url: str = ""
    running: dict[str, Any] = field(default_factory=dict)

    def run(self, name: str) -> Any:
        arguments = {
            "serve": ("--json", "sample", "serve", "--port", "0"),
            "relay": ("run",),
            "processor": ("sample", "processor", "--processing-first"),
            "confirm": ("confirm",),
        }[name]
        self.running[name] = self.start(*arguments, env=self.environment)
        return self.running[name]

    async def listening(self, eventually: Eventually) -> None:
        serve = self.run("serve")
        await eventually(lambda: '"url"' in serve.stdout, within_seconds=60)
        self.url = json.loads(serve.stdout)["url"]

    def place(self, traceparent: str | None = None) -> dict[str, Any]:
        order = {
            "customer_id": "c-1",
            "currency": "EUR",
            "items": [{"sku": "tea", "quantity": 1, "price": "4.00"}],
        }
        headers = {"Content-Type": "application/json", "Idempotency-Key": uuid4().hex}
        if traceparent is not None:
            headers["traceparent"] = traceparent
        request = urllib.request.Request(
            f"{self.url}/orders", json.dumps(order).encode(), headers, method="POST"
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 201
            placed: dict[str, Any] = json.load(answer)
            return placed


@pytest.fixture
def loop(relay_process: Any, topics: Any, database: str) -> Iterator[Loop]:
    events, returns = topics.create("orders.events"), topics.create("orders.returns")
    environment = {
        "RELAY_FLOW_EVENTS_TOPIC": events,
        "RELAY_FLOW_RETURNS_TOPIC": returns,
        "RELAY_FLOW_PROCESSOR_GROUPS": f"processor-{uuid4().hex[:8]}",
        "RELAY_FLOW_CONFIRM_GROUP": f"confirm-{uuid4().hex[:8]}",
        "RELAY_METRICS_PORT": "0",
        # A killed relay's successor takes over after this long.
        "RELAY_PUBLISH_LEASE_SECONDS": "2",
    }
    return Loop(relay_process, environment, events, returns)


def traced(jaeger: Any, protocol: str) -> dict[str, str]:
    # An order may be placed before the relay has started: that wait would be one span more.
    waits = {"RELAY_TRACE_WAIT_SECONDS": "3600"}
    return {"OTEL_TRACES_EXPORTER": "otlp", **waits, **jaeger.environment(protocol)}


async def all_confirmed(pg: asyncpg.Connection, number: int, eventually: Eventually) -> None:
    async def confirmed() -> bool:
        rows = await pg.fetch("SELECT status, count(*) FROM orders GROUP BY status")
        assert {row["status"]: row["count"] for row in rows} == {"confirmed": number}
        return True

    await eventually(confirmed, within_seconds=60)


def whole(spans: list[dict[str, Any]], number: int) -> bool:
    return len(spans) >= number


class Tree:
    """One trace's spans by name (topic names shortened), and what each says."""

    def __init__(self, spans: list[dict[str, Any]], loop: Loop) -> None:
        self.by_id = {span["spanID"]: span for span in spans}
        self.by_name: dict[str, list[dict[str, Any]]] = {}
        for span in spans:
            name = span["operationName"]
            name = name.replace(loop.events, "orders.events")
            name = name.replace(loop.returns, "orders.returns")
            self.by_name.setdefault(name, []).append(span)

    def parents(self) -> list[str | None]:
        return [_parent(span) for span in self.by_id.values()]

    def one(self, name: str) -> dict[str, Any]:
        (span,) = self.by_name[name]
        return span

    def is_child(self, child: dict[str, Any], name: str) -> bool:
        return _parent(child) in {span["spanID"] for span in self.by_name[name]}


def _parent(span: dict[str, Any]) -> str | None:
    references = [one for one in span["references"] if one["refType"] == "CHILD_OF"]
    return references[0]["spanID"] if references else None


def tags(span: dict[str, Any]) -> dict[str, Any]:
    own = {tag["key"]: tag["value"] for tag in span["tags"]}
    return {key: value for key, value in own.items() if not key.startswith("otel.")}


def says(span: dict[str, Any], expected: Mapping[str, Any]) -> bool:
    found = tags(span)
    assert {key: found.get(key) for key in expected} == expected, span["operationName"]
    return True


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_each_order_is_one_whole_trace(
    loop: Loop, pg: asyncpg.Connection, jaeger: Any, eventually: Eventually, protocol: str
) -> None:
    loop.environment |= traced(jaeger, protocol)
    await loop.listening(eventually)
    for name in ("relay", "processor", "confirm"):
        loop.run(name)
    own = [loop.place() for _ in range(10)]
    joined = uuid4().hex
    with_client = loop.place(CLIENT.format(trace_id=joined, flags="01"))
    assert with_client["trace_id"] == joined
    await all_confirmed(pg, 11, eventually)

    for placed in (*own, with_client):
        # `processing` and `confirmed`: two returns, so two spans of hops 4 and 5 each.
        spans = jaeger.wait_for_spans(placed["trace_id"], lambda found: whole(found, 8))
        tree = Tree(spans, loop)
        assert {name: len(found) for name, found in tree.by_name.items()} == {
            "POST /orders": 1,
            "create orders.events": 1,
            "send orders.events": 1,
            "process orders.events": 1,
            "send orders.returns": 2,
            "process orders.returns": 2,
        }
        assert_tree(tree, loop, placed)
        if placed is not with_client:
            assert _parent(tree.one("POST /orders")) is None
            assert {one for one in tree.parents() if one} <= set(tree.by_id), "orphan spans"


def assert_tree(tree: Tree, loop: Loop, placed: dict[str, Any]) -> None:
    post, create = tree.one("POST /orders"), tree.one("create orders.events")
    send, process = tree.one("send orders.events"), tree.one("process orders.events")
    order_id = placed["order_id"]
    assert _parent(create) == post["spanID"]
    assert _parent(send) == _parent(process) == create["spanID"]
    returns, applied = tree.by_name["send orders.returns"], tree.by_name["process orders.returns"]
    assert {_parent(one) for one in returns} == {process["spanID"]}
    assert {_parent(one) for one in applied} == {one["spanID"] for one in returns}

    assert {
        span["operationName"].split()[0]: tags(span)["span.kind"] for span in (post, create)
    } == {
        "POST": "server",
        "create": "producer",
    }
    assert (tags(send)["span.kind"], tags(process)["span.kind"]) == ("client", "consumer")
    assert {tags(one)["span.kind"] for one in returns} == {"producer"}
    assert {tags(one)["span.kind"] for one in applied} == {"consumer"}
    assert post["serviceName"] == create["serviceName"] == "order-service"
    assert send["serviceName"] == "relay"
    assert process["serviceName"] == "order-processor"
    assert {one["serviceName"] for one in applied} == {"relay-confirm"}

    says(post, {"http.request.method": "POST", "http.response.status_code": 201})
    # The order service knows the event's type, not the topic that the relay's settings give it.
    says(create, {"messaging.destination.name": "orders.events", "order.id": order_id})
    says(
        send,
        {
            "messaging.system": "kafka",
            "messaging.operation.name": "send",
            "messaging.destination.name": loop.events,
            "order.id": order_id,
        },
    )
    assert tags(send)["relay.outbox.waited_seconds"] >= 0
    assert tags(send)["messaging.kafka.offset"] == tags(process)["messaging.kafka.offset"]
    assert (
        tags(send)["messaging.destination.partition.id"]
        == tags(process)["messaging.destination.partition.id"]
    )
    says(
        process,
        {
            "messaging.operation.name": "process",
            "messaging.destination.name": loop.events,
            "messaging.consumer.group.name": loop.environment["RELAY_FLOW_PROCESSOR_GROUPS"],
            "order.id": order_id,
        },
    )
    for one in (*returns, *applied):
        says(one, {"messaging.destination.name": loop.returns, "order.id": order_id})
    offsets = [
        sorted(tags(one)["messaging.kafka.offset"] for one in many) for many in (returns, applied)
    ]
    assert offsets[0] == offsets[1]
    statuses = {
        (tags(one).get("order.status.old"), tags(one)["order.status.new"]) for one in applied
    }
    assert statuses == {("submitted", "processing"), ("processing", "confirmed")}


async def test_an_unsampled_context_travels_and_exports_nothing(
    loop: Loop, pg: asyncpg.Connection, jaeger: Any, eventually: Eventually
) -> None:
    loop.environment |= traced(jaeger, "http/protobuf")
    await loop.listening(eventually)
    for name in ("relay", "processor", "confirm"):
        loop.run(name)
    unsampled = uuid4().hex
    quiet = loop.place(CLIENT.format(trace_id=unsampled, flags="00"))
    loud = loop.place()
    await all_confirmed(pg, 2, eventually)
    jaeger.wait_for_spans(loud["trace_id"], lambda found: whole(found, 8))
    for name in ("serve", "relay", "processor", "confirm"):
        assert loop.running[name].terminate() == 0, "spans are delivered before the end"
    assert jaeger.spans(unsampled) == []
    rows = await pg.fetch(
        "SELECT traceparent FROM relay.inbox WHERE aggregate_id = $1 UNION ALL "
        "SELECT traceparent FROM relay.outbox WHERE aggregate_id = $1",
        quiet["order_id"],
    )
    assert len(rows) == 3
    for row in rows:
        _, trace_id, _, flags = row["traceparent"].split("-")
        assert (trace_id, flags) == (unsampled, "00")


async def test_orders_of_a_plain_insert_have_a_trace_from_hop_2_on(
    loop: Loop, pg: asyncpg.Connection, jaeger: Any, eventually: Eventually
) -> None:
    # Every wait is a span here, however short: it is the root of such an order's trace.
    loop.environment |= traced(jaeger, "http/protobuf") | {"RELAY_TRACE_WAIT_SECONDS": "0"}
    for name in ("relay", "processor", "confirm"):
        loop.run(name)
    placed = {}
    for _ in range(3):
        order_id = uuid4()
        async with pg.transaction():
            await pg.execute(
                "INSERT INTO orders (order_id, customer_id, items, total, currency) "
                "VALUES ($1, 'c', '[]', 1, 'EUR')",
                order_id,
            )
            event_id = await pg.fetchval(
                "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload) "
                """VALUES ('order', $1, 'order.placed', '{"total": "1"}') RETURNING event_id""",
                str(order_id),
            )
        placed[str(order_id)] = event_id.hex
    await all_confirmed(pg, 3, eventually)
    for order_id, trace_id in placed.items():
        tree = Tree(jaeger.wait_for_spans(trace_id, lambda found: whole(found, 7)), loop)
        assert set(tree.by_name) == NAMES - {"POST /orders", "create orders.events"} | {
            "wait orders.events"
        }
        root = tree.one("wait orders.events")
        assert _parent(root) is None
        for name in ("send orders.events", "process orders.events"):
            assert _parent(tree.one(name)) == root["spanID"]
            assert tree.one(name)["startTime"] >= root["startTime"]
        assert {one for one in tree.parents() if one} <= set(tree.by_id)
        says(root, {"order.id": order_id})


async def test_services_that_are_stopped_and_started_again_leave_every_trace_whole(
    loop: Loop, pg: asyncpg.Connection, jaeger: Any, eventually: Eventually
) -> None:
    loop.environment |= traced(jaeger, "http/protobuf")
    await loop.listening(eventually)
    placed = []
    for name in ("relay", "processor", "confirm"):
        loop.run(name)
    for name in ("relay", "processor", "confirm"):
        placed.append(loop.place())
        await all_confirmed(pg, len(placed), eventually)  # so it is at work, not still starting
        placed += [loop.place() for _ in range(10)]
        assert loop.running[name].terminate() == 0
        placed += [loop.place() for _ in range(10)]
        loop.run(name)
    await all_confirmed(pg, len(placed), eventually)
    for one in placed:
        tree = Tree(jaeger.wait_for_spans(one["trace_id"], lambda found: whole(found, 8)), loop)
        assert {one for one in tree.parents() if one} <= set(tree.by_id), "orphan spans"


async def test_services_that_are_killed_cost_no_order(
    loop: Loop, pg: asyncpg.Connection, eventually: Eventually
) -> None:
    await loop.listening(eventually)
    count = 0
    for name in ("relay", "processor", "confirm"):
        loop.run(name)
    for name in ("relay", "processor", "confirm"):
        loop.place()
        await all_confirmed(pg, count + 1, eventually)  # so it is at work, not still starting
        for _ in range(20):
            loop.place()
        loop.running[name].kill()
        for _ in range(20):
            loop.place()
        loop.run(name)
        count += 41
    await all_confirmed(pg, count, eventually)
