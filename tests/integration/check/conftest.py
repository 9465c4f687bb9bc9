"""`run_check` on a test's own database and topics, with what it found by name."""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import asyncpg
import pytest

from relay.diagnose.check.result import State
from relay.diagnose.check.run_check import CheckReport, run_check
from relay.runtime.flow import EventRoute, Flow
from relay.runtime.kafka_connection import KafkaConnection

DAY_MS = 86_400_000


class Checked:
    """A report, and its results by name."""

    def __init__(self, report: CheckReport) -> None:
        self.report = report
        self.results = report.results
        self.changed = report.changed
        self.states: Mapping[str, State] = {one.name: one.state for one in report.results}

    def found(self, name: str) -> str:
        return next(one.found for one in self.results if one.name == name)

    def fix(self, name: str) -> str:
        return next(one.fix for one in self.results if one.name == name)


@pytest.fixture
def flow(topics: Any) -> Flow:
    events = topics.create("orders.events", retention_ms=str(30 * DAY_MS))
    returns = topics.create("orders.returns", retention_ms=str(30 * DAY_MS))
    return Flow(
        events=MappingProxyType({"order.placed": EventRoute(events, 900.0)}),
        events_topic=events,
        returns_topic=returns,
        processor_groups=(f"processor-{topics.suffix}",),
        confirm_group=f"confirm-{topics.suffix}",
    )


@pytest.fixture
def check(database: str, kafka_bootstrap: str, flow: Flow) -> Callable[..., Awaitable[Checked]]:
    """Check; everything that is not given is as it should be."""

    async def run(flow: Flow = flow, **given: Any) -> Checked:
        kafka = given.pop("kafka", None) or KafkaConnection(kafka_bootstrap)
        dsn = given.pop("dsn", database)
        given = {"outbox_days": 30, "batch_bytes": 900_000, "environment": {}} | given
        return Checked(await run_check(dsn, kafka, flow, **given))

    return run


@pytest.fixture
def be_healthy(pg: asyncpg.Connection) -> Callable[[], Awaitable[None]]:
    """Take the last check as a healthy one: these servers have no processor, and no fsync."""

    async def healthy() -> None:
        await pg.execute(
            "UPDATE relay.check_run SET healthy = true"
            " WHERE check_run_id = (SELECT max(check_run_id) FROM relay.check_run)"
        )

    return healthy
