"""A return was applied and its status does not stand: every command says the same of it."""

import json

import pytest

pytestmark = pytest.mark.timeout(300)

QUICK = {"RELAY_WATCH_ROUND_SECONDS": "0.5", "RELAY_WATCH_POSITION_SECONDS": "1"}
KEEP = """
CREATE FUNCTION public.keep_frozen() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.status := OLD.status;
    RETURN NEW;
END $$;
CREATE TRIGGER keep_frozen BEFORE UPDATE ON public.orders FOR EACH ROW
  WHEN (NEW.customer_id = 'c-frozen') EXECUTE FUNCTION public.keep_frozen()
"""


def answer(wiring, order: str, status: str = "confirmed") -> None:
    body = json.dumps({"order_id": order, "status": status}).encode()
    wiring.send(wiring.returns, order, body, ce_id=f"{order}/{status}")


def data(wiring, *arguments: str) -> tuple[int, dict]:
    done = wiring.command(*arguments, "--json")
    assert done.returncode in (0, 3), done.stderr
    return done.returncode, json.loads(done.stdout)


def unreturned(wiring) -> set[tuple[str, str, str]]:
    code, found = data(wiring, "unreturned")
    assert code == (3 if found["orders"] else 0)
    return {(one["order_id"], one["verdict"], one["cause"]) for one in found["orders"]}


def checked(wiring, name: str) -> dict:
    found = data(wiring, "check")[1]
    return next(one for one in found["checks"] if one["name"] == name)


async def until_told(wiring, orders, cause: str) -> None:
    async def told() -> bool:
        return await wiring.pg.fetchval(
            """SELECT count(*) = $2 FROM relay.overdue
                WHERE aggregate_id = ANY ($1::text[]) AND cause = $3 AND closed_at IS NULL""",
            orders,
            len(orders),
            cause,
        )

    await wiring.eventually(told, 60)


async def test_what_a_trigger_undoes_is_one_story_and_its_repair_brings_the_orders_back(
    wiring,
) -> None:
    await wiring.pg.execute(KEEP)
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    fine = await wiring.place(2)
    frozen = [one.replace(one[:4], "f00d") for one in fine]
    await wiring.place_these(frozen, "c-frozen")
    for order in (*fine, *frozen):
        answer(wiring, order)
    await wiring.until_returned(fine)
    await wiring.until_overdue(frozen)
    await until_told(wiring, frozen, "status_not_kept")

    assert wiring.named(frozen) == [("confirm", "return_quarantined", "status_not_kept")] * 2
    named = "trigger keep_frozen (BEFORE UPDATE, function keep_frozen)"
    assert all(named in json.dumps(one["evidence"]) for one in wiring.diagnose(frozen))
    assert unreturned(wiring) == {(one, "return_quarantined", "status_not_kept") for one in frozen}
    code, found = data(wiring, "reconcile")
    assert (code, found["proven"]) == (3, False)
    assert found["open"]["refused returns in quarantine"] == 2
    seen = checked(wiring, "confirm.status_not_kept")
    assert seen["state"] == "failed"
    assert named in seen["found"]

    await wiring.pg.execute("DROP TRIGGER keep_frozen ON orders")
    done = wiring.command(
        *("quarantine", "release", "--held-for", "status_not_kept", "--reason", "dropped it")
    )
    assert done.returncode == 0, done.stderr
    assert await wiring.statuses(frozen) == ["confirmed"] * 2

    async def closed() -> bool:
        return not await wiring.pg.fetchval(
            "SELECT count(*) FROM relay.overdue WHERE closed_at IS NULL"
        )

    await wiring.eventually(closed, 60)
    assert data(wiring, "reconcile")[0] == 0
    assert checked(wiring, "confirm.status_not_kept")["state"] == "ok"


def found_by_reconcile(wiring) -> tuple[set[tuple[str, str]], dict]:
    code, done = data(wiring, "reconcile")
    assert (code, done["proven"]) == (3, False)
    return {(one["difference"], one["subject"]) for one in done["findings"]}, done["open"]


async def returned_orders(wiring, count: int) -> list[str]:
    """Orders of which a foreign producer's return was applied; the services go on."""
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    orders = await wiring.place(count)
    for order in orders:
        answer(wiring, order)
    await wiring.until_returned(orders)
    await wiring.until_published(orders)
    return orders


