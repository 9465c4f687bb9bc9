"""The spans of a missing return: where they begin, under what, their names, and how they end."""

from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from relay.diagnose.watch.overdue_spans import OverdueSpans, Report
from relay.runtime.flow import Flow
from relay.telemetry import names
from relay.telemetry.tracing import Tracing, configure

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
EVENT = "0191e3c0-7f5e-7bd1-a6b0-3a1d0f6f9a52"
PLACED = datetime(2026, 11, 30, 3, 12, tzinfo=UTC)
TOLD = PLACED + timedelta(minutes=20)
SECOND = timedelta(seconds=1)


class Kept:
    """Keeps what is offered, in the place of an exporter."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []

    def offer(self, batch) -> None:
        self.requests.append(batch.request)

    def spans(self) -> list[tuple[str, object]]:
        """Service and span, in the order in which they were written."""
        found = []
        for request in self.requests:
            for resource in ExportTraceServiceRequest.FromString(request).resource_spans:
                said = {one.key: one.value.string_value for one in resource.resource.attributes}
                found += [
                    (said["service.name"], span)
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
        return found


def case(traceparent: str | None, *proven: tuple[str, float], **given) -> Report:
    """A case whose hops were proven so many seconds after its order was placed."""
    lines = [
        {
            "hop": hop,
            "mark": "ok",
            "at": (PLACED + seconds * SECOND).isoformat(),
            "found": "seen",
        }
        for hop, seconds in proven
    ]
    lines.append({"hop": "confirm", "mark": "-", "at": None, "found": "not reached"})
    facts = {
        "verdict": "no_return",
        "cause": "processor_failed",
        "hop": "return",
        "event_id": EVENT,
        "key": EVENT,
        **given,
    }
    return Report(
        order_id="o-1",
        event_type="order.placed",
        traceparent=traceparent,
        incident_id=3,
        placed_at=PLACED,
        deadline_at=PLACED + timedelta(minutes=15),
        evidence={"lines": lines, "missing": None, "next": ["relay replay --order o-1"]},
        **facts,
    )


def written(report: Report, *, settled: bool = False) -> list[tuple[str, object]]:
    made = configure(
        "relay",
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_SERVICE_NAME": "somebody"},
        version="0",
        instance_id="t",
        install=False,
    )
    kept = Kept()
    spans = OverdueSpans(Tracing(made.identities, made.origin, kept, None), Flow())
    if settled:
        spans.export_settled([report])
    else:
        spans.export([report], TOLD)
    return kept.spans()


def at(nanoseconds: int) -> float:
    """Seconds after the order was placed."""
    return nanoseconds / 1e9 - PLACED.timestamp()


ALL = (("place", 0), ("publish", 3.2), ("process", 3.3))


def test_the_red_bar_begins_at_the_last_proven_hop_under_the_orders_own_span() -> None:
    ((service, span),) = written(case(f"00-{TRACE}-{SPAN}-01", *ALL))
    assert service == "relay-watchdog"
    assert span.name == "return missing: no_return"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert at(span.start_time_unix_nano) == pytest.approx(3.3, abs=1e-3)
    assert span.status.code == span.status.STATUS_CODE_ERROR
    said = {one.key: one.value.string_value for one in span.attributes}
    assert said[names.MESSAGE_ID] == EVENT
    assert said["order.evidence.publish"].startswith("ok 2026-11-30T03:12:03.2")


@pytest.mark.parametrize(
    ("verdict", "cause", "name"),
    [
        ("not_processed", "processor_down", "return delayed: not_processed"),
        ("not_processed", "group_replaced", "return missing: not_processed"),
        ("unknown", "x", "return missing: unknown"),
        ("of_a_later_version", "x", "return missing: of_a_later_version"),
    ],
)
def test_the_name_says_whether_it_will_come_by_itself(verdict: str, cause: str, name: str) -> None:
    ((_, span),) = written(case(f"00-{TRACE}-{SPAN}-01", *ALL, verdict=verdict, cause=cause))
    assert span.name == name


def test_an_order_that_was_not_sampled_has_what_is_proven_beside_it() -> None:
    spans = written(case(f"00-{TRACE}-{SPAN}-00", *ALL))
    assert [(service, span.name) for service, span in spans] == [
        ("relay-reconstructed", "create orders.events"),
        ("relay-reconstructed", "wait orders.events"),
        ("relay-reconstructed", "send orders.events"),
        ("relay-reconstructed", "process orders.events"),
        ("relay-watchdog", "return missing: no_return"),
    ]
    create, wait, send, process, missing = (span for _, span in spans)
    assert (create.span_id.hex(), create.parent_span_id) == (SPAN, b"")
    assert wait.parent_span_id == send.parent_span_id == process.parent_span_id == create.span_id
    assert missing.parent_span_id == process.span_id
    assert len({span.span_id for _, span in spans}) == 5
    assert all(span.end_time_unix_nano - span.start_time_unix_nano >= 1000 for _, span in spans)
    assert [round(at(n), 2) for n in (wait.start_time_unix_nano, wait.end_time_unix_nano)] == [
        0,
        3.2,
    ]
    said = {one.key: one.value.string_value for one in process.attributes}
    assert said["messaging.system"] == "kafka"
    assert said["messaging.operation.name"] == "process"
    assert said["messaging.destination.name"] == "orders.events"
    assert said["messaging.consumer.group.name"] == "order-processor"
    assert said["messaging.message.id"] == EVENT


def test_a_proof_that_is_older_than_the_one_before_it_turns_no_span_around() -> None:
    for _, span in written(
        case(f"00-{TRACE}-{SPAN}-00", ("place", 5), ("publish", 1), ("process", 0))
    ):
        assert span.end_time_unix_nano > span.start_time_unix_nano


def test_a_short_wait_is_no_span() -> None:
    spans = written(case(f"00-{TRACE}-{SPAN}-00", ("place", 0), ("publish", 0.5)))
    assert "wait orders.events" not in {span.name for _, span in spans}


def test_what_was_reported_before_is_not_reconstructed_twice() -> None:
    changed = case(f"00-{TRACE}-{SPAN}-00", *ALL, reported_as="not_processed", reported_at=PLACED)
    ((_, span),) = written(changed)
    assert span.parent_span_id.hex() == SPAN


def test_an_unpublished_row_without_context_leaves_the_root_to_the_relay() -> None:
    create, missing = (
        span for _, span in written(case(None, ("place", 0), verdict="not_published"))
    )
    root = EVENT.replace("-", "")[16:]
    assert create.trace_id.hex() == EVENT.replace("-", "")
    assert (create.parent_span_id, missing.parent_span_id) == (b"", create.span_id)
    assert create.span_id.hex() != root
    # Once it is published that root is there, whether it waited or not.
    ((_, later),) = written(case(None, ("place", 0), ("publish", 1)))
    assert later.parent_span_id.hex() == root


def test_an_order_without_an_event_is_a_trace_of_its_own() -> None:
    ((_, span),) = written(
        case(None, event_id=None, key="order:o-1", verdict="no_outbox_row", hop="place")
    )
    assert (span.name, span.parent_span_id) == ("return missing: no_outbox_row", b"")
    assert at(span.start_time_unix_nano) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("closed_as", "by", "name"),
    [
        ("returned", "watchdog", "return came late: no_return"),
        ("closed", "kim", "return closed by hand: no_return"),
    ],
)
def test_how_it_ended_hangs_under_the_bar_that_it_ends(closed_as: str, by: str, name: str) -> None:
    context = f"00-{TRACE}-{SPAN}-01"
    ((_, missing),) = written(case(context, *ALL))
    ((service, span),) = written(
        case(
            context,
            *ALL,
            verdict="not_processed",
            reported_as="no_return",
            reported_at=TOLD,
            closed_at=TOLD + 90 * SECOND,
            closed_as=closed_as,
            closed_by=by,
            closed_why=None,
        ),
        settled=True,
    )
    assert (service, span.name) == ("relay-watchdog", name)
    assert span.parent_span_id == missing.span_id
    assert span.span_id != missing.span_id
    assert at(span.end_time_unix_nano) - at(span.start_time_unix_nano) == pytest.approx(
        90, abs=1e-3
    )
    assert span.status.code == span.status.STATUS_CODE_UNSET
