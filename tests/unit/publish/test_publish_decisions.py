"""Hop 2's decisions: windows, pages, batches, sizes, pauses, what may leave quarantine."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.publish.options import PublishOptions
from relay.publish.reading.pacing import Pace
from relay.publish.reading.page import cut_to_bytes
from relay.publish.reading.parking import Waiting, releasable
from relay.publish.reading.window import LOWEST_ID, Paging, Position, Snapshot, ended_between
from relay.publish.sending.batch import BATCH_HEADER_BYTES, Limit, batches, by_partition, runs
from relay.publish.sending.sizing import Sizing


@pytest.mark.parametrize("text", ["3:3:", "10:20:10,14,19", "18446744073709551:18446744073709552:"])
def test_snapshots_are_read_and_written_as_postgresql_does(text: str) -> None:
    assert str(Snapshot.parse(text)) == text


@given(st.integers(3, 50), st.sets(st.integers(3, 60)), st.integers(0, 80))
def test_a_snapshot_sees_what_was_over(xmin: int, running: set[int], txid: int) -> None:
    xip = tuple(sorted(number for number in running if number >= xmin))
    xmax = max((*xip, xmin)) + 1
    seen = Snapshot(xip[0] if xip else xmin, xmax, xip).sees(txid)
    assert seen == (txid < xmax and txid not in xip)


def test_ended_transactions_are_those_no_longer_in_progress() -> None:
    before = Snapshot(10, 20, (10, 12, 15))
    assert ended_between(before, Snapshot(12, 30, (12, 25))) == (10, 15)
    assert ended_between(before, before) == ()


PAGING = Paging(Snapshot(3, 3), Snapshot(9, 9), (), floor=100, ceiling=300_000, last_id=100)


def test_a_full_page_ends_at_its_last_row() -> None:
    after = PAGING.after(10, 170, limit=10)
    assert after is not None
    assert (after.last_id, after.from_id) == (170, 170)
    assert after.position == Position(Snapshot(3, 3), Snapshot(9, 9), 170)


def test_a_page_with_too_few_rows_ends_where_it_looked_and_looks_further_next_time() -> None:
    after = PAGING.after(3, 170, limit=10)
    assert after is not None
    assert after.last_id == PAGING.upto
    assert after.upto - after.from_id == 2 * (PAGING.upto - PAGING.from_id)


def test_the_window_ends_at_its_ceiling() -> None:
    last = replace(PAGING, last_id=299_990)
    assert last.upto == 300_000
    assert last.after(2, 299_995, limit=10) is None
    assert last.after(10, 300_000, limit=10) is None
    assert last.after(10, 299_999, limit=10) is not None


def test_rows_of_ended_transactions_below_the_floor_come_first() -> None:
    early = replace(PAGING, ended=(5,), last_id=LOWEST_ID)
    assert early.upto == 100
    assert early.from_id == 100
    assert early.after(0, LOWEST_ID, limit=10) == replace(early, last_id=100, span=early.span * 2)


def test_a_long_gap_is_noticed() -> None:
    paging = replace(PAGING, ceiling=10**12)
    for _ in range(20):
        assert paging is not None
        paging = paging.after(0, 0, limit=10)  # type: ignore[assignment]
    assert paging is not None
    assert paging.crosses_gap
    further = paging.at(10**11)
    assert further is not None
    assert not further.crosses_gap


@given(st.lists(st.integers(0, 1000), max_size=60), st.integers(1, 3000))
def test_a_page_is_cut_to_its_bytes_and_never_to_nothing(sizes: list[int], limit: int) -> None:
    kept = cut_to_bytes(sizes, limit)
    if not sizes:
        assert kept == 0
        return
    assert kept >= 1
    assert kept == 1 or sum(sizes[:kept]) <= limit
    assert kept == len(sizes) or sum(sizes[: kept + 1]) > limit


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 400)), min_size=1, max_size=80),
    st.integers(100, 900),
    st.integers(1, 20),
)
def test_batches_hold_every_row_once_in_order_and_fit(
    rows: list[tuple[int, int]], limit_bytes: int, most: int
) -> None:
    sizes = [size for _, size in rows]
    numbers = [partition for partition, _ in rows]
    limit = Limit(limit_bytes, most)
    made = batches(
        topic="t", places=range(len(rows)), partitions=numbers, sizes=sizes,
        outbox_ids=[place + 1000 for place in range(len(rows))], limit=limit,
    )  # fmt: skip
    assert sorted(place for batch in made for place in batch.places) == list(range(len(rows)))
    for batch in made:
        assert batch.outbox_ids == [place + 1000 for place in batch.places]
        assert batch.size_bytes == BATCH_HEADER_BYTES + sum(sizes[p] for p in batch.places)
        assert len(batch.places) == 1 or (
            batch.size_bytes <= limit_bytes and len(batch.places) <= most
        )
    for partition in set(numbers):
        of_it = [place for b in made if b.partition == partition for place in b.places]
        assert of_it == [place for place, number in enumerate(numbers) if number == partition]


def test_runs_of_one_batch_and_groups() -> None:
    assert runs([0, 1], [10, 20], Limit(1000)) == [([0, 1], BATCH_HEADER_BYTES + 30)]
    assert by_partition(range(4), [2, 0, 2, 0]) == {0: [1, 3], 2: [0, 2]}


def test_a_refused_batch_is_bisected_and_then_the_topic_is_as_before() -> None:
    sizing = Sizing(Limit(900_000))
    sizing.refused("t", range(100), 80_000)
    assert sizing.limit("t") == Limit(40_000, 50)
    assert sizing.limit("other") == Limit(900_000)
    sizing.refused("t", range(50), 40_000)
    assert sizing.limit("t").count == 25
    sizing.refused("t", [7], 3_000)
    assert sizing.refuses("t", 7, 10)
    assert sizing.limit("t") == Limit(900_000)
    sizing.forget([7])
    assert not sizing.refuses("t", 7, 10)


@given(st.integers(2, 100_000), st.integers(100, 10_000_000))
def test_bisection_ends_at_one_record(count: int, size: int) -> None:
    sizing, steps = Sizing(Limit(900_000)), 0
    while count > 1:
        sizing.refused("t", range(count), size)
        count, size = min(count, sizing.limit("t").count), size // 2
        steps += 1
    assert steps <= 17


def test_what_the_broker_says_is_the_limit() -> None:
    sizing = Sizing(Limit(900_000))
    sizing.set_limit("t", 5_000)
    sizing.set_limit("u", None)
    assert sizing.limit("t").batch_bytes == 5_000
    assert sizing.refuses("t", 1, 5_000)
    assert not sizing.refuses("t", 1, 5_000 - BATCH_HEADER_BYTES)
    assert not sizing.refuses("u", 1, 10**9)
    compressed = Sizing(Limit(900_000), compressed=True)
    compressed.set_limit("t", 5_000)
    assert not compressed.refuses("t", 1, 50_000)


def test_the_pause_grows_with_the_time_without_rows_up_to_its_longest() -> None:
    pace = Pace(0.002, 0.02, rows_at=100.0)
    assert pace.pause_seconds(100.0) == pace.pause_seconds(100.05) == 0.002
    assert pace.pause_seconds(100.25) == pytest.approx(0.01)
    assert pace.pause_seconds(100.5) == pace.pause_seconds(10**9) == 0.02
    assert pace.after_read(0, 200.0).pause_seconds(200.0) == 0.02
    assert pace.after_read(1, 200.0).pause_seconds(200.0) == 0.002


def waits(order: str, outbox_id: int, *, release: bool) -> Waiting:
    return Waiting(("order", order), outbox_id, release)


def test_an_order_leaves_up_to_its_first_held_event() -> None:
    waiting = [
        waits("a", 1, release=True),
        waits("b", 2, release=False),
        waits("a", 3, release=True),
        waits("b", 4, release=True),
        waits("a", 5, release=False),
        waits("a", 6, release=True),
    ]
    assert releasable(waiting) == [1, 3]


@pytest.mark.parametrize("name", ["page_rows", "lease_seconds", "batch_bytes", "drain_seconds"])
def test_an_option_that_cannot_work_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        PublishOptions(**{name: 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shard"):
        PublishOptions(shard=-1)
