"""Which cases make an incident, and which are ordinary."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from relay.diagnose.incidents.clusters import (
    GAP,
    Case,
    Span,
    are_all_there_is,
    cluster,
    dominant,
    few_alike,
    grown_tenfold,
    ordinary_rate,
)

T0 = datetime(2026, 3, 2, tzinfo=UTC)
SKIPPED = ("return", "no_return", "offsets_skipped")
SINGLE = ("return", "no_return", "return_never_sent")
DOWN = ("publish", "not_published", "relay_down")


def cases(kind: tuple[str, str, str], *minutes: float) -> list[Case]:
    return [Case(f"{kind[2]}-{m}", kind, T0 + timedelta(minutes=m)) for m in minutes]


def test_one_order_is_enough_where_a_whole_hop_is_struck() -> None:
    (found,) = cluster(cases(DOWN, 0), [], {})
    assert (found.incident_id, found.kind, len(found.cases)) == (None, DOWN, 1)


def test_single_losses_spread_over_the_day_are_silence() -> None:
    assert cluster(cases(SINGLE, *range(0, 1440, 15)), [], {}) == []
    assert cluster(cases(SINGLE, *range(0, 60, 3)), [], {}) == []


def test_a_burst_of_single_losses_is_an_incident_without_the_ordinary_ones() -> None:
    ordinary = range(0, 300, 9)
    burst = [120 + n / 100 for n in range(40)]
    (found,) = cluster(cases(SINGLE, *ordinary, *burst), [], {SINGLE: 1.0})
    assert 40 <= len(found.cases) <= 44


def test_one_in_a_hundred_orders_is_silence_however_fast_they_come() -> None:
    lost = [
        Case(str(n), SINGLE, T0 + timedelta(seconds=n / 10), outbox_id=n)
        for n in range(0, 5000, 100)
    ]
    assert cluster(lost, [], {}) == []


def test_every_order_of_a_minute_is_a_burst_among_single_losses() -> None:
    spread = [
        Case(f"s{n}", SINGLE, T0 + timedelta(seconds=n / 10), outbox_id=n)
        for n in range(0, 5000, 100)
    ]
    struck = [
        Case(f"b{n}", SINGLE, T0 + timedelta(seconds=n / 10), outbox_id=n)
        for n in range(2001, 2040)
    ]
    (found,) = cluster(spread + struck, [], {})
    assert 39 <= len(found.cases) <= 41


def test_what_is_always_so_is_no_burst() -> None:
    steady = [n / 4 for n in range(400)]
    assert cluster(cases(SINGLE, *steady), [], {SINGLE: 40.0}) == []


def test_two_nights_are_two_incidents() -> None:
    found = cluster(cases(SKIPPED, 0, 1, 2, 1440, 1441), [], {})
    assert [len(one.cases) for one in found] == [3, 2]


def test_two_causes_at_once_are_two_incidents() -> None:
    found = cluster(cases(SKIPPED, 0, 1) + cases(DOWN, 0, 1), [], {})
    assert sorted(one.kind for one in found) == sorted([SKIPPED, DOWN])


def test_later_cases_join_the_incident_they_lie_close_to() -> None:
    span = Span(17, SKIPPED, T0, T0 + timedelta(minutes=30))
    (near,) = cluster(cases(SKIPPED, 35), [span], {})
    (far,) = cluster(cases(SKIPPED, 55), [span], {})
    (other,) = cluster(cases(DOWN, 10), [span], {})
    assert (near.incident_id, far.incident_id, other.incident_id) == (17, None, None)


def test_a_single_loss_joins_a_burst_that_is_an_incident_already() -> None:
    span = Span(18, SINGLE, T0, T0 + timedelta(minutes=5))
    (found,) = cluster(cases(SINGLE, 8), [span], {SINGLE: 100.0})
    assert found.incident_id == 18


def test_what_is_ordinary_is_the_median_so_that_a_burst_is_not() -> None:
    quiet = [T0 + timedelta(minutes=m) for m in range(0, 360, 10)]
    burst = sorted(quiet + [T0 + timedelta(minutes=350, seconds=s) for s in range(500)])
    assert ordinary_rate(burst, T0 + timedelta(minutes=360)) == 1.0
    assert ordinary_rate([], T0) == 0.0


def test_an_incident_is_what_most_of_its_open_cases_are() -> None:
    assert dominant(Counter({DOWN: 3, SKIPPED: 40})) == SKIPPED
    assert dominant(Counter()) is None


def test_tenfold() -> None:
    assert grown_tenfold(10, 1)
    assert not grown_tenfold(9, 1)
    assert not grown_tenfold(50, 0)


@given(st.lists(st.floats(0, 3000), max_size=60))
def test_every_case_of_a_struck_hop_is_in_exactly_one_cluster(minutes: list[float]) -> None:
    some = [Case(str(n), DOWN, T0 + timedelta(minutes=m)) for n, m in enumerate(minutes)]
    found = cluster(some, [], {})
    assert sorted(case.key for one in found for case in one.cases) == sorted(c.key for c in some)
    edges = sorted((one.from_at, one.to_at) for one in found)
    assert all(later[0] - earlier[1] > GAP for earlier, later in pairwise(edges))


def test_a_few_alike_losses_may_be_an_incident_and_what_moves_by_itself_is_none() -> None:
    lost = cases(SINGLE, 0, 1, 2)
    (found,) = few_alike(lost, [])
    assert (found.incident_id, found.kind, len(found.cases)) == (None, SINGLE, 3)
    assert few_alike(lost[:2], []) == []
    assert few_alike(lost, [found]) == []
    assert few_alike(cases(("process", "not_processed", "processor_lagging"), 0, 1, 2), []) == []
    assert few_alike(cases(("-", "returned", "late"), 0, 1, 2), []) == []


def test_they_are_one_where_hardly_any_other_order_was_placed() -> None:
    assert are_all_there_is(4, 4)
    assert are_all_there_is(4, 5)
    assert not are_all_there_is(4, 6)
    assert are_all_there_is(3, 0), "orders without events"
