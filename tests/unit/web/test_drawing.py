"""Pictures show what was read, where it was, and no more than that."""

from datetime import UTC, datetime, timedelta

from relay.diagnose.status.minutes import Bucket, Minutes
from relay.diagnose.watch.case_pages import CaseSeen
from relay.diagnose.watch.happened import Happened
from relay.web.drawing import LEFT, WIDTH, Axis, band, time_line

AT = datetime(2026, 11, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
AXIS = Axis(AT, AT + 60 * MINUTE)


def minutes(**lost: int) -> Minutes:
    buckets = [Bucket(AT + n * MINUTE, 10 * (n % 2), {}, {}) for n in range(60)]
    buckets[5] = Bucket(AT + 5 * MINUTE, 10, lost, lost)
    return Minutes(AT, AT + 60 * MINUTE, tuple(buckets), exact=True, whole=True)


def case(number: int, **other: str | None) -> CaseSeen:
    facts = {"hop": "return", "verdict": "no_return", "cause": "offsets_skipped", **other}
    return CaseSeen(
        f"event-{number}", f"order-{number}", AT + number * MINUTE, AT, incident_id=1,
        diagnosed_at=AT, **facts,
    )  # fmt: skip


def test_an_order_that_is_lost_at_a_hop_is_missing_there_and_behind_it() -> None:
    cells = [one for one in band(minutes(process=2), 900.0).cells if one.from_at == AT + 5 * MINUTE]
    assert [one.look for one in cells] == ["fine", "fine", "lost", "lost", "lost"]
    assert [one.stuck for one in cells] == [0, 0, 2, 2, 2]


def test_a_minute_without_orders_has_no_cell() -> None:
    assert not [one for one in band(minutes(), 900.0).cells if one.from_at == AT]


def test_marks_stand_in_the_lane_of_their_hop_and_look_like_their_fate() -> None:
    cases = [case(1), case(2, closed_as="returned"), case(3, hop="confirm", closed_as="closed")]
    line = time_line(AXIS, (AT, AT), cases, minutes(), [], whole=False)
    assert sorted((one.look, one.count) for one in line.marks) == [
        ("closed", 1), ("fine", 1), ("lost", 1)
    ]  # fmt: skip
    assert not line.whole


def test_what_lasts_beyond_the_picture_ends_with_it() -> None:
    outage = Happened(AT - MINUTE, "outage", "database", to_at=AT + 600 * MINUTE)
    (drawn,) = time_line(AXIS, (AT, AT), [], minutes(), [outage], whole=True).stretches
    assert drawn.x == LEFT
    assert drawn.x + drawn.width <= WIDTH


def test_numbers_of_what_happened_together_do_not_cover_each_other() -> None:
    together = [Happened(AT + MINUTE, "started", str(number)) for number in range(4)]
    line = time_line(AXIS, (AT, AT), [], minutes(), together, whole=True)
    assert len({(x, y) for _number, x, y, _one in line.events}) == 4
