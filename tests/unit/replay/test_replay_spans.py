"""A replay's own trace: reason, who and outcome, and links to spans that exist."""

import time
from datetime import UTC, datetime
from uuid import UUID

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from relay.replay.jobs import Job
from relay.replay.spans import Run, export_replay_span, root_of
from relay.telemetry.tracing import Tracing, configure

REPLAY = UUID("0191e3c0-7f5e-7bd1-a6b0-3a1d0f6f9a52")
EVENT = "0191e3c0-7f5e-7bd1-a6b0-000000000007"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
AT = datetime(2026, 11, 30, 3, 12, tzinfo=UTC)
JOB = Job(
    REPLAY, "done", AT, "kim", {}, {}, None, 3, 3, 3, "processor fixed", "kim", None, AT, AT
)  # fmt: skip


class Kept:
    def __init__(self) -> None:
        self.requests: list[bytes] = []

    def offer(self, batch) -> None:
        self.requests.append(batch.request)


class Rows:
    """A connection that knows three events: sampled, unsampled, and without a context."""

    async def fetch(self, *_arguments) -> list[tuple[str, str | None]]:
        return [
            (EVENT, f"00-{TRACE}-{SPAN}-01"),
            (EVENT, f"00-{TRACE[::-1]}-{SPAN}-00"),
            (EVENT, None),
        ]


async def told(run: Run):
    environment = {"OTEL_TRACES_EXPORTER": "none"}
    made = configure("relay", environment, version="0", instance_id="t", install=False)
    kept = Kept()
    identities = type(made.identities)(made.identities.sampler, recording=True)
    await export_replay_span(Rows(), Tracing(identities, made.origin, kept, None), JOB, run)
    (request,) = kept.requests
    (resource,) = ExportTraceServiceRequest.FromString(request).resource_spans
    service = {one.key: one.value.string_value for one in resource.resource.attributes}
    (span,) = resource.scope_spans[0].spans
    return service["service.name"], span


async def test_the_first_run_is_the_span_that_the_orders_link_to() -> None:
    service, span = await told(Run(True, "kim", "3 of 3 returned", True, time.time_ns()))
    assert (service, span.name) == ("relay-replay", "replay")
    assert (span.trace_id, span.span_id) == root_of(REPLAY)
    assert span.parent_span_id == b""
    said = {one.key: one.value.string_value or one.value.int_value for one in span.attributes}
    assert said == {
        "relay.replay_id": str(REPLAY),
        "messaging.batch.message_count": 3,
        "relay.replay.reason": "processor fixed",
        "relay.replay.who": "kim",
        "relay.replay.result": "3 of 3 returned",
    }
    assert span.status.code == span.status.STATUS_CODE_UNSET
    links = [(one.trace_id.hex(), one.span_id.hex()) for one in span.links]
    event = EVENT.replace("-", "")
    assert links == [(TRACE, SPAN), (event, event[16:])]


@pytest.mark.parametrize("well", [True, False])
async def test_a_run_after_a_pause_hangs_below_it(well: bool) -> None:
    _, span = await told(Run(False, "sam", "2 of 3 returned", well, time.time_ns()))
    assert span.name == "replay resumed"
    assert (span.trace_id, span.parent_span_id) == root_of(REPLAY)
    assert span.span_id != root_of(REPLAY)[1]
    assert (span.status.code == span.status.STATUS_CODE_ERROR) is not well
