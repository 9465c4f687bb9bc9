"""The verdict of a long run: what grows is seen, what only warms up is not accused."""

import random

import pytest

from tests.soak.slopes import Sample, judge, slope

MB = 1_000_000


def run(memory_of, handles_of=lambda _n: 30, connections_of=lambda _n: 5, count=60):
    samples = [
        Sample(10.0 * n, int(memory_of(n)), handles_of(n), connections_of(n)) for n in range(count)
    ]
    return judge("relay", samples)


def test_a_steady_process_is_not_accused():
    dice = random.Random(1)
    assert run(lambda _n: 80 * MB + dice.randint(-MB, MB)).problems == ()


def test_one_that_warms_up_is_not_accused():
    assert run(lambda n: 60 * MB + min(n, 15) * MB).problems == ()


def test_a_leak_of_memory_is_seen():
    found = run(lambda n: 60 * MB + n * MB / 4)
    assert found.problems == ("memory grows",)
    assert found.bytes_an_hour == pytest.approx(90 * MB, rel=0.01)


def test_a_leak_of_handles_and_connections_is_seen():
    found = run(lambda _n: 60 * MB, lambda n: 30 + n // 3, lambda n: 5 + n // 3)
    assert found.problems == ("handles grow", "connections grow")


def test_a_connection_that_comes_and_goes_is_none():
    assert run(lambda _n: 60 * MB, lambda n: 30 + n % 5, lambda n: 5 + n % 4).problems == ()


def test_too_little_says_nothing():
    with pytest.raises(ValueError, match="too few"):
        run(lambda _n: 1, count=5)


def test_the_slope_of_a_line_and_of_nothing():
    assert slope([(0, 1), (1, 3), (2, 5)]) == pytest.approx(2)
    assert slope([]) == 0
    assert slope([(1, 1), (1, 5)]) == 0
