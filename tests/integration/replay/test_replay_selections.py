"""Selections combine; other topics; returns by order and by offset."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(240)


async def test_selections_combine_and_a_plan_says_what_is_left_alone(loop, tmp_path: Path) -> None:
    loop.relay()
    loop.consumer()
    lost = await loop.lose(3, beside=4)
    rows = dict(
        await loop.pg.fetch(
            "SELECT aggregate_id, id FROM relay.outbox WHERE aggregate_id = ANY ($1)", lost
        )
    )
    first, second, third = (rows[order] for order in lost)
    events = dict(await loop.pg.fetch("SELECT aggregate_id, event_id::text FROM relay.outbox"))

    def planned(*arguments: str) -> int:
        found = loop.replay(*arguments)
        assert (found["exit"], found["state"]) == (0, "planned"), found
        return found["events"]

    assert planned() == 3
    assert planned("--customer", "c-1") == 3
    assert planned("--customer", "c-1", "--outbox", f"{second}-") == 2
    assert planned("--outbox", str(first)) == 1
    assert planned("--event", events[lost[2]], "--order", lost[2].upper()) == 1
    assert planned("--event", events[lost[2]], "--order", lost[0]) == 0
    assert planned("--since", "1h", "--hop", "return") == 3
    assert planned("--since", "1h", "--hop", "publish") == 0
    assert planned("--until", "1h") == 0
    assert planned("--type", "order.cancelled") == 0
    assert planned("--verdict", "not_processed") == 0
    assert planned("--all", "--outbox", f"{first}-{third}") == 3
    listed = tmp_path / "orders"
    listed.write_text("\n".join([*lost, "00000000-0000-0000-0000-000000000000"]))
    named = loop.replay("--from", str(listed))
    assert named["events"] == 3
    assert {one["reason"]: one["count"] for one in named["skipped"]} == {"no_such_order": 1}
    everything = loop.replay("--since", "1h")
    assert {one["reason"]: one["count"] for one in everything["skipped"]} == {"already_returned": 4}
    assert everything["mended"]["process"]["healthy"] is False
    kinds = everything["by_kind"]
    came_past = sum(one["count"] for one in kinds if one["cause"] != "offsets_skipped")
    assert (everything["seen_twice"], everything["seen_behind_newer"]) == (came_past, 0)
    wrong = loop.command("replay", "--event", "x", "--json")
    assert (wrong.returncode, "selection" in wrong.stderr) == (1, True)
    assert loop.command("replay", "--execute").returncode == 2
    assert not [one for one in loop.records(loop.events) if one[2]], "plans send nothing"


async def test_a_consumer_catches_up_from_a_topic_of_its_own(loop) -> None:
    loop.relay(), loop.processor(), loop.consumer()
    orders = await loop.place(12)
    await loop.until_returned(orders)
    other = loop.topics.create("orders.catchup", 2)
    done = loop.replay(
        "--all", "--topic", other, "--execute", "--reason", "new consumer", "--rate", "0"
    )
    assert (done["exit"], done["state"], done["sent"], done["returned"]) == (0, "done", 12, None)
    assert {one[0] for one in loop.records(other)} == set(orders)
    assert {one[2] for one in loop.records(other)} == {done["replay_id"]}
    assert not [one for one in loop.records(loop.events) if one[2]]


async def test_returns_that_the_consumer_went_past_are_applied(loop) -> None:
    loop.relay(), loop.processor()
    consumer = loop.consumer()
    before = await loop.place(2)
    await loop.until_returned(before)
    assert consumer.terminate() == 0
    passed = await loop.place(4)
    await loop.until_passed(loop.group, loop.events)
    await loop.eventually(lambda: sum(loop.ends(loop.returns).values()) >= 6)
    await loop.go_past_returns()
    loop.consumer()
    await loop.until_up()
    await loop.until_overdue(passed)
    assert loop.named(passed[:1]) == [("confirm", "return_skipped", "offset_moved")]

    counted = loop.replay("returns", "--order", passed[0])
    assert (counted["exit"], counted["executed"], counted["fed"]) == (0, False, 1)
    assert await loop.statuses(passed[:1]) == ["submitted"]
    done = loop.replay("returns", "--order", passed[0], "--execute", "--reason", "moved by hand")
    assert (done["exit"], done["fed"], done["still_waiting"]) == (0, 1, 0)
    assert await loop.statuses(passed[:1]) == ["confirmed"]
    for number, end in loop.ends(loop.returns).items():
        ranged = loop.replay(
            "returns", "--partition", str(number), "--offsets", f"0-{end}", "--execute",
            "--reason", "gap",
        )  # fmt: skip
        assert ranged["exit"] == 0
        assert ranged["read"] == end
    assert set(await loop.statuses([*before, *passed])) == {"confirmed"}
    steps = await loop.history([*before, *passed])
    assert set(map(tuple, steps.values())) == {("confirmed",)}
    again = loop.replay("returns", "--since", "1h")
    assert (again["fed"], again["handled_before"]) == (0, 6)
