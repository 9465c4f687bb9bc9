"""Hops 3-4 of the sample: takes events, decides them, sends their returns.

Invariant: at-least-once. An offset is committed after its returns are acknowledged, so a crash
repeats returns and never drops one, unless a fault says so. When the broker is away the processor
says so and tries again for as long as it takes, with a new consumer and producer each time.

It stands in for the user's own system: it has no database, and writes no process record.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from relay.kafka.records import read_hostile_records
from relay.kafka.refusal import refusal
from relay.runtime.flow import CANARY_EVENT, Flow
from relay.runtime.kafka_connection import KafkaConnection
from relay.runtime.shutdown import stopped_within
from relay.sample.processor.delay import HeldBack
from relay.sample.processor.faults import FaultPlan
from relay.sample.processor.journal import FaultJournal
from relay.sample.processor.options import CrashAt, ProcessorOptions
from relay.sample.processor.progress import ProgressWatch, StuckConsumerError
from relay.sample.processor.report import ProcessorReport
from relay.sample.processor.return_maker import Maker, Return
from relay.sample.processor.sender import ReturnSender
from relay.sample.processor.tracing import ProcessorTracing
from relay.sample.processor.work import Page, Worker
from relay.telemetry.tracing import Tracing

log = structlog.get_logger(__name__)

CRASH_EXIT_CODE: Final = 137  # what a shell reports of kill -9
_POLL_SECONDS: Final = 0.2
_STOP_SECONDS: Final = 5.0
_FETCH_BYTES: Final = 4 * 1024 * 1024
_METADATA_MS: Final = 10_000  # a partition that was added is unknown for so long


async def run_processor(
    kafka: KafkaConnection,
    flow: Flow,
    options: ProcessorOptions,
    tracing: Tracing,
    stop: asyncio.Event,
    *,
    report: ProcessorReport | None = None,
) -> ProcessorReport:
    """Process until `stop` is set; then send what is held back, commit, and report.

    Args:
        kafka: the broker.
        flow: names the topics and the events that expect a return.
        options: how it decides, and what it does wrong on purpose.
        tracing: of this process; not closed here.
        stop: asks for the end.
        report: is kept up to date, for whoever looks on; the same one is returned.

    Raises:
        OSError: the journal cannot be written.
        KafkaRefusedError: the broker never took us: the settings are wrong.
    """
    with FaultJournal(options.faults.journal) as journal:
        plan = FaultPlan(options.faults.rules, options.faults.seed)
        for event_id, befallen in journal.recall():
            plan.remember(event_id, befallen)
        answered = frozenset(flow.deadlines) | {CANARY_EVENT}
        spans = ProcessorTracing.of(
            tracing,
            flow,
            group=options.group,
            client_id=options.client_id,
            server=kafka.first_broker,
        )
        worker = Worker(options, plan, spans, answered)
        watched = report or ProcessorReport()
        watched.faults = journal.counts
        await _Processor(kafka, flow, options, spans, worker, journal, watched).run(stop)
        return watched


@dataclass(slots=True)
class _Processor:
    kafka: KafkaConnection
    flow: Flow
    options: ProcessorOptions
    tracing: ProcessorTracing
    worker: Worker
    journal: FaultJournal
    report: ProcessorReport
    _held: HeldBack = field(default_factory=HeldBack)
    _joined: bool = False

    async def run(self, stop: asyncio.Event) -> None:
        """Run session after session until `stop`."""
        attempt = 0
        while not stop.is_set():
            done = self.report.processed
            try:
                await self._session(stop)
            except (KafkaError, StuckConsumerError, TimeoutError, OSError) as error:
                attempt = attempt + 1 if self.report.processed == done else 0
                delay_seconds = self.options.backoff.delay_seconds(attempt)
                self.report.waiting_for = "the broker"
                refused = None if self._joined else await refusal(self.kafka)
                if refused is not None:
                    raise refused from error  # settings that never worked
                log.warning(
                    "waiting_for_broker",
                    broker=self.kafka.bootstrap_servers,
                    error=f"{type(error).__name__}: {error}",
                    retry_in_seconds=round(delay_seconds, 3),
                )
                await stopped_within(stop, delay_seconds)

    async def _session(self, stop: asyncio.Event) -> None:
        client = self.kafka.client_options(self.options.client_id)
        seconds = self.options.request_seconds
        sender = ReturnSender(client, self.flow.returns_topic, seconds)
        async with sender, self._consumer() as consumer:
            self.report.waiting_for, self._joined = None, True
            log.info("processing", group=self.options.group, topic=self.flow.events_topic)
            watch = ProgressWatch(consumer, self.options.idle_check_seconds)
            while not stop.is_set():
                records = await consumer.getmany(
                    timeout_ms=int(self._wait_seconds() * 1000),
                    max_records=self.options.batch_records,
                )
                await watch.polled(moved=bool(records))
                await self._handle(consumer, sender, records)
            await self._send(sender, (), due=self._held.everything())

    @asynccontextmanager
    async def _consumer(self) -> AsyncIterator[AIOKafkaConsumer]:
        milliseconds = int(self.options.session_seconds * 1000)
        read_hostile_records()
        consumer = AIOKafkaConsumer(
            self.flow.events_topic,
            **self.kafka.client_options(self.options.client_id),
            group_id=self.options.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=milliseconds,
            heartbeat_interval_ms=milliseconds // 3,
            max_partition_fetch_bytes=_FETCH_BYTES,
            metadata_max_age_ms=_METADATA_MS,
        )
        try:
            await consumer.start()
            yield consumer
        finally:
            with suppress(TimeoutError, KafkaError):
                await asyncio.wait_for(consumer.stop(), _STOP_SECONDS)

    async def _handle(
        self,
        consumer: AIOKafkaConsumer,
        sender: ReturnSender,
        records: Mapping[TopicPartition, list[object]],
    ) -> None:
        started_ns = time.time_ns()
        maker = Maker(self.options.source.encode(), datetime.now(UTC).isoformat())
        pages = [self.worker.work(part, maker) for part in records.values()]  # type: ignore[arg-type]
        self.journal.write([line for page in pages for line in page.lines])
        self._crash("received", pages)
        returns = [one for page in pages for one in page.returns]
        await self._send(sender, returns, due=self._held.due(time.monotonic()))
        self._hold_back(pages)
        self._crash("sent", pages)
        await self._commit(consumer, pages)
        self._crash("committed", pages)
        self._count(pages, started_ns)

    async def _send(
        self, sender: ReturnSender, returns: Sequence[Return], *, due: Sequence[Return]
    ) -> None:
        sent = await sender.send([*due, *returns])
        self._held.sent(len(due))
        self.report.returns += len(due) + len(returns)
        for one in sent:
            self.tracing.export_sent(one)

    async def _commit(self, consumer: AIOKafkaConsumer, pages: list[Page]) -> None:
        offsets = {TopicPartition(page.topic, page.partition): page.next_offset for page in pages}
        if not offsets:
            return
        try:
            await asyncio.wait_for(consumer.commit(offsets), self.options.request_seconds)
        except (CommitFailedError, IllegalStateError) as error:
            # Partitions moved to another member, who answers these events again.
            log.info("offsets_not_committed", error=str(error))

    def _count(self, pages: list[Page], started_ns: int) -> None:
        ended_ns = time.time_ns()
        for page in pages:
            self.report.processed += len(page.taken)
            self.report.ignored += page.ignored
            self.tracing.export_processed(page, started_ns, ended_ns)

    def _hold_back(self, pages: list[Page]) -> None:
        due_at = time.monotonic() + self.options.faults.delay_seconds
        self._held.hold(due_at, [one for page in pages for one in page.delayed])

    def _wait_seconds(self) -> float:
        return self._held.wait_seconds(time.monotonic(), at_most=_POLL_SECONDS)

    def _crash(self, point: CrashAt, pages: list[Page]) -> None:
        if point == self.options.faults.crash_at and any(page.crashes for page in pages):
            os._exit(CRASH_EXIT_CODE)
