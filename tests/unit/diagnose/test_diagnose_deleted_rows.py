"""What was sent and cannot be read back counts for the orders it stands around, and no others."""

from relay.diagnose.evidence.order import Moment
from relay.diagnose.gather.deleted_rows import _with_unread
from relay.diagnose.gather.unledgered import _Uncovered, joined, uncovered_in


def test_a_vanished_row_accuses_nobody_far_from_it() -> None:
    found = _with_unread(
        {"near": Moment(), "far": Moment()}, {"near": (7, 8), "far": (90,)}, unread={8}, others={}
    )
    assert (found["near"].sent_count, found["far"].sent_count) == (1, 0)


def test_a_row_that_is_another_orders_on_kafka_was_never_this_ones() -> None:
    found = _with_unread({"bare": Moment()}, {"bare": (7, 8)}, unread=set(), others={7: "other"})
    assert found["bare"].vacant_count == 1


def test_what_no_batch_covers_is_looked_for_where_it_is_still_there() -> None:
    assert uncovered_in([(10, 20), (50, None)], (0, 80)) == _Uncovered(
        ((10, 20), (50, 80)), gone=False
    )
    assert uncovered_in([(10, 20), (50, None)], (15, 50)) == _Uncovered(((15, 20),), gone=True)
    assert uncovered_in([(10, 20), (50, None)], (30, 80)) == _Uncovered(((50, 80),), gone=True)


def test_batches_of_a_log_that_was_made_again_prove_nothing() -> None:
    assert uncovered_in([(50, None)], (0, 3)) == _Uncovered((), gone=True)


def test_ranges_that_are_near_one_another_are_read_as_one() -> None:
    assert joined([(0, 1), (3, 4), (5_000, 5_001), (5_100, 5_200)]) == ((0, 4), (5_000, 5_200))
    assert joined([]) == ()
