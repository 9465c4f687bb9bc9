"""Positions: which are written, and what a row of them says of a record."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from relay.diagnose.evidence.history import PositionSample, crossing, reads_alone, waiting
from relay.diagnose.watch.positions import THE_LOG, UNCHANGED_SECONDS, Notebook, Position

T0 = datetime(2026, 3, 2, tzinfo=UTC)
P = ("orders.events", 3)
GROUP = ("order-processor", P)
LOG = (THE_LOG, P)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def samples(*rows: tuple[float, int | None, int | None]) -> list[PositionSample]:
    return [PositionSample(at(second), committed, members) for second, committed, members in rows]


def test_a_group_that_had_no_members_while_the_record_waited() -> None:
    seen = samples(
        (0, 100, 3), (10, 120, 3), (12, 130, 0), (60, 130, 0), (70, 180, 2), (80, 190, 2)
    )
    found = crossing("g", seen, 150, at(30))
    assert found is not None
    assert (found.before_offset, found.after_offset) == (130, 180)
    assert found.unattended_from_at == at(12)
    assert (found.before_members, found.after_members) == (0, 2)


def test_a_group_that_was_away_before_the_record_came_was_not_away_from_it() -> None:
    seen = samples((0, 100, 0), (10, 100, 2), (20, 160, 2))
    found = crossing("g", seen, 150, at(15))
    assert found is not None
    assert found.unattended_from_at is None


def test_an_offset_that_moved_before_the_empty_group_was_seen() -> None:
    found = crossing("g", samples((0, 100, 1), (1, 160, 0)), 150, at(0.5))
    assert found is not None
    assert found.unattended_from_at == at(1)


def test_a_member_that_leaves_after_the_commit() -> None:
    seen = samples((0, 140, 3), (10, 160, 3), (11, 160, 2), (20, 170, 2))
    found = crossing("g", seen, 150, at(5))
    assert found is not None
    assert (found.members_left_at, found.left_offset) == (at(11), 160)


def test_a_member_that_leaves_much_later_had_time_to_answer() -> None:
    seen = samples((0, 140, 3), (10, 160, 3), (500, 960, 2))
    found = crossing("g", seen, 150, at(5))
    assert found is not None
    assert found.members_left_at is None


def test_a_group_that_never_came_past_is_waiting() -> None:
    seen = samples((0, 100, 3), (10, 120, 3))
    assert crossing("g", seen, 150, at(0)) is None
    still = waiting(seen, 150, at(0))
    assert still is not None
    assert (still.offset, still.at) == (120, at(10))
    assert waiting(seen, 110, at(0)) is None
    assert waiting([], 110, at(0)) is None
    assert waiting(samples((0, None, 0)), 110, at(0)) is None


def test_what_was_recorded_long_before_a_record_says_nothing_of_it() -> None:
    """The samples of a page begin with its oldest record; the log may have been another then."""
    seen = samples((0, 900, 0), (10, 900, 0), (5000, 100, 2), (5010, 160, 2))
    found = crossing("g", seen, 150, at(5005))
    assert found is not None
    assert (found.before_at, found.before_offset, found.after_offset) == (at(5000), 100, 160)
    assert found.unattended_from_at is None
    still = waiting(seen, 170, at(5005))
    assert still is not None
    assert still.offset == 160


def test_the_first_position_is_already_past_the_record() -> None:
    found = crossing("g", samples((10, 160, 3)), 150, at(5))
    assert found is not None
    assert (found.before_offset, found.after_offset) == (150, 160)
    assert found.unattended_from_at is None


def test_a_group_that_had_committed_nothing_stood_at_the_logs_start() -> None:
    seen = [PositionSample(at(0), None, 1, 90), PositionSample(at(10), 200, 1, 90)]
    found = crossing("g", seen, 150, at(5))
    assert found is not None
    assert found.before_offset == 90


# --- what is written

STILL = Position(0, 100, 50, 3, "Stable")


def written(notebook: Notebook, now: float, **changes: object) -> list[tuple[float, Position]]:
    position = replace(STILL, **changes)
    return [(round(age, 3), one) for age, _, one in notebook.take({GROUP: position}, now)]


def test_the_first_sample_is_written() -> None:
    assert written(Notebook(10.0), 0.0) == [(0.0, STILL)]


def test_what_changes_is_written_every_ten_seconds_and_what_does_not_every_minute() -> None:
    notebook = Notebook(10.0)
    written(notebook, 0.0)
    assert written(notebook, 1.0, committed=60) == []
    assert written(notebook, 10.0, committed=70) == [(0.0, replace(STILL, committed=70))]
    assert written(notebook, 25.0, committed=70) == []
    assert len(written(notebook, 10.0 + UNCHANGED_SECONDS, committed=70)) == 1


def test_a_lost_member_is_written_at_once_with_the_moment_before() -> None:
    notebook = Notebook(10.0)
    written(notebook, 0.0)
    written(notebook, 1.0, committed=55)
    assert written(notebook, 2.0, committed=55, members=0) == [
        (1.0, replace(STILL, committed=55)),
        (0.0, replace(STILL, committed=55, members=0)),
    ]


def test_where_the_logs_end_when_the_last_member_leaves_is_written_at_once() -> None:
    notebook = Notebook(10.0)
    notebook.take({LOG: Position(0, 100), GROUP: STILL}, 0.0)
    notebook.take({LOG: Position(0, 130), GROUP: replace(STILL, members=1)}, 1.0)
    rows = notebook.take({LOG: Position(0, 140), GROUP: replace(STILL, members=0)}, 2.0)
    ends = [(age, one.log_end) for age, series, one in rows if series == LOG]
    assert ends == [(1.0, 130), (0.0, 140)]


def test_an_offset_that_moves_without_members_is_written_at_once() -> None:
    notebook = Notebook(10.0)
    written(notebook, 0.0, members=0)
    assert written(notebook, 1.0, members=0, committed=99) == [
        (0.0, replace(STILL, members=0, committed=99))
    ]


def test_an_offset_that_moves_backwards_is_written_at_once() -> None:
    notebook = Notebook(10.0)
    written(notebook, 0.0)
    assert written(notebook, 1.0, committed=10) == [(0.0, replace(STILL, committed=10))]


def test_a_log_that_shrinks_is_written_with_where_it_ended() -> None:
    notebook = Notebook(10.0)
    notebook.take({LOG: Position(0, 100)}, 0.0)
    notebook.take({LOG: Position(0, 120)}, 1.0)
    rows = notebook.take({LOG: Position(0, 3)}, 2.0)
    assert [(age, one.log_end) for age, _, one in rows] == [(1.0, 120), (0.0, 3)]


def test_positions_of_a_log_that_was_there_before_tell_nothing_of_a_record() -> None:
    older = samples((0, 400, 1), (20, 400, 0))
    assert crossing("g", older, 5, at(60)) is None
    assert waiting(older, 5, at(60)) is None
    found = crossing("g", [*older, *samples((70, 2, 1), (80, 9, 1))], 5, at(60))
    assert found is not None
    assert (found.before_offset, found.after_offset) == (2, 9)


def test_an_offset_beyond_the_log_was_committed_on_another() -> None:
    stale = [PositionSample(at(second), 400, 0, 0, 20) for second in (65, 70)]
    assert crossing("g", stale, 5, at(60)) is None
    still = waiting(stale, 5, at(60))
    assert still is not None
    assert (still.offset, still.left_over) == (0, 400)


def test_nobody_in_the_group_before_the_record_came_is_told_apart() -> None:
    found = crossing("g", samples((0, 100, 0), (10, 160, 1)), 150, at(5))
    assert found is not None
    assert (found.unattended_from_at, found.unattended_before) == (at(0), True)
    found = crossing("g", samples((0, 100, 0), (6, 100, 0), (10, 160, 1)), 150, at(5))
    assert found is not None
    assert (found.unattended_from_at, found.unattended_before) == (at(0), False)


def test_a_group_that_never_has_members_and_moves_on_is_a_reader() -> None:
    moved = samples(*((10 * step, 5 * step, 0) for step in range(4)))
    assert reads_alone(moved)
    assert not reads_alone(moved[:3])
    came = crossing("group", moved, 7, at(0))
    assert came is not None
    assert came.unattended_from_at is None


def test_a_member_that_stayed_for_less_than_a_second_was_no_reader() -> None:
    """Between two looks a processor came, took five records and left; then a hand moved it."""
    seen = samples((0, 5, 1), (1, 5, 0), (2, 10, 0), (3, 15, 0), (4, 19, 0), (6, 19, 1))
    came = crossing("group", seen, 16, at(3.5))
    assert came is not None
    assert came.unattended_from_at == at(4)


def test_who_never_joined_assigns_partitions_itself() -> None:
    moved = samples((0, 5, 0), (1, 6, 0))
    came = crossing("group", moved, 5, at(0.5), never_joined=True)
    assert came is not None
    assert came.unattended_from_at is None
