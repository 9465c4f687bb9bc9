"""Hop 2, witnessed: rows of the ledger out of records whose outbox rows were found.

Invariant: pure. Each record is in one run or is unmatched; a run is of one partition, its offsets
touch, no event stands in it twice, and it spans a few seconds at most (a ledger row has one time).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from relay.witness.batch import NO_ROW, ROW_DROPPED, Batch, Place, Unmatched

SPAN_SECONDS: Final = 10.0


@dataclass(slots=True)
class Run:
    """A row of the ledger: `first` and `last` are places in `Runs.outbox_ids`, from 1."""

    partition: int
    base_offset: int
    at: float
    first: int
    last: int
    lowest: int
    highest: int


@dataclass(slots=True)
class Runs:
    """What a batch comes to."""

    outbox_ids: list[int] = field(default_factory=list)
    rows: list[Run] = field(default_factory=list)
    unmatched: list[Unmatched] = field(default_factory=list)


def to_runs(
    batch: Batch, row_of: Sequence[int | None], is_dropped: Callable[[Place], bool]
) -> Runs:
    """Put what was found together.

    Args:
        batch: the records.
        row_of: the outbox id of each record of `batch.places`; None: no row was found.
        is_dropped: whether the row of a record of that time may have left with its day.
    """
    runs = Runs(unmatched=list(batch.unmatched))
    seen: set[int] = set()
    run: Run | None = None
    next_place = (-1, -1)
    for place, event_id, outbox_id in zip(batch.places, batch.event_ids, row_of, strict=True):
        if outbox_id is None:
            reason = ROW_DROPPED if is_dropped(place) else NO_ROW
            runs.unmatched.append(Unmatched(place, event_id, reason))
            continue
        partition, offset, at, _ = place
        if (
            run is None
            or (partition, offset) != next_place
            or outbox_id in seen
            or not 0 <= at - run.at <= SPAN_SECONDS
        ):
            number = len(runs.outbox_ids) + 1
            run = Run(partition, offset, at, number, number, outbox_id, outbox_id)
            runs.rows.append(run)
            seen = set()
        runs.outbox_ids.append(outbox_id)
        seen.add(outbox_id)
        run.last = len(runs.outbox_ids)
        run.lowest = min(run.lowest, outbox_id)
        run.highest = max(run.highest, outbox_id)
        next_place = (partition, offset + 1)
    return runs
