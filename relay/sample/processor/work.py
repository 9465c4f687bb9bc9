"""Hops 3-4 of the sample: what a page of records comes to, before anything is sent.

Invariant: every record of the page is answered, or named in a fault line, or expects no return.
Nothing here does I/O; the fault plan counts, and ids are drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from relay.sample.processor.decision import Event, EventRecord, decide, read_event
from relay.sample.processor.faults import Fault, FaultPlan
from relay.sample.processor.journal import FaultLine
from relay.sample.processor.options import ProcessorOptions
from relay.sample.processor.return_maker import Maker, Return, answers_with, returns_with


class Record(EventRecord, Protocol):
    """What the work needs of a Kafka record beyond the event itself."""

    @property
    def topic(self) -> str:
        """The topic it stands in."""

    @property
    def partition(self) -> int:
        """The partition it stands in."""

    @property
    def offset(self) -> int:
        """Its offset there."""


class Contexts(Protocol):
    """Gives events and returns their place in the order's trace."""

    def of_events(self, events: Sequence[Event]) -> list[bytes | None]:
        """Return the identities of the events' `process` spans."""

    def of_return(
        self, event: Event, process_identity: bytes | None
    ) -> tuple[bytes | None, bytes | None]:
        """Return one more return's `traceparent`, and the identity of the span that sends it."""


@dataclass(frozen=True, slots=True)
class Taken:
    """An event that is being processed, with its faults."""

    offset: int
    event: Event
    faults: tuple[Fault, ...] = ()


@dataclass(slots=True)
class Page:
    """What the records of one partition come to.

    Attributes:
        taken: the events that were processed, and the identities of their spans.
        returns: to be sent now, in this order.
        delayed: to be sent `delay_seconds` later.
        lines: the faults, to be written down first.
        ignored: records that expect no return, or name no order.
    """

    topic: str
    partition: int
    next_offset: int
    taken: list[Taken] = field(default_factory=list)
    identities: list[bytes | None] = field(default_factory=list)
    returns: list[Return] = field(default_factory=list)
    delayed: list[Return] = field(default_factory=list)
    lines: list[FaultLine] = field(default_factory=list)
    ignored: int = 0

    @property
    def crashes(self) -> bool:
        """Whether the process is to die in the course of this page."""
        return any(line.befallen.fault is Fault.CRASH for line in self.lines)


@dataclass(frozen=True, slots=True)
class Worker:
    """Turns the records of one partition into a page.

    Args:
        answered_types: `ce_type`s that expect a return; a record without a type is answered too.
    """

    options: ProcessorOptions
    plan: FaultPlan
    contexts: Contexts
    answered_types: Collection[str]

    def work(self, records: Sequence[Record], maker: Maker) -> Page:
        """Read, decide and answer. `records` are of one partition, in order, at least one."""
        last = records[-1]
        page = Page(last.topic, last.partition, last.offset + 1)
        for record in records:
            self._take(record, page)
        page.identities = self.contexts.of_events([taken.event for taken in page.taken])
        for taken, identity in zip(page.taken, page.identities, strict=True):
            late = Fault.DELAY in taken.faults
            (page.delayed if late else page.returns).extend(self._answer(taken, maker, identity))
        return page

    def _take(self, record: Record, page: Page) -> None:
        event = read_event(record)
        if event is None or not self._expects_return(event):
            page.ignored += 1
            return
        spared = event.replayed and not self.options.faults.on_replays
        if spared or not self.plan.rules:
            page.taken.append(Taken(record.offset, event))
            return
        event_id = event.event_id or f"{record.topic}-{record.partition}-{record.offset}"
        befallen = self.plan.faults_of(event.order_id, event_id)
        place = (record.topic, record.partition, record.offset)
        page.lines += [FaultLine(one, event.order_id, event_id, *place) for one in befallen]
        faults = tuple(one.fault for one in befallen)
        if Fault.SKIP not in faults:
            page.taken.append(Taken(record.offset, event, faults))

    def _expects_return(self, event: Event) -> bool:
        return event.event_type is None or event.event_type in self.answered_types

    def _answer(self, taken: Taken, maker: Maker, identity: bytes | None) -> list[Return]:
        answers = decide(
            taken.event.payload,
            reject_above=self.options.reject_above,
            processing_first=self.options.processing_first,
        )
        returns = []
        for answer in answers_with(taken.faults, answers):
            traceparent, send = self.contexts.of_return(taken.event, identity)
            returns.append(maker.make(taken.event, answer, traceparent, send))
        if not taken.faults:
            return returns
        return returns_with(taken.faults, returns, self.options.faults.corruption)
