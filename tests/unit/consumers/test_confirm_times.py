"""What hop 5 makes of the time that an order says it was submitted at."""

from math import inf

import pytest

from relay.consumers.apply.columns import plausible


@pytest.mark.parametrize("odd", [None, -inf, inf, 0.0, -62_135_596_800.0, 9_224_318_015_999.0])
def test_a_time_that_says_nothing_is_none(odd: float | None) -> None:
    assert plausible(odd) is None


def test_an_ordinary_time_is_itself() -> None:
    assert plausible(1_772_445_600.5) == 1_772_445_600.5
