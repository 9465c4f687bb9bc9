"""A shell whose settings are not those of the running processes: said first, and gone by these."""

import json

import pytest

from tests.foreign_processor import foreign_processor
from tests.integration.diagnose.conftest import wiring  # noqa: F401 - a fixture

pytestmark = pytest.mark.timeout(240)

PATIENT = {"RELAY_FLOW_EVENTS": json.dumps({"order.placed": {"deadline_seconds": 900}})}
HASTY = {"RELAY_FLOW_EVENTS": json.dumps({"order.placed": {"deadline_seconds": 0.01}})}


async def recorded(wiring, kinds: int) -> None:  # noqa: F811
    async def all_of_them() -> bool:
        return await wiring.pg.fetchval(
            "SELECT count(DISTINCT kind) = $1 FROM relay.process_record WHERE detail ? 'flow'",
            kinds,
        )

    await wiring.eventually(all_of_them, 40)


async def test_commands_go_by_the_processes_and_say_so_first(wiring) -> None:  # noqa: F811
    other = f"renamed-{wiring.topics.suffix}"
    wiring.relay(**PATIENT), wiring.consumer(RELAY_FLOW_CONFIRM_GROUP=other, **PATIENT)
    with foreign_processor(wiring, wiring.group):
        orders = await wiring.place(5)
        await wiring.until_returned(orders, 60)
    waiting = await wiring.place(1)
    await wiring.until_published(waiting)
    await recorded(wiring, 2)
    status = json.loads(wiring.command("status", "--json", **HASTY).stdout)
    assert next(iter(status)) == "settings_differ"
    differing = {one["setting"]: one for one in status["settings_differ"]}
    assert differing["confirm_group"]["theirs"] == other
    assert {one["used"] for one in differing.values()} == {"theirs"}
    assert differing["events"]["theirs"] == {"order.placed": [wiring.events, 900]}
    assert status["hops"]["confirm"]["waiting"] == 0
    # Nobody but this shell says that it is overdue.
    said = json.loads(wiring.command("unreturned", "--json", **HASTY).stdout)
    assert said["orders"] == []
    assert wiring.command("incidents", **HASTY).returncode == 0
    assert await wiring.pg.fetchval("SELECT count(*) FROM relay.overdue") == 0
    shown = wiring.command("unreturned", **HASTY).stdout.splitlines()
    assert shown[0].startswith("settings differ: ")
    assert "no order is overdue" in shown[1]
    ids = wiring.command("unreturned", "--ids", **HASTY)
    assert (ids.stdout, ids.stderr.startswith("settings differ: ")) == ("", True)


async def test_where_the_processes_differ_among_themselves_the_shell_keeps_its_own(
    wiring,  # noqa: F811
) -> None:
    wiring.relay(**PATIENT), wiring.consumer(**HASTY)
    await recorded(wiring, 2)
    said = json.loads(wiring.command("unreturned", "--json").stdout)
    events = [one for one in said["settings_differ"] if one["setting"] == "events"]
    assert len(events) == 2
    assert {one["used"] for one in events} == {"ours"}


async def test_nothing_is_said_where_nothing_differs(wiring) -> None:  # noqa: F811
    wiring.relay()
    await recorded(wiring, 1)
    assert next(iter(json.loads(wiring.command("unreturned", "--json").stdout))) == "orders"
