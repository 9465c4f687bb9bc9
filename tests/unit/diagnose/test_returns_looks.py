"""Which offsets have to be read before anybody may say that there is no return."""

from datetime import UTC, datetime, timedelta

from relay.diagnose.evidence.system_state import ConsumerOffset, Gap, Shrink
from relay.diagnose.gather.looks import Bounds, look_at

AT = datetime(2026, 3, 2, tzinfo=UTC)
LOG = Bounds(start=0, stable_end=100, end=120)


def at(offset: int) -> ConsumerOffset:
    return ConsumerOffset(offset, AT)


def test_what_the_consumer_has_not_handled_is_read_to_the_high_watermark() -> None:
    look = look_at(LOG, at(40), [], [], floor=None, since=90)
    assert (look.unhandled, look.handled) == ((40, 120), (40, 40))
    assert (look.log.stable_end, look.lost, look.deleted_at) == (100, False, ())


def test_no_time_that_a_producer_claims_is_a_bound() -> None:
    look = look_at(LOG, at(80), [], [], floor=None, since=120)
    assert (look.unhandled, look.handled) == ((80, 120), (80, 80))


def test_without_a_position_everything_is_read_from_where_the_log_ended_before_the_order() -> None:
    assert look_at(LOG, None, [], [], floor=None, since=90).unhandled == (0, 120)
    assert look_at(LOG, None, [], [], floor=70, since=90).unhandled == (70, 120)
    assert look_at(LOG, at(10), [], [], floor=70, since=90).unhandled == (70, 120)


def test_a_recorded_end_of_another_log_is_no_bound() -> None:
    again = Shrink(0, AT, 70, AT, 0)
    assert look_at(LOG, None, [], [again], floor=70, since=0).unhandled == (0, 120)
    assert look_at(LOG, None, [], [], floor=700, since=0).unhandled == (0, 120)


def test_what_left_the_log_unread_is_deleted() -> None:
    log = Bounds(start=50, stable_end=120, end=120)
    assert look_at(log, at(50), [], [], floor=None, since=60).deleted_at == ()
    look = look_at(log, at(40), [], [], floor=None, since=60)
    assert (look.unhandled, look.lost, look.deleted_at) == ((50, 120), True, (None,))
    assert look_at(log, None, [], [], floor=None, since=60).deleted_at == (None,)
    assert look_at(log, None, [], [], floor=50, since=60).deleted_at == ()
    gone = Gap(0, 30, 50, "out_of_range", AT)
    assert look_at(log, at(60), [gone], [], floor=None, since=60).deleted_at == (AT,)
    assert look_at(log, at(60), [gone], [], floor=50, since=60).deleted_at == ()


def test_a_recorded_gap_that_is_still_there_is_read() -> None:
    gap = Gap(0, 30, 50, "out_of_range", AT)
    look = look_at(LOG, at(60), [gap], [], floor=None, since=60)
    assert (look.skipped, look.deleted_at) == ((30, 50), ())


def test_a_log_made_again_lost_what_the_consumer_had_not_come_to() -> None:
    short = Bounds(0, 5, 5)
    handled = Shrink(0, AT, 40, AT + timedelta(seconds=9), 0)
    more = Shrink(0, AT, 41, AT + timedelta(seconds=9), 0)
    assert look_at(short, at(40), [], [handled], floor=None, since=0).deleted_at == ()
    assert look_at(short, at(40), [], [more], floor=None, since=0).deleted_at == (None,)
    gap = Gap(0, 40, 0, "topic_recreated", AT)
    assert look_at(short, at(2), [gap], [handled], floor=None, since=0).deleted_at == ()
    assert look_at(short, at(2), [gap], [more], floor=None, since=0).deleted_at == (AT,)
