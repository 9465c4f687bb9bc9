"""What stands at an offset, for each of those who expect something there."""

from relay.diagnose.evidence.order import Found, ReadBack
from relay.diagnose.gather.readback import ReadBacks

WHERE = ("orders.events", 1)


def test_of_two_events_with_one_place_only_one_is_there() -> None:
    """A topic was made again: the new log's event stands where the old log's did."""
    read = ReadBacks(
        {(WHERE, 5): ReadBack(Found.SAME, "new"), (WHERE, 9): ReadBack(Found.GONE_AFTER)}
    )
    assert read.at(WHERE, 5, "new") == ReadBack(Found.SAME, "new")
    assert read.at(WHERE, 5, "old") == ReadBack(Found.OTHER, "new")
    assert read.at(WHERE, 9, "old") == ReadBack(Found.GONE_AFTER)
    assert read.at(WHERE, 7, "old") is None
