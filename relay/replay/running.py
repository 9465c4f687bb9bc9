"""Runs a stored replay: wires the conductor, a relay that stands by, and what came of it.

Invariant: items are published by whoever holds the relay's lease: a relay when one runs, this
process otherwise, which then sends replays' items and nothing else, and leaves the lease to any
relay that comes. Whatever ends this process, `relay replay resume` goes on from what the database
knows.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from relay.diagnose.report.diagnosis import Diagnosis
from relay.diagnose.report.explain import put_in
from relay.diagnose.session import session
from relay.diagnose.statements import statements_of
from relay.orders.catalog import as_far_as_known
from relay.publish.options import publish_options
from relay.publish.service import RelayService
from relay.replay.candidates import first_written
from relay.replay.conductor import Conductor, Progress, RunOptions
from relay.replay.follow import Counted
from relay.replay.jobs import Job, ReplayError, claim, move, read_job, refused
from relay.replay.missing import write_missing
from relay.replay.returns import Stretch, feed_returns
from relay.replay.spans import Run, export_replay_span
from relay.runtime.active_services import active_services
from relay.runtime.database import is_connection_loss
from relay.runtime.flow import Flow
from relay.runtime.operator_connection import operator_connection
from relay.runtime.process import ProcessRecord, instance_name, program_version
from relay.runtime.settings import Settings
from relay.runtime.shutdown import stop_on_signals
from relay.runtime.tasks import awaited
from relay.telemetry import logs
from relay.telemetry.tracing import Tracing, configure

_DIAGNOSED_AT_MOST = 10_000
_SPANS_DEADLINE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        counted: events whose order is to return, and those whose has.
        refused: events that could not be sent, by reason.
        missing: the orders that did not return, diagnosed.
        waited: whether returns were waited for.
        unwritten: orders whose missing event could not be made, and why.
        statements: by which a person writes such an event as it is, after all.
        relay_needed: events were written that only a relay sends, and none runs.
    """

    job: Job
    counted: Counted = field(default_factory=Counted)
    refused: dict[str, int] = field(default_factory=dict)
    missing: Sequence[Diagnosis] = ()
    waited: bool = True
    unwritten: Mapping[str, str] = field(default_factory=dict)
    statements: Mapping[str, str] = field(default_factory=dict)
    relay_needed: bool = False

    @property
    def well(self) -> bool:
        """Whether everything was sent, and all that was waited for came back."""
        came = self.counted.all_returned or not self.waited
        return self.job.state == "done" and not self.refused and came

    def result(self) -> str:
        """Say it in a few words, for the audit log."""
        if self.job.state in ("paused", "cancelled"):
            return f"{self.job.state}, {self.job.sent_count} of {self.job.item_count} sent"
        if not self.waited:
            return f"{self.job.sent_count} sent, returns not waited for"
        return f"{self.counted.returned} of {self.counted.expected} returned"

    def by_verdict(self) -> dict[str, int]:
        """Return how many did not return, by verdict."""
        return dict(Counter(one.verdict.value for one in self.missing))


class ReplayInterruptedError(Exception):
    """The database was lost while a replay ran; what was released goes on without us."""

    def __init__(self, job: Job, error: BaseException) -> None:
        super().__init__(f"the database was lost: {error}")
        self.hint = f"relay replay resume {job.replay_id}"


async def run_job(
    settings: Settings,
    job: Job,
    options: RunOptions,
    *,
    who: str,
    why: str | None,
    tell: Callable[[Progress], None],
) -> Outcome:
    """Run a stored replay to its end, or until somebody stops it.

    Raises:
        ReplayError: it cannot be run, or another process runs it.
        NotPermittedError: this login may not replay.
    """
    logs.configure("warning", "text", environment=os.environ)
    with stop_on_signals() as stop:
        return await run_until_stopped(settings, job, options, stop, who=who, why=why, tell=tell)


async def run_until_stopped(
    settings: Settings,
    job: Job,
    options: RunOptions,
    stop: asyncio.Event,
    *,
    who: str,
    why: str | None,
    tell: Callable[[Progress], None] = lambda _progress: None,
) -> Outcome:
    """Run a stored replay to its end, or until `stop` is set, inside a program that does more.

    Raises:
        ReplayError: it cannot be run, or another process runs it.
        NotPermittedError: this login may not replay.
        ReplayInterruptedError: the database was lost.
    """
    async with operator_connection(settings.database.dsn, "replay") as connection:
        await claim(connection, job.replay_id)
        job = await read_job(connection, job.replay_id)
        if job.over:
            raise ReplayError(f"replay {job.replay_id} is {job.state}: make a new plan")
        first, started_ns = job.started_at is None, time.time_ns()
        await move(connection, job, "running", who=who, why=why)
        job = await read_job(connection, job.replay_id)
        unwritten = await write_missing(connection, settings.flow, job.missing)
        await _feed(settings, connection, job)
        conductor = Conductor(connection, settings.flow, job, options, who, tell)
        # Whoever holds the relay's lease is `relay` in the traces.
        tracing = configure(
            "relay",
            os.environ,
            version=program_version(),
            instance_id=instance_name(),
            install=False,
        )
        try:
            await _conduct(settings, conductor, tracing, stop)
            outcome = await _finish(settings, conductor, unwritten)
            run = Run(first, who, outcome.result(), outcome.well, started_ns)
            await export_replay_span(connection, tracing, outcome.job, run)
        except Exception as error:
            if is_connection_loss(error):
                raise ReplayInterruptedError(job, error) from error
            raise
        else:
            return outcome
        finally:
            await asyncio.to_thread(tracing.close, _SPANS_DEADLINE_SECONDS)