async def test_what_somebody_overwrote_is_told_in_both_directions(wiring) -> None:
    fine, back, other, saved = await returned_orders(wiring, 4)
    # As at a psql prompt; as a shop that cancels; as an ORM that saves the row it read before.
    set_status = "UPDATE orders SET status = $2 WHERE order_id = $1::text::uuid"
    await wiring.pg.execute(set_status, back, "submitted")
    await wiring.pg.execute(set_status, other, "rejected")
    await wiring.pg.execute(
        "UPDATE orders SET customer_id = 'c-9', status = 'processing', returned_at = NULL"
        " WHERE order_id = $1::text::uuid",
        saved,
    )
    await wiring.until_overdue([back, other, saved])
    await until_told(wiring, [back, other, saved], "status_overwritten")
    lost = ("confirm", "return_skipped", "status_overwritten")
    assert wiring.named([back, other, saved]) == [lost] * 3
    evidence = json.dumps(wiring.diagnose([other])[0]["evidence"])
    assert "confirmed was applied, and the order is rejected now" in evidence
    assert wiring.diagnose([fine])[0]["verdict"] == "returned"
    assert unreturned(wiring) == {(one, *lost[1:]) for one in (back, other, saved)}
    found, _ = found_by_reconcile(wiring)
    assert {(kind, one) for kind, one in found if kind == "status_overwritten"} == {
        ("status_overwritten", one) for one in (back, other, saved)
    }
    # The statements that are printed are run as they are; there is nothing left.
    for one in wiring.diagnose([back, other, saved]):
        (statement,) = [it["found"] for it in one["evidence"] if it["what"] == "mend"]
        assert await wiring.pg.execute(statement) == "UPDATE 1"
        assert await wiring.pg.execute(statement) == "UPDATE 0"
    assert await wiring.statuses([back, other, saved]) == ["confirmed"] * 3
    assert data(wiring, "reconcile")[0] == 0


async def test_a_deleted_order_that_was_returned_is_not_proven(wiring) -> None:
    (gone, _) = await returned_orders(wiring, 2)
    await wiring.pg.execute("DELETE FROM orders WHERE order_id = $1::text::uuid", gone)
    assert found_by_reconcile(wiring)[0] == {("order_gone", gone)}
    assert wiring.diagnose([gone])[0]["verdict"] == "no_such_order"


async def test_what_the_shop_cancelled_while_it_was_shipped_is_a_conflict(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    cancelled, alone = await wiring.place(2)
    await wiring.pg.execute(
        "UPDATE orders SET status = 'rejected' WHERE order_id = ANY ($1::uuid[])",
        [cancelled, alone],
    )
    answer(wiring, cancelled)
    await until_told(wiring, [cancelled], "return_conflicts")
    conflict = ("confirm", "return_quarantined", "return_conflicts")
    assert wiring.named([cancelled]) == [conflict]
    assert wiring.named([alone]) == [(None, "returned", "set_by_hand")]
    assert unreturned(wiring) == {(cancelled, *conflict[1:])}
    assert checked(wiring, "confirm.conflict")["state"] == "warning"
    found, still_open = found_by_reconcile(wiring)
    assert ("status_without_return", cancelled) in found
    assert still_open == {"refused returns in quarantine": 1, "orders past their deadline": 1}

    # It does not come and go: the next rounds leave it as it is.
    opened = "SELECT opened_at, diagnosed_at FROM relay.overdue WHERE aggregate_id = $1"
    first = await wiring.pg.fetchrow(opened, cancelled)

    async def looked_again() -> bool:
        since = "SELECT ran_at > $1 FROM relay.maintenance WHERE duty = 'watchdog_late'"
        return bool(await wiring.pg.fetchval(since, first["diagnosed_at"]))

    await wiring.eventually(looked_again, 30)
    assert unreturned(wiring) == {(cancelled, *conflict[1:])}
    done = wiring.command("quarantine", "discard", "--order", cancelled, "--reason", "it holds")
    assert done.returncode == 0, done.stderr
    assert unreturned(wiring) == set()


async def test_a_status_that_the_flow_does_not_know_is_named_and_nobody_is_accused(wiring) -> None:
    await wiring.pg.execute("ALTER TABLE orders DROP CONSTRAINT orders_status_check")
    moved_on, refused, unanswered = (
        await returned_orders(wiring, 1),
        *[await wiring.place(1) for _ in range(2)],
    )
    await wiring.pg.execute(
        "UPDATE orders SET status = 'on hold' WHERE order_id = ANY ($1::uuid[])",
        [*refused, *unanswered],
    )
    await wiring.pg.execute(
        "UPDATE orders SET status = 'shipped' WHERE order_id = $1::text::uuid", moved_on[0]
    )
    answer(wiring, refused[0])
    await wiring.until_overdue([*refused, *unanswered])
    await until_told(wiring, refused, "order_status_unknown")
    cause = "order_status_unknown"
    assert wiring.named([*moved_on, *refused]) == [
        ("confirm", "unknown", cause),
        ("confirm", "return_quarantined", cause),
    ]
    listed = {order: why for order, _, why in unreturned(wiring)}
    assert listed.keys() == {*refused, *unanswered}
    assert listed[refused[0]] == cause
    said = wiring.command("unreturned")
    assert said.returncode == 3
    assert "2  have the status 'on hold', which the flow does not know" in said.stdout
    seen = checked(wiring, "orders.status_words")
    assert seen["state"] == "failed"
    assert "'on hold' (2), 'shipped' (1)" in seen["found"]
    found, _ = found_by_reconcile(wiring)
    assert {one for kind, one in found if kind == "status_unknown"} == {
        *moved_on,
        *refused,
        *unanswered,
    }
    # Once the settings say what follows a return, that order is as returned as before.
    later = {"RELAY_FLOW_LATER_STATUSES": "shipped"}
    assert wiring.diagnose(moved_on, **later)[0]["verdict"] == "returned"
    done = json.loads(wiring.command("reconcile", "--json", **later).stdout)
    assert moved_on[0] not in {one["subject"] for one in done["findings"]}
