"""Hop 2: divides a page among topics and partitions, and its parts into batches that fit.

Invariant: pure; a batch's rows stand in the order of their ids, and batches of one partition in the
order in which they must be sent. No batch is larger than its topic takes, unless it holds a single
record: that one is found out by its size, or by the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from relay.kafka.partition import Partition

BATCH_HEADER_BYTES: Final = 61
LARGEST_COUNT: Final = 10_000


@dataclass(slots=True, eq=False)
class Batch:
    """Rows of one page that go to one partition together, until the broker has them.

    Attributes:
        places: where the rows stand in their page.
        outbox_ids: the rows.
        size_bytes: the most it takes on the wire, before compression.
        records: as they are sent; empty once they are a part of `checked`.
        codec: Kafka's number of their compression.
        acknowledged: told of the base offset, once the broker has the batch.
        start, checked: the batch's bytes, made when it is sent for the first time; every retry
            sends the same. Empty again once the broker has them.
        give_up_at: on the monotonic clock; 0: it was not tried yet.
        place: the partition that it goes to.
    """

    topic: str
    partition: int
    places: Sequence[int]
    outbox_ids: Sequence[int]
    size_bytes: int
    records: bytes = b""
    timestamp_ms: int = 0
    codec: int = 0
    acknowledged: Acknowledged | None = None
    start: bytes = b""
    checked: bytes = b""
    give_up_at: float = 0.0
    place: Partition = field(init=False)

    def __post_init__(self) -> None:
        self.place = Partition(self.topic, self.partition)


Acknowledged = Callable[[Batch, int | None], None]
"""Told of a batch that the broker has, and its base offset; None: the broker did not say."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What a topic takes in one batch."""

    batch_bytes: int
    count: int = LARGEST_COUNT

    def halved(self, refused_bytes: int, refused_count: int) -> Limit:
        """Return the limit after a batch of that size was refused."""
        bytes_limit = max(1, min(self.batch_bytes, refused_bytes) // 2)
        return Limit(bytes_limit, max(1, min(self.count, refused_count) // 2))


def by_partition(places: Sequence[int], partitions: Sequence[int]) -> dict[int, list[int]]:
    """Group a page's places by partition; `partitions` has one for each place."""
    groups: dict[int, list[int]] = {partition: [] for partition in set(partitions)}
    for place, partition in zip(places, partitions, strict=True):
        groups[partition].append(place)
    return groups


def runs(places: Sequence[int], sizes: Sequence[int], limit: Limit) -> list[tuple[list[int], int]]:
    """Cut one partition's places into runs within the limit, each with its bytes.

    Args:
        places: in order.
        sizes: the page's record sizes, by place.
        limit: a record that alone exceeds it makes a run of its own.
    """
    total = BATCH_HEADER_BYTES + sum(map(sizes.__getitem__, places))
    if total <= limit.batch_bytes and len(places) <= limit.count:
        return [(list(places), total)]
    cut: list[tuple[list[int], int]] = []
    run: list[int] = []
    run_bytes = BATCH_HEADER_BYTES
    for place in places:
        if run and (run_bytes + sizes[place] > limit.batch_bytes or len(run) >= limit.count):
            cut.append((run, run_bytes))
            run, run_bytes = [], BATCH_HEADER_BYTES
        run.append(place)
        run_bytes += sizes[place]
    cut.append((run, run_bytes))
    return cut


def batches(
    *,
    topic: str,
    places: Sequence[int],
    partitions: Sequence[int],
    sizes: Sequence[int],
    outbox_ids: Sequence[int],
    limit: Limit,
) -> list[Batch]:
    """Divide the rows at `places`, all of one topic, into batches.

    Args:
        topic: where they go.
        places: in the page, in order.
        partitions: one for each place.
        sizes: by place, for the whole page.
        outbox_ids: by place, for the whole page.
        limit: what the topic takes.
    """
    return [
        Batch(topic, partition, run, [outbox_ids[place] for place in run], size_bytes)
        for partition, group in by_partition(places, partitions).items()
        for run, size_bytes in runs(group, sizes, limit)
    ]