async def _feed(settings: Settings, connection: Any, job: Job) -> None:
    """Give the consumer the returns that it went past."""
    if job.returns:
        since = await first_written(connection, job.returns)
        stretch = Stretch(since=since, orders=frozenset(job.returns))
        flow = await as_far_as_known(connection, settings.flow)
        await feed_returns(connection, settings.kafka, flow, stretch, execute=True)


async def _conduct(
    settings: Settings, conductor: Conductor, tracing: Tracing, stop: asyncio.Event
) -> None:
    """Conduct, with a publisher of replays standing by in case that no relay runs."""
    relay_stop = asyncio.Event()
    relay = RelayService(
        settings.database.dsn,
        settings.kafka,
        settings.every_flow,
        publish_options(settings),
        tracing,
        relay_stop,
        maintenance=None,
        live=False,
        process=ProcessRecord("replay"),
    )
    publishing = awaited(relay.run(), "relay")
    conducting = awaited(conductor.run(stop), "conductor")
    try:
        await asyncio.wait({publishing, conducting}, return_when=asyncio.FIRST_COMPLETED)
        if not conducting.done():
            # Nothing but an error ends a relay that was not asked to stop.
            conducting.cancel()
            await asyncio.gather(conducting, return_exceptions=True)
            with suppress(ReplayError):
                trouble = f"this process could not publish: {publishing.exception()}"
                await move(
                    conductor.connection, conductor.job, "paused", who=conductor.who,
                    trouble=trouble,
                )  # fmt: skip
            publishing.result()
        conducting.result()
    finally:
        relay_stop.set()
        await asyncio.gather(publishing, return_exceptions=True)


async def _finish(
    settings: Settings, conductor: Conductor, unwritten: Mapping[str, str]
) -> Outcome:
    """Say what came of it; a replay that was sent is done."""
    connection, job = conductor.connection, conductor.job
    counted = conductor.follower.counted()
    why_not = await refused(connection, job.replay_id)
    if unwritten:
        why_not["not_written"] = len(unwritten)
    waited = conductor.options.wait_seconds > 0
    # A first occurrence: no replay sends it.
    relay_needed = bool(job.missing) and "event" not in await active_services(connection)
    outcome = Outcome(
        job,
        counted,
        why_not,
        waited=waited,
        unwritten=unwritten,
        statements=await _statements(connection, settings.flow, unwritten),
        relay_needed=relay_needed,
    )
    if job.state != "sent" or conductor.stopped:
        return outcome
    waiting = conductor.follower.waiting(_DIAGNOSED_AT_MOST) if outcome.waited else ()
    missing = await _diagnosed(settings, waiting)
    outcome = replace(outcome, missing=missing)
    progress = {
        "expected": counted.expected,
        "returned": counted.returned,
        "refused": why_not,
        "missing": outcome.by_verdict(),
    }
    await move(
        connection, job, "done", who=conductor.who, result=outcome.result(), progress=progress
    )
    job = await read_job(connection, job.replay_id)
    return replace(outcome, job=job)


async def _statements(connection: Any, flow: Flow, orders: Iterable[str]) -> dict[str, str]:
    """Return what writes the events that were refused: the relay publishes them as they are."""
    ids = list(orders)
    insert = (await statements_of(connection, flow)).insert if ids else None
    return {} if insert is None else {one: put_in(insert, key=one) for one in ids}


async def _diagnosed(settings: Settings, orders: Sequence[str]) -> Sequence[Diagnosis]:
    if not orders:
        return ()
    async with session(settings.database.dsn, settings.kafka, settings.flow) as opened:
        return await opened.diagnose(orders)


def outcome_data(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome for `--json`."""
    job = outcome.job
    return {
        "replay_id": str(job.replay_id),
        "state": job.state,
        "events": job.item_count,
        "sent": job.sent_count,
        "expected": outcome.counted.expected if outcome.waited else None,
        "returned": outcome.counted.returned if outcome.waited else None,
        "refused": outcome.refused,
        "still_missing": [
            {
                "order_id": one.order_id,
                "verdict": str(one.verdict),
                "hop": None if one.hop is None else str(one.hop),
                "cause": str(one.cause),
            }
            for one in outcome.missing
        ],
        "not_written": [
            {"order_id": order_id, "why": why, "mend": outcome.statements.get(order_id)}
            for order_id, why in outcome.unwritten.items()
        ],
        "by_verdict": outcome.by_verdict(),
        "trouble": job.trouble,
        "next": following(outcome),
    }


def following(outcome: Outcome) -> list[str]:
    """Return what to run next."""
    job = outcome.job
    if outcome.relay_needed:
        return ["relay run"]
    if job.state in ("paused", "running"):
        return [f"relay replay resume {job.replay_id}"]
    if job.state == "sent":
        return [f"relay replay status {job.replay_id}"]
    return ["relay unreturned"] if outcome.missing else []
