"""Lost orders come back by a replay, and nothing else is touched."""

import pytest

pytestmark = pytest.mark.timeout(180)


async def test_lost_orders_return_through_the_live_relay(loop) -> None:
    relay = loop.relay()
    loop.consumer()
    lost = await loop.lose(3)
    loop.processor()
    chosen = [word for order in lost for word in ("--order", order)]

    plan = loop.replay(*chosen)
    assert (plan["exit"], plan["state"], plan["events"]) == (0, "planned", 3)
    assert {(one["hop"], one["verdict"]) for one in plan["by_kind"]} == {("return", "no_return")}
    assert plan["topics"] == {loop.events: 3}
    assert not [one for one in loop.records(loop.events) if one[2]], "a plan sends nothing"

    done = loop.replay("resume", plan["replay_id"], "--reason", "the processor lost them")
    assert (done["exit"], done["state"], done["sent"], done["returned"]) == (0, "done", 3, 3)
    assert set(await loop.statuses(lost)) == {"confirmed"}
    assert set(map(tuple, (await loop.history(lost)).values())) == {("confirmed",)}
    copies = [one for one in loop.records(loop.events) if one[2]]
    assert {one[2] for one in copies} == {plan["replay_id"]}
    first = {one[1]: one for one in loop.records(loop.events) if not one[2]}
    assert all(first[one[1]][0] == one[0] and first[one[1]][3] == one[3] for one in copies)
    assert await loop.audited() == ["replay_planned", "replay_started", "replay_finished"]
    assert relay.is_running()


async def test_without_a_relay_the_command_takes_the_lease(loop) -> None:
    relay = loop.relay()
    loop.consumer()
    lost = await loop.lose(2)
    assert relay.terminate() == 0
    loop.processor()
    late = await loop.place()
    done = loop.replay("--order", lost[0], "--order", lost[1], "--execute", "--reason", "mended")
    assert (done["exit"], done["returned"]) == (0, 2)
    # It was the relay meanwhile.
    await loop.until_returned([*lost, *late])
    lease = await loop.pg.fetchrow("SELECT owner, released_at FROM relay.lease WHERE duty = 'relay'")
    assert lease["owner"] is None
