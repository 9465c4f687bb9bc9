"""Which of a group's absences an incident's story tells, and how far its offsets jumped."""

from datetime import UTC, datetime, timedelta

from relay.diagnose.incidents.story import GroupPoint, Life, describe_group, describe_processes

T0 = datetime(2026, 3, 2, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def points(*rows: tuple[float, int, int, int]) -> list[GroupPoint]:
    """From rows of second, partition, members, committed offset."""
    return [GroupPoint(at(s), ("t", p), members, done) for s, p, members, done in rows]


def clock(seconds: float) -> str:
    return f"{at(seconds).astimezone():%H:%M:%S}"


def told(rows: list[GroupPoint], first: float, last: float, lost: int | None = None) -> str:
    return "; ".join(describe_group("g", rows, at(first), at(last), lost=lost))


def test_members_were_lost_and_came_back_past_their_records() -> None:
    night = points((0, 0, 3, 100), (10, 0, 0, 100), (50, 0, 3, 160))
    assert told(night, 12, 40, 60) == (
        f"g lost its last of 3 members at {clock(10)}; resumed at {clock(50)}; "
        "offsets jumped by 60, no returns"
    )


def test_what_was_answered_of_a_jump_is_not_said_to_have_no_return() -> None:
    """Answered before the group left, and not committed: the jump is wider than the loss."""
    night = points((0, 0, 3, 100), (10, 0, 0, 100), (50, 0, 3, 160))
    assert told(night, 12, 40, 57).endswith("offsets jumped by 60, 57 of them without a return")
    # Of two jumps in one incident no count is told of one.
    assert told(night, 12, 40, 90).endswith("; offsets jumped by 60")


def test_offsets_that_did_not_move_while_nobody_was_there_did_not_jump() -> None:
    night = points((0, 0, 0, 100), (10, 0, 1, 100), (20, 0, 1, 101))
    assert told(night, 5, 5, 1) == f"g had no members at {clock(0)}; resumed at {clock(10)}"


def test_an_absence_that_ended_before_the_first_order_is_not_the_incidents() -> None:
    start = points((0, 0, 0, 0), (1, 0, 1, 3))
    night = points((5, 0, 0, 3), (20, 0, 0, 18), (21, 0, 1, 18), (25, 0, 1, 21))
    assert told(start + night, 6, 7, 15) == (
        f"g lost its last member at {clock(5)}; resumed at {clock(21)}; "
        "offsets jumped by 15, no returns"
    )


def test_of_two_absences_the_one_with_the_jump_is_told() -> None:
    rows = points(
        (0, 0, 2, 10), (5, 0, 0, 10), (9, 0, 2, 10), (20, 0, 0, 40), (30, 0, 2, 90), (40, 0, 2, 91)
    )
    assert f"at {clock(20)}; resumed at {clock(30)}; offsets jumped by 50" in told(rows, 6, 25, 1)


def test_offsets_moved_by_hand_count_and_later_work_does_not() -> None:
    rows = points(
        (0, 0, 1, 10), (0, 1, 1, 5), (5, 0, 0, 10), (5, 1, 0, 5), (8, 0, 0, 30), (8, 1, 0, 6)
    ) + points((12, 0, 1, 34), (12, 1, 1, 9))
    assert "offsets jumped by 21, no returns" in told(rows, 6, 7, 21)


def test_the_longest_absence_among_an_incidents_orders_is_told() -> None:
    rows = points((0, 0, 1, 1), (5, 0, 0, 1), (6, 0, 1, 1), (10, 0, 0, 1), (90, 0, 1, 1))
    assert told(rows, 4, 60) == (f"g lost its last member at {clock(10)}; resumed at {clock(90)}")


def test_who_has_not_come_back_is_said_so() -> None:
    rows = points((0, 0, 1, 1), (5, 0, 0, 1), (60, 0, 0, 1))
    assert told(rows, 6, 7) == (f"g lost its last member at {clock(5)}; has not come back")


def test_a_group_that_was_never_away_has_no_story() -> None:
    assert told(points((0, 0, 1, 1), (9, 0, 1, 5)), 3, 4) == ""


GONE, STALE = timedelta(seconds=6), timedelta(seconds=15)


def relay(began: float, beat: float, stopped: float | None = None) -> Life:
    stopped_at = None if stopped is None else at(stopped)
    return Life("h:1", at(began), at(beat), stopped_at, None if stopped is None else "SIGTERM")


def test_a_killed_relay_fell_silent_as_soon_as_it_is_said_to_be_down() -> None:
    told_now = describe_processes("relay", [relay(0, 100)], at(101), at(108), GONE)
    assert told_now == [
        f"relay h:1 fell silent {clock(100)} without a farewell",
        "no relay has started since",
    ]


def test_a_relay_that_stands_still_did_not_end() -> None:
    assert describe_processes("relay", [relay(0, 100)], at(50), at(108), STALE) == []


def test_a_relay_that_came_back_is_told() -> None:
    lives = [relay(0, 100, 100), relay(160, 200)]
    assert describe_processes("relay", lives, at(101), at(202), GONE) == [
        f"relay h:1 stopped {clock(100)} (SIGTERM)",
        f"relay h:1 started {clock(160)}",
    ]


def test_where_none_ever_ran_that_is_told() -> None:
    assert describe_processes("relay", [], at(1), at(9), GONE) == ["no relay ever ran before"]
