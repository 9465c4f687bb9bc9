"""Hops 4 and 5: tells whose return a record is.

Invariant: what the confirmation consumer can read is read here by its own reader, and by nothing
else: a return that names an order is that order's. Guesses (by headers, by the bytes of an id)
begin only where that reader refuses and finds no id; a guess needs the whole id, and nothing beside
it that could be part of a longer one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from relay.consumers.returns.decoding import DecoderUnavailableError
from relay.consumers.returns.reader import Return, ReturnReader, event_named
from relay.consumers.returns.refusals import Refusal
from relay.diagnose.evidence.order import Place, ReturnSeen
from relay.diagnose.evidence.rows import ReturnRow
from relay.diagnose.gather.recorded_returns import is_terminal
from relay.kafka.partition import Partition
from relay.runtime.flow import ApplyColumns, Flow
from relay.runtime.times import of_milliseconds
from relay.telemetry.continuity import trace_of

# Up to so many orders, torn bytes are searched for each order's id.
_SEARCH_TORN_AT_MOST: Final = 50
# A shorter id stands in anybody's record: an amount, a count, a part of a date.
_TORN_ID_BYTES: Final = 8
_PART_OF_AN_ID: Final = rb"[0-9A-Za-z_\-]"


@dataclass(frozen=True, slots=True)
class WantedReturns:
    """Whose returns are looked for.

    Attributes:
        orders: canonical order ids.
        by_event: event id -> order id.
        by_trace: trace id -> order id.
        placed_at: by the database's clock, when the first of their events was written; no return
            can be older.
    """

    orders: frozenset[str]
    by_event: Mapping[str, str]
    by_trace: Mapping[str, str]
    placed_at: datetime


@dataclass(slots=True)
class Recogniser:
    """Tells whose return a record is, even one that the consumer could not read."""

    flow: Flow
    wanted: WantedReturns
    place: Place = Place.LOG
    _reader: ReturnReader = field(init=False)
    _torn_ids: tuple[tuple[str, re.Pattern[bytes]], ...] = field(init=False)

    def __post_init__(self) -> None:
        self._reader = ReturnReader(self.flow)
        apply = self.flow.apply
        whole = isinstance(apply, ApplyColumns) and apply.key_type == "uuid"
        ids = sorted(set(self.wanted.by_event.values()))
        searched = ids if len(ids) <= _SEARCH_TORN_AT_MOST else []
        self._torn_ids = tuple(
            (one, _torn_id(one, fixed_length=whole))
            for one in searched
            if len(one.encode()) >= _TORN_ID_BYTES
        )

    async def prepare(self, records: Sequence[Any]) -> None:
        """Get ready to read these records; of other topics' records nobody is asked.

        Raises:
            DecoderUnavailableError: they cannot be read now.
        """
        if self.place is Place.LOG:
            await self._reader.prepare(records)

    def orders_of(self, record: Any) -> set[str]:
        """Return the wanted orders that a record may be a return of.

        Two of them when it names one and answers another's event: it was meant for that one.
        """
        return self._orders(record, self._reader.read(record))

    def find(self, partition: Partition, record: Any) -> tuple[set[str], ReturnRow | None]:
        """Return whose return a record is, and how it reads; nobody's: none."""
        try:
            read = self._reader.read(record)
        except DecoderUnavailableError:
            if self.place is Place.LOG:
                raise
            return set(), None  # of a schema that no return had yet
        orders = self._orders(record, read)
        return orders, self._row(partition, record, read) if orders else None

    def _orders(self, record: Any, read: Return | Refusal) -> set[str]:
        # Not by its trace where it can be read: several orders may have been placed in one.
        meant = self.wanted.by_event.get(event_named(dict(record.headers)) or "")
        found = set() if meant is None else {meant}
        if read.order_id is not None:
            return found | ({read.order_id} & self.wanted.orders)
        return found or self._guessed(record.value, trace_of(read.traceparent))

    def _guessed(self, value: bytes | None, trace_id: str | None) -> set[str]:
        placed = self.wanted.by_trace.get(trace_id or "")
        if placed is not None:
            return {placed}
        if not value:
            return set()
        return set(next(([one] for one, torn in self._torn_ids if torn.search(value)), []))

    def _row(self, partition: Partition, record: Any, read: Return | Refusal) -> ReturnRow:
        topic, number = partition
        refusal = read if isinstance(read, Refusal) else None
        status = None if isinstance(read, Refusal) else read.status
        seen = ReturnSeen(
            place=self.place,
            topic=topic,
            partition=number,
            offset=record.offset,
            status=status,
            terminal=None if status is None else is_terminal(self.flow, status),
            recorded_at=of_milliseconds(record.timestamp),
            names_order=read.order_id,
            reason=None if refusal is None else refusal.reason.value,
            detail=None if refusal is None else refusal.detail,
        )
        return ReturnRow(seen, None if isinstance(read, Refusal) else read.causation_id)


def _torn_id(order_id: str, *, fixed_length: bool) -> re.Pattern[bytes]:
    """Return what finds an id in torn bytes, in either case, with nothing of an id beside it.

    Where ids differ in length, one that the bytes end in may have been cut off itself.
    """
    behind = b"(?!%b)" % _PART_OF_AN_ID if fixed_length else rb"(?=[^0-9A-Za-z_\-])"
    whole = b"(?<!%b)%b%b" % (_PART_OF_AN_ID, re.escape(order_id.encode()), behind)
    return re.compile(whole, re.IGNORECASE if fixed_length else 0)
