"""Parked events: seen, released once the cause is mended, in their order; discarded; exported."""

import base64
import json
from typing import Any

import pytest

NEW = ("order.placed", "order.new")


async def park(shop: Any, order: str, *types: str) -> list[str]:
    """Append events and let a relay that knows order.placed alone park the order."""
    events = [await shop.append(order, one) for one in types]
    relay = shop.start("run", **shop.types("order.placed"))
    await shop.until(
        "SELECT count(*) = $2 FROM relay.quarantine WHERE aggregate_id = $1", order, len(types)
    )
    relay.terminate()
    return events


async def test_a_parked_order_is_seen_released_and_leaves_before_its_newer_events(
    shop: Any,
) -> None:
    events = await park(shop, "o-1", "order.new", "order.placed", "order.placed")
    operator = await shop.login("relay_operator")

    listed = shop.data("quarantine", "list", dsn=operator)
    assert listed["total"] == 3
    assert [(one["reason"], one["count"]) for one in listed["by_reason"]] == [
        ("order_parked", 2),
        ("no_topic", 1),
    ]
    head = listed["quarantine"][0]
    assert (head["order_id"], head["event_id"], head["state"]) == ("o-1", events[0], "held")
    assert (head["event_type"], head["lies_in"], head["seen_count"]) == ("order.new", "outbox", 1)
    text = shop.command("quarantine", "list", dsn=operator).stdout
    assert f"outbox row {head['outbox_id']}" in text
    assert "no topic is mapped to event type 'order.new'" in text

    # Nobody publishes: the request stays, and the command says so and does not wait.
    number = str(head["quarantine_id"])
    waits = shop.data("quarantine", "release", number, "--reason", "mapped", dsn=operator)
    assert waits["released"] == 1
    assert waits["outcome"] == {"waiting": 1}
    assert "no relay is active" in waits["notes"][0]

    newer = await shop.append("o-1", "order.placed")
    shop.start("run", **shop.types(*NEW))
    await shop.until("SELECT count(*) = 3 FROM relay.quarantine WHERE state = 'released'")
    await shop.until("SELECT sum(record_count) = 4 FROM relay.delivery_ledger")
    assert [event for _, event in shop.published()] == [*events, newer]

    audit = (await shop.audits("quarantine_release"))[0]
    assert audit["subject"] == "o-1"
    assert (audit["why"], audit["detail"]["ids"]) == ("mapped", [head["quarantine_id"]])
    assert audit["login"] in operator
    assert "@" in audit["who"]


async def test_a_release_before_the_cause_is_mended_is_held_again_and_said(shop: Any) -> None:
    await park(shop, "o-1", "order.new")
    shop.start("run", **shop.types("order.placed"))
    await shop.until_at_work("relay")
    done = shop.command("quarantine", "release", "--order", "o-1", "--reason", "try", "--json")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["outcome"] == {"held_again": 1}
    assert await shop.pg.fetchval("SELECT seen_count FROM relay.quarantine") == 2


async def test_a_release_behind_a_held_event_is_told_and_stops_nobody_else(shop: Any) -> None:
    await park(shop, "o-1", "order.new", "order.placed")
    await park(shop, "o-2", "order.new")
    shop.start("run", **shop.types(*NEW))
    await shop.until_at_work("relay")
    behind = shop.data("quarantine", "release", "--held-for", "order_parked", "--reason", "x")
    assert behind["outcome"] == {"behind_held": 1}
    sent = shop.data("quarantine", "release", "--order", "o-2", "--reason", "x")
    assert sent["outcome"] == {"sent": 1}
    rest = shop.data("quarantine", "release", "--order", "o-1", "--reason", "x")
    assert rest["released"] == 1
    await shop.until("SELECT count(*) = 3 FROM relay.quarantine WHERE state = 'released'")


async def test_a_hundred_orders_that_wait_behind_held_events_keep_no_other_order_here(
    shop: Any,
) -> None:
    for number in range(120):
        await shop.append(f"stuck-{number:03}", "order.unheard_of")
        await shop.append(f"stuck-{number:03}", "order.placed")
    await park(shop, "z-1", "order.new")
    shop.data("quarantine", "release", "--held-for", "order_parked", "--reason", "x", "--yes")
    shop.data("quarantine", "release", "--order", "z-1", "--reason", "x")
    shop.start("run", **shop.types(*NEW))
    await shop.until("SELECT state = 'released' FROM relay.quarantine WHERE aggregate_id = 'z-1'")
    assert [order for order, _ in shop.published()] == ["z-1"]


