"""What a process recorded of its flow, against what a command would go by."""

from dataclasses import replace

from relay.runtime.flow import EventRoute, Flow
from relay.runtime.flow_record import Running, as_recorded, compared

FLOW = Flow()


def running(kind: str, flow: Flow, name: str = "h:1") -> Running:
    return Running(kind, name, as_recorded(flow))


def test_the_same_is_no_difference() -> None:
    assert compared(FLOW, [running("relay", FLOW), running("confirm", FLOW)]) == (FLOW, [])


def test_a_setting_is_taken_from_who_uses_it() -> None:
    other = replace(FLOW, confirm_group="b", returns_topic="r2")
    flow, found = compared(FLOW, [running("relay", FLOW), running("confirm", other)])
    assert (flow.confirm_group, flow.returns_topic) == ("b", "r2")
    assert {one.setting for one in found if one.taken} == {"confirm_group", "returns_topic"}


def test_the_processors_group_is_told_and_not_taken() -> None:
    other = replace(FLOW, processor_groups=("billing",))
    flow, (found,) = compared(FLOW, [running("relay", other)])
    assert flow == FLOW
    assert (found.setting, found.taken) == ("processor_groups", False)
    assert found.text == (
        "relay h:1: processor_groups = billing; these settings: order-processor, which are kept"
    )


def test_deadlines_are_told_in_seconds() -> None:
    other = replace(FLOW, events={"order.placed": EventRoute("orders.events", 60)})
    flow, (found,) = compared(FLOW, [running("relay", other), running("relay", other, "h:2")])
    assert flow.deadlines == {"order.placed": 60}
    assert found.text == (
        "relay h:1 and relay h:2: events = order.placed to orders.events due after 60 s; "
        "these settings: order.placed to orders.events due after 900 s"
    )


def test_what_another_version_wrote_is_never_taken_over() -> None:
    for odd in ({"events": {"order.placed": "x"}}, {"events": []}, {"events": None}):
        assert compared(FLOW, [Running("relay", "h:1", odd)]) == (FLOW, [])
    assert compared(FLOW, [Running("confirm", "h:1", {})]) == (FLOW, [])
    # What it takes may not contradict the rest.
    odd = {"confirm_group": "order-processor"}
    flow, (found,) = compared(FLOW, [Running("confirm", "h:1", odd)])
    assert (flow, found.taken) == (FLOW, False)
