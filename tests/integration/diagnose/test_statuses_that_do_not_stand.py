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
