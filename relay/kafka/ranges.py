"""Hops 2 and 4: reads records at offsets, and ranges of records, many partitions at a time.

Invariant: one request per leader and round, whatever the number of offsets wanted: sparse ones cost
a small fetch each, dense ones share it. Aborted transactions are left out, as a `read_committed`
consumer leaves them out. It stops when its time is over and says how far it came.

Source: aiokafka's own consumer would drop what it has fetched at every seek; KIP-98 for aborts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, PartitionRecords
from aiokafka.errors import UnsupportedCodecError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import TopicPartition

from relay.kafka.batch_cut import cut
from relay.kafka.broker import Broker
from relay.kafka.partition import Partition
from relay.kafka.records import AnyRecords
from relay.kafka.transaction_outcomes import Outcomes
from relay.kafka.unreadable import first_offset, unreadable
from relay.runtime.times import of_milliseconds

_WAIT_MS: Final = 200
_ANSWER_BYTES: Final = 50_000_000
# Of one partition, decompressed: a fetch of a megabyte can hold a gigabyte.
_DECODED_BYTES: Final = 8_000_000
_OUT_OF_RANGE: Final = 1
_MOVED: Final = frozenset({3, 5, 6, 9, 74, 75, 76})
_NO_END: Final = 2**63 - 1
_NOBODY_LEADS_SECONDS: Final = 0.1
# The types of a control record that end a transaction: org.apache.kafka.common.record.
_ABORT, _COMMIT = 0, 1


@dataclass(frozen=True, slots=True)
class RecordSeen:
    """A record, as it was read."""

    partition: Partition
    offset: int
    recorded_at: datetime
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    def header(self, name: str) -> str | None:
        """Return a header's text; None when it is missing or no text."""
        return header_text(self.headers, name)


def header_text(headers: Iterable[tuple[str, bytes | None]], name: str) -> str | None:
    """Return the text of the first header of a name; None when it is missing or no text."""
    for key, value in headers:
        if key == name and value is not None:
            try:
                return value.decode()
            except UnicodeDecodeError:
                return None
    return None


@dataclass(slots=True)
class Fetched:
    """What one partition gave in one round.

    Attributes:
        next_offset: where to go on.
        out_of_range: the offset asked for is not there (any more).
        markers: ends of transactions: offset, producer id, and whether it is a commit.
        writers: offset -> producer id, of the records that belong to a transaction.
        unreadable: offsets, from and to (excluded), of what cannot be read.
    """

    records: list[Any] = field(default_factory=list)
    next_offset: int = 0
    out_of_range: bool = False
    markers: list[tuple[int, int, bool]] = field(default_factory=list)
    writers: dict[int, int] = field(default_factory=dict)
    unreadable: list[tuple[int, int]] = field(default_factory=list)

    def note(self, one: Partition, record: Any, *, pass_over: bool) -> bool:
        """Keep a record, or where it stands when it cannot be read; tell whether it was kept.

        Raises:
            UnsupportedCodecError: it cannot be read, and must not be passed over: what it is about,
                nobody may say that it is not there.
        """
        fault = unreadable(record)
        if fault is None:
            self.records.append(record)
            return True
        span = (first_offset(record), record.offset + 1)
        if not pass_over:
            where = f"{one[0]}[{one[1]}], offsets {span[0]} to {record.offset}"
            raise UnsupportedCodecError(f"{where} cannot be read: {fault.fault}: {fault.why}")
        self.unreadable.append(span)
        return False


async def fetch(
    broker: Broker,
    wanted: Mapping[Partition, int],
    *,
    bytes_each: int,
    committed: bool,
    until: Mapping[Partition, int] | None = None,
    pass_over: bool = False,
) -> dict[Partition, Fetched]:
    """Fetch from each partition once, beginning at its offset; a moved leader gives nothing.

    Args:
        broker: connected.
        wanted: where to begin, by partition.
        bytes_each: of each partition, about; at least a whole batch comes.
        committed: leave out what no transaction committed.
        until: where nothing more is wanted: what comes after is not decoded.
        pass_over: name what cannot be read in `Fetched.unreadable`, and go on behind it.

    Raises:
        KafkaError: not permitted, or the broker is away.
        UnsupportedCodecError: something cannot be read, and `pass_over` is not set.
    """
    level = READ_COMMITTED if committed else READ_UNCOMMITTED
    found: dict[Partition, Fetched] = {}
    led = broker.by_leader(wanted)
    requests = [
        broker.send(_request(partitions, wanted, bytes_each, level), leader)
        for leader, partitions in led.items()
    ]
    for answer in await asyncio.gather(*requests):
        for topic, partitions in answer.topics:
            for number, error, _high, *rest in partitions:
                one = Partition(topic, number)
                stop = (until or {}).get(one, _NO_END)
                found[one] = _decoded(
                    one, range(wanted[one], stop), error, rest, level=level, pass_over=pass_over
                )
                await asyncio.sleep(0)
    if len(found) < len(wanted) or not found:
        await broker.refresh()
    return found


def _request(
    partitions: list[Partition], wanted: Mapping[Partition, int], bytes_each: int, level: int
) -> FetchRequest:
    topics: dict[str, list[tuple[int, int, int]]] = {}
    for one in partitions:
        topics.setdefault(one[0], []).append((one[1], wanted[one], bytes_each))
    return FetchRequest(_WAIT_MS, 1, _ANSWER_BYTES, level, list(topics.items()))


