"""What "none" is worth: who looked, when, and why nobody does."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from relay.diagnose.check.duties import judge_duties
from relay.diagnose.check.result import State
from relay.diagnose.watch.looked import decide_looked
from relay.diagnose.watch.set_aside import AGAIN_SECONDS, SetAside
from relay.runtime.duty_record import UPKEEP, WATCH_ROUND, DutySeen
from relay.runtime.liveness import GONE_SECONDS, SILENT_SECONDS, is_alive

NOW = datetime(2026, 11, 29, 2, 30, tzinfo=UTC)
SOON = NOW + timedelta(minutes=1)
DONE = DutySeen(WATCH_ROUND, "h:1", NOW - timedelta(seconds=5), SOON, None, 0, None, None, 0)
FAILED = replace(DONE, failures=3, error="OverflowError: x", failure_code="relay:unexpected")
OVERDUE = replace(DONE, due_at=NOW - timedelta(minutes=1))


def test_a_round_in_time_is_a_look() -> None:
    looked = decide_looked(DONE, NOW)
    assert looked.sentence() is None
    assert looked.as_data()["looked"] is True


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (None, "no watchdog has completed a round yet"),
        (FAILED, "the watchdog's last round failed with OverflowError: x"),
        (OVERDUE, "no watchdog has completed a round since"),
        (replace(FAILED, completed_at=None), "failed with OverflowError"),
    ],
)
def test_everything_else_is_not(seen: DutySeen | None, why: str) -> None:
    looked = decide_looked(seen, NOW)
    assert looked.as_data()["looked"] is False
    sentence = looked.sentence()
    assert sentence is not None
    assert sentence.startswith("nobody has looked")
    assert why in sentence


def test_orders_that_could_not_be_judged_are_said() -> None:
    assert "3 orders could not be judged" in str(
        decide_looked(replace(DONE, set_aside=3), NOW).sentence()
    )


def test_a_check_fails_for_a_duty_that_fails_and_warns_of_one_that_nobody_does() -> None:
    states = {one.name: one.state for one in judge_duties({WATCH_ROUND: FAILED}, NOW)}
    assert states["watch.rounds"] is State.FAILED
    assert states["relay.upkeep"] is State.WARNING
    upkeep = replace(OVERDUE, duty=UPKEEP)
    states = {one.name: one.state for one in judge_duties({UPKEEP: upkeep, WATCH_ROUND: DONE}, NOW)}
    assert states["watch.rounds"] is State.OK
    assert states["relay.upkeep"] is State.WARNING


def test_an_order_is_set_aside_for_a_while() -> None:
    now = [0.0]
    aside = SetAside(clock=lambda: now[0])
    aside.add("a", ValueError("x"))
    assert "a" in aside
    assert len(aside) == 1
    now[0] = AGAIN_SECONDS
    assert "a" not in aside
    assert len(aside) == 0


@pytest.mark.parametrize(
    ("seconds", "connected", "alive"),
    [
        (SILENT_SECONDS, None, True),
        (SILENT_SECONDS + 1, None, False),
        (SILENT_SECONDS, True, True),
        (GONE_SECONDS, False, True),
        (GONE_SECONDS + 1, False, False),
    ],
)
def test_one_rule_says_who_lives(seconds: float, connected: bool | None, alive: bool) -> None:
    assert is_alive(timedelta(seconds=seconds), stopped=False, connected=connected) is alive
    assert not is_alive(timedelta(0), stopped=True)
