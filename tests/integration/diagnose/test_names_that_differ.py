"""A return names several orders: a swap of neighbours is held, a key of its own is none."""

import json
import uuid

import pytest

from tests.integration.diagnose.test_statuses_that_do_not_stand import (
    QUICK,
    answer,
    checked,
    data,
    unreturned,
    until_told,
)

pytestmark = pytest.mark.timeout(300)
CAUSE = "return_names_differ"


def send(wiring, key: str, order: str, **headers: str) -> None:
    body = json.dumps({"order_id": order, "status": "confirmed"}).encode()
    wiring.send(wiring.returns, key, body, ce_id=str(uuid.uuid4()), **headers)


def listed(wiring) -> set[tuple[str, str]]:
    found = data(wiring, "reconcile")[1]["findings"]
    return {(one["difference"], one["subject"]) for one in found}


async def test_swapped_neighbours_are_held_for_both_and_released_by_a_person(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    first, second, third, fourth, keyed = await wiring.place(5)
    send(wiring, first, second), send(wiring, second, first)
    send(wiring, third, third, ce_subject=fourth)
    # A customer's number, and one that looks like an order's and is none.
    send(wiring, "c-1", keyed)
    held = [first, second, third]
    await wiring.until_overdue(held)
    await until_told(wiring, held, CAUSE)
    send(wiring, str(uuid.uuid4()), fourth)
    await wiring.until_returned([keyed, fourth])
    assert await wiring.statuses(held) == ["submitted"] * 3
    assert wiring.named(held) == [("confirm", "return_quarantined", CAUSE)] * 3
    for order, other in ((first, second), (second, first), (third, fourth)):
        assert other in json.dumps(wiring.diagnose([order])[0]["evidence"])
    assert unreturned(wiring) == {(one, "return_quarantined", CAUSE) for one in held}
    seen = checked(wiring, "confirm.names_differ")
    assert (seen["state"], seen["found"].startswith("3 returns are held")) == ("failed", True)
    code, done = data(wiring, "reconcile")
    assert (code, done["open"]["refused returns in quarantine"]) == (3, 3)

    # Either order names what is held; a release goes by what the returns say first.
    rows = data(wiring, "quarantine", "list", "--order", first)[1]
    assert len(rows["quarantine"]) == 2
    reason = ("--reason", "their order_id is right")
    assert wiring.command("quarantine", "release", "--order", first, *reason).returncode == 0
    assert wiring.command("quarantine", "release", "--order", third, *reason).returncode == 0
    await wiring.until_returned(held)
    assert unreturned(wiring) == set()
    assert data(wiring, "reconcile")[0] == 0


async def test_by_setting_they_are_applied_and_told(wiring) -> None:
    wiring.environment["RELAY_FLOW_NAMES_DIFFER"] = "apply"
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    first, second, third, fourth = await wiring.place(4)
    send(wiring, first, second), send(wiring, second, first)
    event = "SELECT event_id::text FROM relay.outbox WHERE aggregate_id = $1"
    send(wiring, third, third, ce_causationid=await wiring.pg.fetchval(event, fourth))
    answer(wiring, fourth)
    await wiring.until_returned([first, second, third, fourth])
    await wiring.until_published([first, second, third, fourth])
    assert listed(wiring) == {("names_differ", one) for one in (first, second, third)}
    ignored = wiring.command("reconcile", "--json", RELAY_FLOW_NAMES_DIFFER="ignore")
    found = json.loads(ignored.stdout)["findings"]
    assert [one["subject"] for one in found] == [third]
