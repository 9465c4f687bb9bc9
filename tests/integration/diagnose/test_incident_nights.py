"""The three endings of a night, told apart by what was recorded; silence for ordinary losses."""

import json
from urllib.parse import urlsplit, urlunsplit

import pytest

from relay.diagnose.report import explain
from relay.diagnose.watch import round as watch_round
from relay.diagnose.watch.round import WatchOptions
from relay.diagnose.watch.watchdog import watch_once
from relay.runtime.settings import load_settings

pytestmark = pytest.mark.timeout(240)

QUICK = {"RELAY_WATCH_ROUND_SECONDS": "0.5", "RELAY_WATCH_POSITION_SECONDS": "1"}
UNWATCHED = {"RELAY_WATCH_INSIDE": "false"}


def incidents(wiring, *arguments: str) -> list[dict]:
    done = wiring.command("incidents", "--json", *arguments)
    assert done.returncode in (0, 3), done.stderr
    return json.loads(done.stdout)["incidents"]


def kind(one: dict) -> tuple[str, str, str]:
    return one["hop"], one["verdict"], one["cause"]


async def test_the_relay_is_still_down(wiring) -> None:
    relay = wiring.relay(**QUICK)
    wiring.processor(), wiring.consumer(**QUICK)
    await wiring.until_up()
    relay.kill()
    orders = await wiring.place(5)
    await wiring.until_overdue(orders)

    def named() -> bool:
        found = incidents(wiring)
        return [(kind(one), one["orders"]) for one in found] == [
            (("publish", "not_published", "relay_down"), 5)
        ]

    await wiring.eventually(named, 60)
    done = wiring.command("incidents")
    assert done.returncode == 3
    first, second = done.stdout.splitlines()[:2]
    assert "I-1  2 publish: not_published / relay_down" in first
    assert "5 orders (5 delayed)" in first
    assert "fell silent" in second
    assert "no relay has started since" in second
    assert "relay run" in done.stdout


async def test_the_relay_came_back_and_nothing_is_lost(wiring) -> None:
    relay = wiring.relay(**QUICK)
    wiring.processor(), wiring.consumer(**QUICK)
    await wiring.until_up()
    relay.kill()
    orders = await wiring.place(5)
    await wiring.eventually(lambda: [one["orders"] for one in incidents(wiring)] == [5], 60)
    # Its last heartbeat may be fresh when the incident opens.
    down = ("publish", "not_published", "relay_down")
    await wiring.eventually(lambda: [kind(one) for one in incidents(wiring)] == [down], 60)
    wiring.relay(**QUICK)
    await wiring.until_returned(orders)
    await wiring.eventually(lambda: incidents(wiring) == [], 60)
    (found,) = incidents(wiring, "--all")
    assert kind(found) == down
    assert found["breakdown"] == {"returned late": 5}
    assert found["closed_by"] == "watchdog"
    assert "started" in found["story"]
    assert wiring.command("incidents").returncode == 0