def _decoded(
    one: Partition, span: range, error: int, rest: list[Any], *, level: int, pass_over: bool
) -> Fetched:
    offset = span.start
    if error == _OUT_OF_RANGE:
        return Fetched(next_offset=offset, out_of_range=True)
    if error in _MOVED:
        return Fetched(next_offset=offset)
    if error:
        raise for_code(error)(f"{one[0]}[{one[1]}]@{offset}")
    # The last part is the records; before it stand the aborted transactions (and, from version 11,
    # the preferred replica), see aiokafka.consumer.fetcher.
    aborted = next((part for part in rest[1:-1] if isinstance(part, list)), None)
    if aborted and level == READ_COMMITTED:
        return _without_aborted(one, rest[-1], aborted, offset, pass_over=pass_over)
    return _plain(one, rest[-1], span, pass_over=pass_over)


def _plain(one: Partition, data: bytes, span: range, *, pass_over: bool) -> Fetched:
    """Decode without aiokafka's object for each record: half the time of a scan."""
    found, size = Fetched(next_offset=span.start), 0
    pending = AnyRecords(cut(data, span.start, span.stop))
    while pending.has_next():
        batch = pending.next_batch()
        found.next_offset = batch.next_offset
        if batch.is_control_batch:
            found.markers += _markers(batch, span)
            continue
        for record in batch:
            # As soon as memory holds enough, the rest is left for the next round.
            if first_offset(record) >= span.stop or size > _DECODED_BYTES:
                found.next_offset = record.offset
                return found
            if record.offset >= span.start:
                if not found.note(one, record, pass_over=pass_over):
                    continue
                size += len(record.value or b"") + len(record.key or b"")
                if batch.is_transactional:
                    found.writers[record.offset] = batch.producer_id
    return found


def _markers(batch: Any, span: range) -> Iterator[tuple[int, int, bool]]:
    """Read the ends of transactions; other control records end none."""
    for record in batch:
        kind = int.from_bytes((record.key or b"")[2:4], "big")
        if record.offset in span and kind in (_ABORT, _COMMIT):
            yield record.offset, batch.producer_id, kind == _COMMIT


def _without_aborted(
    one: Partition, data: bytes, aborted: list[Any], offset: int, *, pass_over: bool
) -> Fetched:
    unpacked = PartitionRecords(
        TopicPartition(*one),
        AnyRecords(data),
        aborted,
        offset,
        key_deserializer=None,
        value_deserializer=None,
        check_crcs=False,
        isolation_level=READ_COMMITTED,
    )
    found, size = Fetched(), 0
    for record in unpacked:
        if not found.note(one, record, pass_over=pass_over):
            continue
        size += len(record.value or b"") + len(record.key or b"")
        if size > _DECODED_BYTES:
            break
    found.next_offset = unpacked.next_fetch_offset
    return found


def seen(partition: Partition, record: Any) -> RecordSeen:
    """Keep what a diagnosis needs of a record."""
    return RecordSeen(
        partition,
        record.offset,
        of_milliseconds(record.timestamp),
        record.key,
        record.value,
        tuple(record.headers),
    )


@dataclass(slots=True)
class RangeReader:
    """Reads ranges `[from, to)` of many partitions, in rounds, until done or out of time.

    Attributes:
        left: by partition, what is still to be read; empty when all was.
        committed: leave out what no transaction committed, and end where the first open one begins.
        count: records read.
        places: by partition, how many offsets held a record or a marker; of what was read with
            `committed`, the aborted ones are not among them.
        outcomes: what became of the transactions that were read.
        writers: offset -> producer id, of the round's records that belong to a transaction.
        lost: partitions whose next records were deleted under the reader, up to the log's start.
        pass_over: go on behind what cannot be read, and name it in `unreadable`: by partition,
            offsets from and to (excluded).
    """

    broker: Broker
    left: dict[Partition, tuple[int, int]]
    bytes_each: int = 1_000_000
    committed: bool = True
    count: int = 0
    lost: set[Partition] = field(default_factory=set)
    places: Counter[Partition] = field(default_factory=Counter)
    outcomes: Outcomes = field(default_factory=Outcomes)
    writers: dict[tuple[Partition, int], int] = field(default_factory=dict)
    pass_over: bool = False
    unreadable: dict[Partition, list[tuple[int, int]]] = field(default_factory=dict)

    async def rounds(self, deadline: float) -> AsyncIterator[tuple[Partition, list[Any]]]:
        """Yield the records of each round, as aiokafka gives them, until the loop's `deadline`."""
        loop = asyncio.get_running_loop()
        self.left = {one: span for one, span in self.left.items() if span[0] < span[1]}
        while self.left and loop.time() < deadline:
            starts = {one: span[0] for one, span in self.left.items()}
            got = await fetch(
                self.broker,
                starts,
                bytes_each=self.bytes_each,
                committed=self.committed,
                until={one: span[1] for one, span in self.left.items()},
                pass_over=self.pass_over,
            )
            self.writers = {
                (one, offset): writer
                for one, fetched in got.items()
                for offset, writer in fetched.writers.items()
            }
            for one, records in self._advance(got):
                self.count += len(records)
                yield one, records
            await asyncio.sleep(0 if got else _NOBODY_LEADS_SECONDS)

    def _advance(self, got: Mapping[Partition, Fetched]) -> Iterator[tuple[Partition, list[Any]]]:
        for one, fetched in got.items():
            start, end = self.left[one]
            if fetched.out_of_range:
                self.lost.add(one)
                del self.left[one]
                continue
            if fetched.next_offset >= end:
                del self.left[one]
            else:
                self.left[one] = (max(start, fetched.next_offset), end)
            self.places[one] += len(fetched.markers)
            self.outcomes.note(one, fetched.markers)
            for low, high in fetched.unreadable:
                self.unreadable.setdefault(one, []).append((low, high))
                self.places[one] += max(0, min(high, end) - max(low, start))
            records = [record for record in fetched.records if start <= record.offset < end]
            self.places[one] += len(records)
            if records:
                yield one, records
