"""The picture of docs/traces.md, drawn from what a real Jaeger holds of a lost order.

RELAY_TEST_WRITE_PICTURE=1 draws it anew.
"""

import os
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from struct import pack
from typing import Any
from uuid import uuid4

from relay.diagnose.watch.overdue_spans import OverdueSpans, Report
from relay.publish.sending.batch import Batch
from relay.publish.sending.spans import SendSpans, SentPage
from relay.runtime.flow import Flow
from relay.telemetry import names
from relay.telemetry.names import SpanKind
from relay.telemetry.tracing import Tracing, configure
from tools.draw_trace import draw, rows

PICTURE = Path(__file__).parents[2] / "docs/pictures/lost-order.svg"
TOPIC = "orders.events"
SECOND_NS = 1_000_000_000


def tracing_of(jaeger: Any, service: str) -> Tracing:
    environment = {**jaeger.environment(), "OTEL_SERVICE_NAME": service}
    return configure(service, environment, version="1", instance_id="1", install=False)


def place(tracing: Tracing, at_ns: int) -> str:
    """The order service's two spans; returns the `traceparent` that the row stores."""
    tracer = tracing.tracer()
    with tracer.start_as_current_span(
        names.server_span("POST", "/orders"), start_time=at_ns, end_on_exit=False
    ) as post:
        created = tracer.start_span(names.create_span(TOPIC), start_time=at_ns + 2_000_000)
        created.end(at_ns + 3_000_000)
    post.end(at_ns + 6_000_000)
    context = created.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def lose(jaeger: Any) -> str:
    """An order that waits 3.2 s, is sent and processed, and never answered; its trace's id."""
    order, event = b"11-22-33", uuid4()
    now_ns = time.time_ns()
    placed_ns = now_ns - 27 * SECOND_NS
    service, relay, processor = (
        tracing_of(jaeger, name) for name in ("order-service", "relay", "order-processor")
    )
    header = place(service, placed_ns)
    columns = relay.identities.of_rows([header], [None], [event.bytes])
    handed_over_ns = placed_ns + 3_200_000_000
    created_at = pack(">q", placed_ns // 1000 - 946_684_800_000_000)
    page = SentPage(
        [order], [created_at], columns.identities, handed_over_ns, None, [str(event).encode()]
    )
    acknowledged_ns = handed_over_ns + 9_000_000
    sending = SendSpans(relay, "relay-1", "broker:9092", 1.0, now_ns=lambda: acknowledged_ns)
    sending.acknowledged(page, Batch(TOPIC, 0, [0], [1], 9), 41)
    encoder = processor.encoder(names.process_span(TOPIC), SpanKind.CONSUMER, {}, linked=True)
    began_ns, ended_ns = handed_over_ns + 15_000_000, handed_over_ns + 34_000_000
    processor.export(
        encoder.encode(
            identities=processor.identities.of_records([header.encode()], [None]),
            order_ids=[order],
            started_ns=began_ns,
            ended_ns=ended_ns,
        )
    )
    proven = {"place": placed_ns, "publish": acknowledged_ns, "process": ended_ns}
    lines = [
        {
            "hop": hop,
            "mark": "ok",
            "at": datetime.fromtimestamp(at / 1e9, UTC).isoformat(),
            "found": "",
        }
        for hop, at in proven.items()
    ]
    placed = datetime.fromtimestamp(placed_ns / 1e9, UTC)
    OverdueSpans(relay, Flow()).export(
        [
            Report(
                key=str(event),
                order_id=order.decode(),
                event_id=str(event),
                event_type="order.placed",
                traceparent=header,
                hop="return",
                verdict="no_return",
                cause="return_never_sent",
                incident_id=None,
                placed_at=placed,
                deadline_at=placed + timedelta(seconds=20),
                evidence={"lines": lines},
            )
        ],
        datetime.now(UTC),
    )
    for one in (service, relay, processor):
        assert one.close(20)
    return header[3:35]


def labels(picture: str) -> list[tuple[str, str, bool]]:
    """Service, span and whether it is marked red, row by row."""
    row = r'<text[^>]*>(<tspan fill="#db2828">.*?</tspan>)?([\w-]+) <tspan[^>]*>(.*?)<'
    found = re.findall(row, picture)
    return [(service, span, bool(mark)) for mark, service, span in found]


def test_the_loss_is_seen_without_opening_a_span(jaeger: Any) -> None:
    trace_id = lose(jaeger)
    jaeger.wait_for_spans(trace_id, lambda spans: len(spans) == 6)
    (trace,) = jaeger.trace(trace_id)
    picture = draw(list(rows(trace)))
    assert labels(picture) == [
        ("order-service", "POST /orders", False),
        ("order-service", "create orders.events", False),
        ("relay", "wait orders.events", False),
        ("relay", "send orders.events", False),
        ("order-processor", "process orders.events", False),
        ("relay-watchdog", "return missing: no_return", True),
    ]
    missing = next(s for _, s in rows(trace) if s["operationName"].startswith("return"))
    # From the processor's last word to now: that is the bar that a reader sees.
    assert 23.0e6 < missing["duration"] < 24.5e6
    if os.environ.get("RELAY_TEST_WRITE_PICTURE"):
        PICTURE.write_text(picture, "utf-8")
    assert labels(PICTURE.read_text("utf-8")) == labels(picture), "the picture in docs is another"