async def test_the_processor_came_back_past_its_records(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    processor = wiring.processor()
    await wiring.until_up()
    await wiring.until_returned(await wiring.place_everywhere())
    await wiring.until_position(wiring.group, members=1)
    processor.terminate()
    await wiring.until_group_is_empty(wiring.group)
    await wiring.until_position(wiring.group, members=0)
    orders = await wiring.place(15)
    await wiring.until_published(orders)
    await wiring.eventually(
        lambda: (
            [(kind(one), one["orders"]) for one in incidents(wiring)]
            == [(("process", "not_processed", "processor_down"), 15)]
        ),
        60,
    )
    (before,) = incidents(wiring)
    wiring.skip_to_end(wiring.group, wiring.events)
    await wiring.until_position(wiring.group, members=0)
    wiring.processor()
    await wiring.until_returned(await wiring.place_everywhere(), 60)
    await wiring.eventually(
        lambda: (
            [kind(one) for one in incidents(wiring)] == [("return", "no_return", "offsets_skipped")]
        ),
        90,
    )
    (found,) = incidents(wiring)
    assert found["incident"] == before["incident"]
    assert found["breakdown"] == {"lost": 15}
    assert "lost its last member" in found["story"]
    assert "offsets jumped by 15, no returns" in found["story"]
    assert found["next"] == f"relay replay --incident {found['incident']}"
    (one, *_) = wiring.diagnose([orders[0]])
    assert one["incident"] == found["incident"]
    assert one["next"][-1] == found["next"]
    # Jumped over is not processed.
    shown = wiring.command("diagnose", orders[0]).stdout.splitlines()
    assert [line.split()[:3] for line in shown[3:5]] == [
        ["?", "3", "process"],
        ["NO", "4", "return"],
    ]
    listed = wiring.command("unreturned", "--incident", found["incident"], "--ids")
    assert sorted(listed.stdout.split()) == sorted(orders)
    triage = wiring.command("diagnose").stdout.splitlines()
    assert triage[-1].strip() == f"next  {found['next']}"
    assert any(line.strip().startswith("fix   replay them") for line in triage)


async def test_spread_losses_are_silence(wiring) -> None:
    wiring.relay(**QUICK), wiring.consumer(**QUICK)
    wiring.processor("--lose-every", "20")
    await wiring.until_up()
    orders = await wiring.place(60)
    await wiring.until_passed(wiring.group, wiring.events)
    await wiring.until_passed(wiring.confirm_group, wiring.returns)
    statuses = await wiring.statuses(orders)
    lost = [one for one, status in zip(orders, statuses, strict=True) if status == "submitted"]
    assert len(lost) == 3

    async def recorded() -> bool:
        rows = await wiring.pg.fetch(
            "SELECT aggregate_id, verdict FROM relay.overdue WHERE closed_at IS NULL"
        )
        return {row["aggregate_id"] for row in rows} == set(lost) and {
            row["verdict"] for row in rows
        } == {"no_return"}

    await wiring.eventually(recorded, 60)
    done = wiring.command("incidents")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[0] == "no incident is open"
    assert "3 overdue orders belong to none" in done.stdout


async def test_late_orders_that_nobody_watched_are_found_afterwards(wiring) -> None:
    orders = await wiring.place(4)
    await wiring.until_overdue(orders)
    wiring.relay(**UNWATCHED), wiring.processor(), wiring.consumer(**UNWATCHED)
    await wiring.until_returned(orders)
    await wiring.eventually(lambda: len(incidents(wiring, "--all")) == 1, 60)
    (found,) = incidents(wiring, "--all")
    assert kind(found) == ("publish", "not_published", "relay_down")
    assert found["breakdown"] == {"returned late": 4}


async def test_without_any_watchdog_the_command_records_what_is_overdue(wiring) -> None:
    orders = await wiring.place(3)
    await wiring.until_overdue(orders)
    (found,) = incidents(wiring)
    assert kind(found) == ("publish", "not_published", "relay_down")
    (again,) = incidents(wiring, "I-1")
    assert again["incident"] == found["incident"] == "I-1"
    assert wiring.command("incidents", "I-99").returncode == 3


async def test_a_night_larger_than_a_page_is_told_at_once(wiring) -> None:
    orders = await wiring.place(45)
    await wiring.until_overdue(orders)
    servers = {"DATABASE_URL": wiring.database, "KAFKA_BOOTSTRAP_SERVERS": wiring.bootstrap}
    settings = load_settings(None, wiring.environment | servers)
    options = WatchOptions(page_orders=10)
    once = await watch_once(settings.database.dsn, settings.kafka, settings.flow, options)
    assert once.report is not None
    assert once.report.opened == 45
    (found,) = incidents(wiring)
    assert found["orders"] == 45


async def test_what_is_recorded_of_a_few_is_hardly_older_than_what_diagnose_says(wiring) -> None:
    await wiring.until_overdue(await wiring.place(3))
    servers = {"DATABASE_URL": wiring.database, "KAFKA_BOOTSTRAP_SERVERS": wiring.bootstrap}
    settings = load_settings(None, wiring.environment | servers)

    async def look(**options: int) -> int:
        once = await watch_once(
            settings.database.dsn, settings.kafka, settings.flow, WatchOptions(**options)
        )
        assert once.report is not None
        return once.report.diagnosed_again

    await look()
    await wiring.pg.execute(
        "UPDATE relay.overdue SET hop = 'process', verdict = 'not_processed',"
        " cause = 'processor_stuck', diagnosed_at = clock_timestamp() - interval '12 s'"
    )
    assert await look(few_cases=2) == 0  # of many, a diagnosis may be 30 s old
    assert await look() == 3
    (found,) = incidents(wiring)
    assert kind(found) == ("publish", "not_published", "relay_down")


async def test_one_order_that_cannot_be_judged_keeps_no_other_one_from_it(
    wiring, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = await wiring.place(5)
    await wiring.until_overdue(orders)

    def judge(evidence):
        if evidence.order_id == orders[2]:
            raise OverflowError("date value out of range")
        return explain.diagnose(evidence)

    monkeypatch.setattr(watch_round, "diagnose", judge)
    servers = {"DATABASE_URL": wiring.database, "KAFKA_BOOTSTRAP_SERVERS": wiring.bootstrap}
    settings = load_settings(None, wiring.environment | servers)
    once = await watch_once(
        settings.database.dsn, settings.kafka, settings.flow, WatchOptions(page_orders=10)
    )
    assert once.report is not None
    assert (once.report.opened, once.report.set_aside, once.why_not) == (4, 1, None)


async def test_a_cause_of_another_version_is_shown_and_ends_no_round(wiring) -> None:
    orders = await wiring.place(2)
    await wiring.until_overdue(orders)
    assert len(incidents(wiring)) == 1
    await wiring.pg.execute("UPDATE relay.overdue SET cause = 'x', verdict = 'y', hop = 'z'")
    await wiring.pg.execute("UPDATE relay.incident SET cause = 'x', verdict = 'y', hop = 'z'")
    done = wiring.command("incidents", "--json")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["watch"]["looked"] is True, done.stdout
    assert wiring.command("unreturned").returncode == 3


async def test_who_may_only_read_is_not_told_that_nothing_is_wrong(wiring) -> None:
    name = f"reader_{wiring.group.rpartition('-')[2]}"
    await wiring.pg.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE relay_observer")
    try:
        parts = urlsplit(wiring.database)
        host = parts.netloc.rpartition("@")[2]
        as_reader = {"DATABASE_URL": urlunsplit(parts._replace(netloc=f"{name}:x@{host}"))}
        done = wiring.command("incidents", "--json", **as_reader)
        assert done.returncode == 1, done.stderr
        told = json.loads(done.stdout)
        assert told["incidents"] == []
        assert told["watch"]["looked"] is False
        assert "no watchdog has completed a round" in told["watch"]["why_not"]
        said = wiring.command("incidents", **as_reader)
        assert "no incident is open" not in said.stdout
        for command in (("status",), ("unreturned",), ("check",), ("quarantine", "list")):
            answer = wiring.command(*command, "--json", **as_reader)
            json.loads(answer.stdout)
    finally:
        await wiring.pg.execute(f"DROP OWNED BY {name}")
        await wiring.pg.execute(f"DROP ROLE {name}")
