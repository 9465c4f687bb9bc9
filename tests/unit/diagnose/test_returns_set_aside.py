"""Which ranges of the returns topic nobody can look at, and whose returns may stand in them."""

from datetime import UTC, datetime, timedelta

from relay.diagnose.evidence.system_state import ConsumerOffset, ConsumerSeen, Gap, SetAside, Shrink
from relay.diagnose.gather.looks import Bounds, Look, look_at
from relay.diagnose.gather.set_aside import Unseen, unseen

AT = datetime(2026, 3, 2, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LOG = Bounds(start=0, stable_end=100, end=100)
LOOK = Look((80, 100), (0, 0), (80, 80), LOG, lost=False)
PLACES = SetAside(0, 20, 30, "malformed", AT, AT + MINUTE)
BATCH = SetAside(0, 40, 50, "unreadable", AT, AT)


def of(look: Look | None, *recorded: SetAside, on_kafka=(), gaps=(), shrinks=()) -> list[Unseen]:
    seen = ConsumerSeen({}, tuple(gaps), (), tuple(recorded))
    return list(unseen(0, look, on_kafka, seen, shrinks))


def test_a_range_that_was_read_again_hides_nothing() -> None:
    assert of(LOOK, PLACES, BATCH) == []


def test_a_range_is_read_again_as_far_as_it_is_there() -> None:
    log = Bounds(start=25, stable_end=100, end=100)
    position = ConsumerOffset(80, AT)
    look = look_at(log, position, [], [], floor=None, since=90, set_aside=[PLACES, BATCH])
    assert look.skipped == (25, 50)
    assert look.deleted_at == ()


def test_a_range_that_left_kafka_may_hide_returns_of_its_time_and_of_no_later_order() -> None:
    late = Look((80, 100), (0, 0), (80, 80), Bounds(25, 100, 100), lost=False)
    for look in (late, None):
        (found,) = of(look, PLACES)
        assert found.may_hide_since(AT - MINUTE)
        assert found.may_hide_since(AT)
        assert not found.may_hide_since(AT + MINUTE)
    assert "topic[0], offsets 20 to 29" in found.text("topic")


def test_of_a_log_that_was_made_again_the_last_time_counts() -> None:
    (found,) = of(LOOK, PLACES, shrinks=[Shrink(0, AT, 90, AT + MINUTE, 0)])
    assert found.may_hide_since(AT + MINUTE)
    assert of(LOOK, PLACES, shrinks=[Shrink(1, AT, 90, AT + MINUTE, 0)]) == []


def test_what_is_still_unreadable_on_kafka_is_as_old_as_its_record() -> None:
    (found,) = of(LOOK, BATCH, on_kafka=[(40, 50)])
    assert found.unreadable
    assert not found.may_hide_since(AT + MINUTE)


def test_what_nobody_recorded_may_hide_any_order() -> None:
    (found,) = of(LOOK, BATCH, on_kafka=[(85, 90)])
    assert (found.from_offset, found.to_offset, found.there_at) == (85, 90, None)
    assert found.may_hide_since(AT + MINUTE)
    # What the consumer has handled without a word, a version of it could read or left behind.
    assert of(LOOK, on_kafka=[(60, 70)]) == []
    (found,) = of(LOOK, on_kafka=[(60, 70)], gaps=[Gap(0, 65, 66, "out_of_range", AT)])
    assert found.unreadable
