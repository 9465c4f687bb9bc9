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
    assert {one["shown"] for one in plan["mended"].values()} == {False}, "none came back since"
    assert not [one for one in loop.records(loop.events) if one[2]], "a plan sends nothing"

    done = loop.replay(
        "resume", plan["replay_id"], "--reason", "the processor lost them", "--wait", "60"
    )
    assert (done["exit"], done["state"], done["sent"], done["returned"]) == (0, "done", 3, 3)
    assert set(await loop.statuses(lost)) == {"confirmed"}
    assert set(map(tuple, (await loop.history(lost)).values())) == {("confirmed",)}
    copies = [one for one in loop.records(loop.events) if one[2]]
    assert {one[2] for one in copies} == {plan["replay_id"]}
    first = {one[1]: one for one in loop.records(loop.events) if not one[2]}
    assert all(first[one[1]][0] == one[0] and first[one[1]][3] == one[3] for one in copies)
    assert await loop.audited() == ["replay_planned", "replay_started", "replay_finished"]
    await loop.until_returned(await loop.place())
    again = loop.replay(*chosen, "--verdict", "returned", "--again")
    assert {one["shown"] for one in again["mended"].values()} == {True}
    assert relay.is_running()


async def test_without_a_relay_the_command_sends_its_items_and_nothing_else(loop) -> None:
    relay = loop.relay()
    loop.consumer()
    lost = await loop.lose(2)
    assert relay.terminate() == 0
    loop.processor()
    late = await loop.place()
    done = loop.replay(
        "--order", lost[0], "--order", lost[1], "--execute", "--reason", "mended", "--wait", "60"
    )
    assert (done["exit"], done["returned"]) == (0, 2)
    # Its items and nothing else: what was placed meanwhile waits for a relay.
    assert await loop.pg.fetchval("SELECT sum(record_count) FROM relay.delivery_ledger") == 6
    assert sum(loop.ends(loop.events).values()) == 6
    lease = await loop.pg.fetchrow(
        "SELECT owner, released_at FROM relay.lease WHERE duty = 'relay'"
    )
    assert lease["owner"] is None
    loop.relay()
    await loop.until_returned([*lost, *late])


async def test_losses_of_several_causes_at_once_all_return_by_one_pipe(loop, relay_piped) -> None:
    relay = loop.relay()
    consumer = loop.consumer()
    # The processor loses them.
    lost = await loop.lose(3)
    # It resumes past them.
    skipped = await loop.place(3)
    await loop.until_published(skipped)
    await loop.until_group_is_empty(loop.group)
    loop.skip_to_end(loop.group, loop.events)
    # The consumer goes past their returns.
    assert consumer.terminate() == 0
    processor = loop.processor()
    passed = await loop.place(2)
    await loop.until_passed(loop.group, loop.events)
    assert processor.terminate() == 0
    await loop.eventually(lambda: sum(loop.ends(loop.returns).values()) >= 4)
    await loop.go_past_returns()
    # A return that cannot be read.
    broken = await loop.place(1)
    processor = loop.processor("--corrupt-order", broken[0], "--corruption", "truncated")
    loop.consumer()
    await loop.until_up()
    await loop.eventually(lambda: loop.pg.fetchval("SELECT count(*) >= 1 FROM relay.quarantine"))
    assert processor.terminate() == 0
    orders = [*lost, *skipped, *passed, *broken]
    await loop.until_overdue(orders)

    loop.processor()
    await loop.until_up()
    done = relay_piped(
        loop,
        ("unreturned",),
        ("replay", "--from", "-", "--execute", "--reason", "mended", "--yes", "--wait", "60"),
    )
    assert (done["exit"], done["state"], done["by_verdict"]) == (0, "done", {}), done
    assert set(await loop.statuses(orders)) == {"confirmed"}
    assert set(map(tuple, (await loop.history(orders)).values())) == {("confirmed",)}
    events = {one[1] for one in loop.records(loop.events) if not one[2]}
    assert {one[1] for one in loop.records(loop.events) if one[2]} <= events
    assert relay.is_running()
    # Nothing is left to be replayed.
    again = relay_piped(
        loop, ("unreturned",), ("replay", "--from", "-", "--execute", "--reason", "x", "--yes")
    )
    assert (again["exit"], again["events"]) == (0, 0)


async def test_everything_again_twice_changes_nothing_in_the_orders(loop) -> None:
    loop.relay(), loop.processor(), loop.consumer()
    orders = await loop.place(20)
    await loop.until_returned(orders)
    before = await loop.pg.fetch("SELECT * FROM orders ORDER BY order_id")
    history = await loop.history(orders)
    for _ in range(2):
        done = loop.replay(
            "--all", "--since", "1h", "--execute", "--reason", "prove it", "--rate", "0", "--yes"
        )
        assert (done["exit"], done["sent"], done["returned"]) == (0, 20, 20)
    await loop.until_passed(loop.group, loop.events)
    handled = await loop.pg.fetchval("SELECT sum(next_offset) FROM relay.consumer_offset")
    assert handled is not None
    await loop.until_handled()
    assert await loop.pg.fetch("SELECT * FROM orders ORDER BY order_id") == before
    assert await loop.history(orders) == history
    assert len([one for one in loop.records(loop.events) if one[2]]) == 40


