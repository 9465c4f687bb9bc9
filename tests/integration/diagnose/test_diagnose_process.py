"""Hops 3 and 4: a processor that is dead, misdirected, or came back past its records."""

import pytest

pytestmark = pytest.mark.timeout(240)

QUICK = {"RELAY_WATCH_ROUND_SECONDS": "0.5", "RELAY_WATCH_POSITION_SECONDS": "1"}


async def until_named(wiring, orders, *expected, within_seconds: float = 60) -> None:
    """Wait until the diagnosis of each order is the expected one."""
    await wiring.eventually(
        lambda: wiring.named(orders) == [expected] * len(orders), within_seconds
    )


async def test_a_killed_processor_that_comes_back_loses_nothing(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    processor = wiring.processor()
    await wiring.until_returned(await wiring.place_everywhere())
    processor.kill()
    orders = await wiring.place_everywhere()
    await wiring.until_overdue(orders)
    await until_named(wiring, orders, "process", "not_processed", "processor_down")
    wiring.processor()
    await wiring.until_returned(orders)
    found = wiring.diagnose(orders)
    assert {(one["verdict"], one["cause"]) for one in found} == {("returned", "late")}
    assert {one["delay"]["hop"] for one in found} == {"process"}


async def test_a_processor_that_resumes_past_its_records(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    processor = wiring.processor()
    await wiring.until_returned(await wiring.place_everywhere())
    processor.terminate()
    await wiring.until_group_is_empty(wiring.group)
    orders = await wiring.place(12)
    await wiring.until_published(orders)
    wiring.skip_to_end(wiring.group, wiring.events)
    wiring.processor()
    await wiring.until_returned(await wiring.place_everywhere(), 60)
    await wiring.until_overdue(orders)
    assert wiring.named(orders) == [("return", "no_return", "offsets_skipped")] * 12


async def test_a_processor_that_dies_with_returns_still_to_be_sent(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    first = await wiring.place_everywhere()
    orders = await wiring.place(6)
    delayed = [part for one in orders for part in ("--delay-order", one)]
    processor = wiring.processor(*delayed, "--delay-seconds", "600")
    await wiring.until_returned(first)
    await wiring.until_passed(wiring.group, wiring.events)
    await wiring.until_position(wiring.group, members=1)
    processor.kill()
    await wiring.until_group_is_empty(wiring.group)
    await wiring.until_position(wiring.group, members=0)
    wiring.processor()
    await wiring.until_returned(await wiring.place_everywhere(), 60)
    await wiring.until_overdue(orders)
    assert wiring.named(orders) == [("return", "no_return", "processor_crashed")] * 6


async def test_a_processor_that_reads_another_topic(wiring) -> None:
    other = wiring.topics.create("orders.wrong", 3)
    wiring.relay(**QUICK)
    wiring.processor(RELAY_FLOW_EVENTS_TOPIC=other)
    orders = await wiring.place(3)
    await wiring.until_published(orders)
    await wiring.until_overdue(orders)
    await until_named(wiring, orders, "process", "not_processed", "topic_not_consumed")


async def test_the_setting_names_a_group_that_nobody_uses(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    real = f"real-{wiring.group}"
    fine = await wiring.place_everywhere()
    lost = await wiring.place(2)
    wiring.processor("--group", real, *[part for one in lost for part in ("--lose-order", one)])
    await wiring.until_returned(fine)
    await wiring.until_passed(real, wiring.events)
    await wiring.until_overdue(lost)
    found = wiring.diagnose(lost)
    assert {(one["verdict"], one["cause"]) for one in found} == {("unknown", "group_unknown")}
    missing = [fact["found"] for fact in found[0]["evidence"] if fact["what"] == "missing"]
    assert real in missing[0]
    (first, second) = wiring.named(lost, RELAY_FLOW_PROCESSOR_GROUPS=real)
    assert first == second == ("return", "no_return", "return_never_sent")


async def test_a_processor_that_answers_on_a_wrong_topic(wiring) -> None:
    wrong = wiring.topics.create("orders.replies", 3)
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    wiring.processor(RELAY_FLOW_RETURNS_TOPIC=wrong)
    orders = await wiring.place(6)
    await wiring.until_published(orders)
    await wiring.until_passed(wiring.group, wiring.events)
    await wiring.until_overdue(orders)
    assert wiring.named(orders) == [("return", "no_return", "answered_elsewhere")] * 6


async def test_a_processor_that_answers_nobody_any_more(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    processor = wiring.processor()
    await wiring.until_returned(await wiring.place_everywhere())
    processor.terminate()
    await wiring.until_group_is_empty(wiring.group)
    wiring.processor("--lose-rate", "1.0")
    await wiring.until_position(wiring.group, members=1)
    orders = await wiring.place(30)
    await wiring.until_published(orders)
    await wiring.until_passed(wiring.group, wiring.events)
    await wiring.until_overdue(orders)
    assert wiring.named(orders) == [("return", "no_return", "returns_stopped")] * 30


async def test_the_returns_topic_is_gone(wiring) -> None:
    wiring.relay(**QUICK)
    wiring.topics.delete(wiring.returns)
    wiring.processor()
    orders = await wiring.place(3)
    await wiring.until_published(orders)
    await wiring.until_overdue(orders)
    found = await wiring.eventually(
        lambda: {one["cause"] for one in wiring.diagnose(orders)} == {"topic_missing"}, 60
    )
    assert found
