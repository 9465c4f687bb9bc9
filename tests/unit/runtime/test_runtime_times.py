"""Times that other people's programs wrote never fail."""

import json
import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest

from relay.runtime.times import (
    OddTime,
    later,
    of_milliseconds,
    of_postgres,
    to_milliseconds,
    to_postgres,
)

AT = datetime(2026, 3, 2, 10, 0, 0, 123456, UTC)
DAY = 86_400_000_000


def postgres(year: int, month: int = 1, day: int = 1) -> int:
    return (datetime(year, month, day, tzinfo=UTC) - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(
        microseconds=1
    )


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (-1, "no time"),
        (-(2**63), f"{-(2**63)} ms before 1970"),
        (1_700_000_000_000_000, "year 55840"),
        (1_700_000_000_000_000_000, "year 53872825"),
        (2**63 - 1, "year 292278994"),
    ],
)
def test_a_record_of_an_odd_time_shows_it(milliseconds: int, text: str) -> None:
    found = of_milliseconds(milliseconds)
    assert isinstance(found, OddTime)
    assert found.isoformat() == str(found) == f"{found:%H:%M}" == found.strftime("%Y") == text


def test_a_record_of_an_ordinary_time() -> None:
    assert of_milliseconds(1_772_445_600_123) == AT.replace(microsecond=123000)
    assert to_milliseconds(AT) == 1_772_445_600_123
    assert of_milliseconds(0) == datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (2**63 - 1, "infinity"),
        (-(2**63), "-infinity"),
        (postgres(1), "0001-01-01 00:00:00+00:00"),
        (postgres(1) - DAY, "year 1 BC"),
        (-211_813_488_000_000_000, "year 4714 BC"),
        (postgres(9999, 12, 31) + DAY, "year 10000"),
        (9_223_371_331_200_000_000 - 1, "year 294276"),
    ],
)
def test_a_column_of_an_odd_time_shows_it_and_goes_back_as_it_was(
    microseconds: int, text: str
) -> None:
    found = of_postgres(microseconds)
    assert isinstance(found, OddTime)
    assert found.isoformat() == text
    assert to_postgres(found) == microseconds
    assert to_postgres(pickle.loads(pickle.dumps(found))) == microseconds


@pytest.mark.parametrize(
    "odd",
    [
        of_postgres(2**63 - 1),
        of_postgres(-(2**63)),
        of_postgres(postgres(1)),
        of_milliseconds(2**62),
    ],
)
def test_arithmetic_leaves_an_odd_time_where_it_is(odd: datetime) -> None:
    for span in (timedelta(days=1), timedelta(days=999_999_999), timedelta(seconds=-60)):
        assert odd + span is odd
        assert odd - span is odd
    assert (AT - odd) == -(odd - AT)
    assert (odd > AT) == ((odd - AT) > timedelta(0))
    assert odd.astimezone(timezone(timedelta(hours=14))) is odd
    assert later(odd, 1e300) is odd
    assert sorted([AT, odd])
    assert json.dumps(odd.isoformat())
    assert to_milliseconds(odd) >= 0


def test_times_go_to_postgres_and_back() -> None:
    berlin = AT.astimezone(timezone(timedelta(hours=1)))
    assert of_postgres(to_postgres(berlin)) == AT
    assert type(of_postgres(to_postgres(AT))) is datetime


@pytest.mark.parametrize(
    ("seconds", "text"), [(1e300, "never"), (float("inf"), "never"), (-1e18, "before all time")]
)
def test_a_span_beyond_the_calendar(seconds: float, text: str) -> None:
    assert str(later(AT, seconds)) == text


def test_an_ordinary_span() -> None:
    assert later(AT, 900) == AT + timedelta(minutes=15)
    assert later(AT, -60) == AT - timedelta(minutes=1)