async def test_the_first_few_that_do_not_come_back_stop_it(loop) -> None:
    loop.relay(), loop.consumer()
    lost = await loop.lose(4)
    chosen = [word for order in lost for word in ("--order", order)]
    # Nobody processes.
    stopped = loop.replay(
        *chosen, "--execute", "--reason", "x", "--first", "2", "--wait", "2", "--rate", "0"
    )
    assert (stopped["exit"], stopped["state"], stopped["sent"]) == (3, "paused", 2)
    assert "2 of the first 2 did not come back" in stopped["trouble"]
    # A plan beside it leaves alone what it holds, and what was sent.
    loop.processor()
    await loop.until_returned(lost[:2])
    beside = loop.replay(*chosen)
    reasons = {one["reason"]: one["count"] for one in beside["skipped"]}
    assert (beside["events"], reasons) == (0, {"already_returned": 2, "in_another_replay": 2})
    resumed = loop.replay("resume", stopped["replay_id"], "--wait", "60")
    assert (resumed["exit"], resumed["sent"], resumed["returned"]) == (0, 4, 4)
    copies = [one[0] for one in loop.records(loop.events) if one[2]]
    assert sorted(copies) == sorted(lost), "what was sent is not sent anew"
    assert await loop.audited() == [
        "replay_planned", "replay_started", "replay_paused", "replay_planned", "replay_resumed",
        "replay_finished",
    ]  # fmt: skip


async def test_pause_and_cancel_from_another_terminal(loop) -> None:
    loop.relay(), loop.processor(), loop.consumer()
    orders = await loop.place(40)
    await loop.until_returned(orders)
    running = loop.start("replay", "--all", "--execute", "--reason", "x", "--rate", "0.5", "--json")
    job = "SELECT replay_id::text FROM relay.replay_job WHERE sent_count > 5"
    replay_id = await loop.eventually(lambda: loop.pg.fetchval(job), 30)
    twice = loop.command("replay", "resume", replay_id)
    assert (twice.returncode, "another process" in twice.stderr) == (1, True)
    assert loop.replay("pause", replay_id[:8])["state"] == "paused"
    assert running.wait(20) == 3
    seen = loop.replay("status", replay_id)
    assert seen["state"] == "paused"
    assert 5 < seen["sent"] < 40
    assert loop.replay("cancel", replay_id, "--reason", "enough")["state"] == "cancelled"
    refused = loop.command("replay", "resume", replay_id, "--reason", "again")
    assert (refused.returncode, "cancelled" in refused.stderr) == (1, True)
    assert loop.replay("list")["replays"][0]["state"] == "cancelled"


async def test_an_event_that_was_never_written_is_made_from_its_order(loop) -> None:
    loop.relay(), loop.processor(), loop.consumer()
    await loop.until_up()
    bypassed = await loop.pg.fetchval(
        "INSERT INTO orders (order_id, customer_id, items, total, currency)"
        " VALUES (gen_random_uuid(), 'c-9',"
        '         \'[{"sku": "tea", "quantity": 1, "price": "9.95"}]\', 9.95, \'EUR\')'
        " RETURNING order_id::text"
    )
    await loop.until_overdue([bypassed])
    plan = loop.replay("--order", bypassed)
    assert plan["skipped"][0]["reason"] == "no_outbox_row"
    arguments = (
        "--order",
        bypassed,
        "--write-missing",
        "--execute",
        "--reason",
        "bypassed",
        "--wait",
        "60",
    )
    done = loop.replay(*arguments)
    assert (done["exit"], done["returned"], done["expected"]) == (0, 1, 1)
    assert await loop.statuses([bypassed]) == ["confirmed"]
    assert loop.replay(*arguments)["events"] == 0
    written = "SELECT count(*) FROM relay.outbox WHERE aggregate_id = $1"
    assert await loop.pg.fetchval(written, bypassed) == 1


async def test_an_order_that_makes_no_event_is_named_with_the_reason(loop) -> None:
    hollow = await loop.pg.fetchval(
        "INSERT INTO orders (order_id, customer_id, items, total, currency)"
        " VALUES (gen_random_uuid(), 'c-9', '[]', 0, 'EUR') RETURNING order_id::text"
    )
    await loop.until_overdue([hollow])
    arguments = ("--order", hollow, "--write-missing", "--execute", "--reason", "try")
    done = loop.replay(*arguments, "--wait", "0")
    assert done["exit"] == 3
    (unwritten,) = done["not_written"]
    assert unwritten["order_id"] == hollow
    assert "items" in unwritten["why"]
    # The contract's shape is not there: whoever writes it all the same has the statement.
    loop.relay(), loop.processor(), loop.consumer()
    assert await loop.pg.execute(unwritten["mend"]) == "INSERT 0 1"
    await loop.until_returned([hollow])


async def test_the_operator_may_and_the_observer_may_not(loop) -> None:
    relay = loop.relay()
    loop.consumer()
    lost = await loop.lose(2)
    assert relay.terminate() == 0
    loop.processor()
    arguments = (
        "--order",
        lost[0],
        "--order",
        lost[1],
        "--execute",
        "--reason",
        "mended",
        "--wait",
        "60",
    )
    observer = await loop.login_as("relay_observer")
    refused = loop.command("replay", *arguments, DATABASE_URL=observer)
    assert (refused.returncode, "relay_operator" in refused.stderr) == (1, True), refused.stderr
    assert await loop.audited() == []
    # No relay runs: the operator's command publishes by itself.
    operator = await loop.login_as("relay_operator")
    done = loop.replay(*arguments, DATABASE_URL=operator)
    assert (done["exit"], done["returned"]) == (0, 2)
    login = await loop.pg.fetch(
        "SELECT DISTINCT login FROM relay.audit_log WHERE action LIKE 're%'"
    )
    assert [row["login"] for row in login] != ["postgres"]