async def test_a_discarded_event_is_kept_and_what_waits_behind_it_is_told(shop: Any) -> None:
    events = await park(shop, "o-1", "order.new", "order.placed")
    number = str(await shop.pg.fetchval("SELECT min(quarantine_id) FROM relay.quarantine"))
    done = shop.data("quarantine", "discard", number, "--reason", "a test order")
    assert (done["discarded"], done["waiting_behind"]) == (1, 1)
    assert shop.data("quarantine", "list")["total"] == 1
    kept = shop.data("quarantine", "list", "--state", "discarded")["quarantine"][0]
    assert (kept["resolved_why"], kept["event_id"]) == ("a test order", events[0])
    exported = shop.command("quarantine", "export", "--state", "all").stdout.splitlines()
    values = [base64.b64decode(json.loads(line)["value_base64"]) for line in exported]
    assert [json.loads(value) for value in values] == [{"order_id": "o-1"}] * 2

    shop.data("quarantine", "release", "--order", "o-1", "--reason", "without the first")
    shop.start("run", **shop.types("order.placed"))
    await shop.until("SELECT count(*) = 1 FROM relay.quarantine WHERE state = 'released'")
    assert shop.published() == [("o-1", events[1])]
    # A discarded event is not taken back here: later ones have left.
    again = shop.data("quarantine", "release", number, "--reason", "oh")
    assert (again["released"], again["left_alone"]) == (0, {"discarded": 1})


async def test_an_event_of_a_dropped_partition_is_released_from_what_was_kept(shop: Any) -> None:
    event = (await park(shop, "o-1", "order.new"))[0]
    await shop.pg.execute(
        """WITH gone AS (DELETE FROM relay.outbox RETURNING *)
           INSERT INTO relay.kept (txid, id, event_id, aggregate_type, aggregate_id,
    aggregate_version, event_type, payload, headers, traceparent, tracestate, created_at,
    payload_bytes, content_type, kept_at, why)
SELECT *, clock_timestamp(), 'parked' FROM gone"""
    )
    assert shop.data("quarantine", "show", "1")["quarantine"][0]["lies_in"] == "kept"
    shop.data("quarantine", "release", "--order", "o-1", "--reason", "x")
    shop.start("run", **shop.types(*NEW))
    await shop.until("SELECT state = 'released' FROM relay.quarantine")
    assert shop.published() == [("o-1", event)]


async def test_an_event_whose_row_is_nowhere_any_more_does_not_hold_its_order(shop: Any) -> None:
    await park(shop, "o-1", "order.new", "order.placed")
    await shop.pg.execute("DELETE FROM relay.outbox WHERE event_type = 'order.new'")
    text = shop.command("quarantine", "show", "1").stdout
    assert "gone" in text
    shop.data("quarantine", "release", "--order", "o-1", "--reason", "x")
    shop.start("run", **shop.types(*NEW))
    await shop.until("SELECT state = 'released' FROM relay.quarantine WHERE quarantine_id = 2")
    assert await shop.pg.fetchval("SELECT state FROM relay.quarantine WHERE quarantine_id = 1") == (
        "discarded"
    )
    audit = (await shop.audits("quarantine_discard"))[0]
    assert audit["result"] == "the event can no longer be sent"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("release", "--reason", "x"), "say which"),
        (("release", "--all", "--order", "o", "--reason", "x"), "say which"),
        (("release", "--all", "--reason", "x"), "nothing held fits"),
        (("release", "7", "--reason", "x"), "not in quarantine"),
        (("discard", "--all", "--reason", " "), "must say why"),
        (("discard", "--all"), "--reason"),
        (("show", "7"), "there is no 7"),
    ],
)
async def test_what_is_asked_wrongly_changes_nothing(
    shop: Any, arguments: tuple[str, ...], said: str
) -> None:
    done = shop.command("quarantine", *arguments)
    assert done.returncode == (3 if arguments[1] == "7" else 2)  # 3: it is not there
    assert said in done.stderr
    assert await shop.pg.fetchval("SELECT count(*) FROM relay.audit_log") == 0
