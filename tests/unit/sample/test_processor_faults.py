from __future__ import annotations

from uuid import uuid4

import pytest

from relay.sample.processor.faults import Befallen, Fault, FaultPlan, FaultRule, drawn


def faults(plan: FaultPlan, order_id: str, event_id: str) -> list[Fault]:
    return [one.fault for one in plan.faults_of(order_id, event_id)]


def test_named_orders_get_every_fault_that_names_them_and_nobody_else_does() -> None:
    rules = {
        Fault.LOSE: FaultRule(orders=frozenset({"a"})),
        Fault.DELAY: FaultRule(orders=frozenset({"a", "b"})),
    }
    plan = FaultPlan(rules)
    assert faults(plan, "a", "1") == [Fault.LOSE, Fault.DELAY]
    assert faults(plan, "b", "2") == [Fault.DELAY]
    assert faults(plan, "c", "3") == []


def test_a_count_takes_the_first_events_and_a_redelivered_one_is_not_counted_again() -> None:
    plan = FaultPlan({Fault.LOSE: FaultRule(count=2)})
    seen = [bool(faults(plan, event, event)) for event in ("1", "1", "2", "3", "2", "1")]
    assert seen == [True, True, True, False, True, True]


def test_two_counts_take_different_events() -> None:
    plan = FaultPlan({Fault.LOSE: FaultRule(count=1), Fault.CORRUPT: FaultRule(count=1)})
    assert [faults(plan, e, e) for e in "123"] == [[Fault.LOSE], [Fault.CORRUPT], []]


def test_every_nth() -> None:
    plan = FaultPlan({Fault.DUPLICATE: FaultRule(every=3)})
    hit = [n for n in range(1, 10) if faults(plan, str(n), str(n))]
    assert hit == [3, 6, 9]
    assert faults(plan, "3", "3") == [Fault.DUPLICATE]


def test_a_rate_decides_alike_in_every_process_and_near_its_share() -> None:
    events = [str(uuid4()) for _ in range(4000)]
    rules = {Fault.LOSE: FaultRule(rate=0.1)}
    first = [event for event in events if faults(FaultPlan(rules, seed=7), "o", event)]
    again = FaultPlan(rules, seed=7)
    assert [event for event in reversed(events) if faults(again, "o", event)] == first[::-1]
    assert 280 < len(first) < 520
    other = [event for event in events if drawn(8, Fault.LOSE, event, 0.1)]
    assert other != first


def test_rates_of_one_and_none() -> None:
    always, never = FaultRule(rate=1.0), FaultRule(rate=0.0)
    assert faults(FaultPlan({Fault.SKIP: always}), "o", "e") == [Fault.SKIP]
    assert faults(FaultPlan({Fault.SKIP: never}), "o", "e") == []


@pytest.mark.parametrize("rule", [{"rate": 1.1}, {"rate": -0.1}, {"count": -1}, {"every": -1}])
def test_a_rule_that_means_nothing_is_refused(rule: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a rate is from 0 to 1"):
        FaultRule(**rule)  # type: ignore[arg-type]


def test_a_restart_goes_on_from_the_journal() -> None:
    plan = FaultPlan({Fault.LOSE: FaultRule(count=2), Fault.CRASH: FaultRule(count=1)})
    plan.remember("1", Befallen(Fault.CRASH, "count"))
    plan.remember("2", Befallen(Fault.LOSE, "count"))
    assert faults(plan, "2", "2") == [Fault.LOSE], "the same event keeps its fault"
    assert faults(plan, "3", "3") == [Fault.LOSE], "one of two is left"
    assert faults(plan, "4", "4") == []


def test_a_crash_that_happened_is_not_repeated() -> None:
    plan = FaultPlan({Fault.CRASH: FaultRule(orders=frozenset({"a"}))})
    assert faults(plan, "a", "1") == [Fault.CRASH]
    plan.remember("1", Befallen(Fault.CRASH, "order"))
    assert faults(plan, "a", "1") == []
