"""Which partitions are made and dropped, as a pure decision."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.publish.maintenance.partition_days import partition_day, partition_name, plan

TODAY = date(2026, 3, 1)


def names(*days: date) -> list[str]:
    return [partition_name(day) for day in days]


def test_today_and_the_days_ahead_nearest_first() -> None:
    made = plan([], TODAY, days_ahead=2, keep_days=30)
    assert made.create == (date(2026, 3, 1), date(2026, 3, 2), date(2026, 3, 3))
    assert made.drop == ()


def test_what_is_there_is_not_made_again() -> None:
    there = names(TODAY, TODAY + timedelta(days=2))
    made = plan(there, TODAY, days_ahead=2, keep_days=30)
    assert made.create == (date(2026, 3, 2),)


def test_a_day_is_dropped_when_all_of_it_is_older_than_the_retention() -> None:
    there = names(date(2026, 2, 27), date(2026, 2, 26), date(2026, 2, 20), date(2026, 2, 28))
    made = plan(there, TODAY, days_ahead=0, keep_days=2)
    assert made.drop == (date(2026, 2, 20), date(2026, 2, 26))


def test_a_large_default_allows_tomorrow_only() -> None:
    made = plan([], TODAY, days_ahead=7, keep_days=30, default_is_large=True)
    assert made.create == (date(2026, 3, 2),)


@pytest.mark.parametrize(
    "name", ["outbox_default", "outbox_2026", "outbox_p20261399", "outbox_p20260101x", "mine"]
)
def test_partitions_that_are_not_ours_are_left_alone(name: str) -> None:
    assert partition_day(name) is None
    assert plan([name], TODAY, days_ahead=0, keep_days=1).drop == ()


@given(st.dates(min_value=date(1970, 1, 1)))
def test_a_name_says_its_day(day: date) -> None:
    assert partition_day(partition_name(day)) == day


@given(st.sets(st.integers(-100, 100)), st.integers(0, 20), st.integers(1, 60), st.booleans())
def test_nothing_within_the_retention_is_dropped_nor_made_twice(
    offsets: set[int], ahead: int, keep: int, large: bool
) -> None:
    there = {TODAY + timedelta(days=n) for n in offsets}
    made = plan(names(*there), TODAY, days_ahead=ahead, keep_days=keep, default_is_large=large)
    assert all(day not in there for day in made.create)
    assert all(day in there and day < TODAY - timedelta(days=keep) for day in made.drop)
