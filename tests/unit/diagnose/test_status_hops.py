"""How each hop stands, as a pure decision."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from relay.cli.status import _lines, as_data
from relay.diagnose.causes import Cause
from relay.diagnose.check.result import State
from relay.diagnose.check.set_aside import judge_set_aside
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.status.evidence import Counts, ProcessRow, SetAsideCount, Waiting
from relay.diagnose.status.hops import Status, decide
from relay.diagnose.status.lags import Lag, Lags
from relay.diagnose.watch.looked import FIRST_ROUND_SECONDS, Looked
from relay.kafka.groups import GroupMembers
from relay.runtime.durations import duration
from relay.runtime.flow import Flow
from relay.runtime.liveness import SILENT_SECONDS

NOW = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)
FLOW = Flow()
AWAY = Missing("the database", Cause.DATABASE_UNREACHABLE, "refused", "bring it back")


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def process(kind: str, **changes: Any) -> ProcessRow:
    seen = ProcessRow(
        kind=kind,
        instance=f"{kind}-host:1",
        version="1",
        started_at=ago(1000),
        heartbeat_age_seconds=1.0,
        stopped_at=None,
        stop_reason=None,
        detail={"state": "active"},
        active=kind == "relay",
    )
    return replace(seen, **changes)


HEALTHY = Counts(
    now=NOW,
    kind="sample",
    publish=Waiting(0),
    open_orders=Waiting(0),
    without_event=Waiting(0),
    pending=Waiting(0),
    held={},
    next_offsets={},
    overdue={},
    incidents=0,
    rates={"place": 1.0, "publish": 2.0, "confirm": 3.0},
    processes=(process("relay"), process("confirm")),
    answered=(),
    canaries=(),
)
GROUPS = {"order-processor": GroupMembers("Stable", 2, None, None)}
CAUGHT_UP = Lags(Lag(0), Lag(0), GROUPS)


def hops(counts: Counts | Missing = HEALTHY, lags: Lags = CAUGHT_UP) -> dict[str, Any]:
    return {hop.name: hop for hop in decide(counts, lags, FLOW, NOW).hops}


def status(counts: Counts | Missing = HEALTHY, lags: Lags = CAUGHT_UP) -> Status:
    return decide(counts, lags, FLOW, NOW)


def test_all_is_well() -> None:
    found = status()
    assert [hop.name for hop in found.hops] == ["place", "publish", "process", "return", "confirm"]
    assert all(hop.waiting == 0 and hop.healthy for hop in found.hops)
    assert found.healthy
    assert found.next_command == ""


def test_each_queue_is_told_where_it_is() -> None:
    counts = replace(
        HEALTHY,
        publish=Waiting(5, ago(10)),
        open_orders=Waiting(20, ago(100)),
        pending=Waiting(1, ago(50)),
        held={"event": 2, "return": 1},
    )
    found = hops(counts, Lags(Lag(4, ago(20)), Lag(3, ago(30)), GROUPS))
    assert (found["publish"].waiting, found["publish"].oldest_age_seconds) == (5, 10)
    assert "2 parked" in found["publish"].note
    assert (found["process"].waiting, found["process"].oldest_age_seconds) == (4, 20)
    assert (found["confirm"].waiting, found["confirm"].oldest_age_seconds) == (4, 50)
    assert "1 returns in quarantine" in found["confirm"].note
    assert "locked" in found["confirm"].note
    # 20 open: 5 + 4 + 4 wait elsewhere, 3 are in quarantine.
    assert found["return"].waiting == 4
    assert found["return"].oldest_age_seconds is None


def test_what_waits_for_a_return_alone_has_an_age() -> None:
    found = hops(replace(HEALTHY, open_orders=Waiting(7, ago(100))))
    assert (found["return"].waiting, found["return"].oldest_age_seconds) == (7, 100)


def test_counts_of_different_moments_never_make_less_than_nothing() -> None:
    assert hops(replace(HEALTHY, publish=Waiting(9)))["return"].waiting == 0


def test_an_estimate_is_said_to_be_one() -> None:
    found = hops(replace(HEALTHY, publish=Waiting(10_000_000, ago(1), exact=False)))
    assert not found["publish"].exact
    assert not found["return"].exact


def test_orders_that_bypassed_the_outbox_are_not_well() -> None:
    found = hops(replace(HEALTHY, without_event=Waiting(2, ago(60)), open_orders=Waiting(2)))
    assert (found["place"].waiting, found["place"].healthy) == (2, False)
    assert found["return"].waiting == 0


@pytest.mark.parametrize(
    ("processes", "says"),
    [
        ((), "nobody"),
        ((process("relay", stopped_at=ago(60), stop_reason="SIGTERM"),), "stopped 60 s ago"),
        ((process("relay", heartbeat_age_seconds=SILENT_SECONDS + 1),), "silent since 16 s"),
    ],
)
def test_a_relay_that_is_not_there(processes: tuple[ProcessRow, ...], says: str) -> None:
    found = status(replace(HEALTHY, processes=processes))
    publish = found.hops[1]
    assert says in publish.run_by
    assert not publish.healthy
    assert "relay run" in publish.note
    assert found.next_command == "relay check"


def test_a_standby_alone_publishes_nothing() -> None:
    standby = process("relay", active=False, detail={"state": "standby"})
    assert not hops(replace(HEALTHY, processes=(standby,)))["publish"].healthy
    both = hops(replace(HEALTHY, processes=(standby, process("relay", instance="a:2"))))
    assert both["publish"].healthy
    assert both["publish"].run_by == "a:2 and 1 more"


def test_what_a_service_waits_for_is_told() -> None:
    waiting = process("relay", detail={"state": "waiting", "waiting_for": "the broker: refused"})
    assert (
        "waits for the broker: refused"
        in hops(replace(HEALTHY, processes=(waiting,)))["publish"].note
    )


@pytest.mark.parametrize(
    ("group", "says", "healthy"),
    [
        (GroupMembers("Stable", 1, None, None), "1 member", True),
        (GroupMembers("Empty", 0, None, None), "0 members", False),
        (GroupMembers("Dead", 0, None, None), "no group order-processor", False),
        (
            GroupMembers("Stable", None, kind="share"),
            "group order-processor (share): its members are not known",
            True,
        ),
    ],
)
def test_the_processors_group(group: GroupMembers, says: str, healthy: bool) -> None:
    found = hops(lags=Lags(Lag(0), Lag(0), {"order-processor": group}))["process"]
    assert says in found.run_by
    assert found.healthy is healthy


def test_a_missing_topic_is_told() -> None:
    found = hops(lags=Lags(Lag(0, None, ("orders.events",)), Lag(0), GROUPS))["process"]
    assert "no topic orders.events" in found.note
    assert not found.healthy


def test_without_the_broker_the_database_is_told() -> None:
    away = Missing("the broker", Cause.BROKER_UNREACHABLE, "refused", "bring it back")
    found = status(replace(HEALTHY, publish=Waiting(3, ago(5))), Lags(away, away))
    waiting = {hop.name: hop.waiting for hop in found.hops}
    assert waiting == {"place": 0, "publish": 3, "process": None, "return": None, "confirm": None}
    assert found.missing == ("the broker: refused (bring it back)",)


def test_without_the_database_the_broker_is_told() -> None:
    found = status(AWAY, Lags(Lag(4, ago(9)), Lag(2), GROUPS))
    waiting = {hop.name: hop.waiting for hop in found.hops}
    assert waiting == {"place": None, "publish": None, "process": 4, "return": None, "confirm": 2}
    assert not found.healthy
    assert found.next_command == "relay check"


@pytest.mark.parametrize(
    "part", ["publish", "open_orders", "pending", "held", "overdue", "processes", "rates"]
)
def test_one_missing_part_leaves_the_others(part: str) -> None:
    refused = Missing(part, Cause.PERMISSION_DENIED, "permission denied", "grant it")
    found = status(replace(HEALTHY, **{part: refused}))
    assert len(found.hops) == 5
    assert found.missing == (f"{part}: permission denied (grant it)",)
    assert as_data(found)["hops"].keys() == {"place", "publish", "process", "return", "confirm"}


def test_overdue_orders_lead_to_the_diagnosis() -> None:
    found = status(replace(HEALTHY, overdue={"return": 3412}, incidents=1))
    assert found.next_command == "relay diagnose"
    assert not found.healthy
    assert as_data(found)["overdue"] == {"return": 3412}


def test_flows_that_do_not_say_where_orders_stand() -> None:
    found = hops(replace(HEALTHY, open_orders=None, without_event=None))
    assert found["return"].waiting is None
    assert "does not say" in found["return"].note


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.9, "59 s"),
        (61, "1 min 1 s"),
        (3725, "1 h 2 min"),
        (100_000, "1 d 3 h"),
    ],
)
def test_durations_as_people_read_them(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_in_a_read_only_database_nobody_is_said_to_be_absent() -> None:
    """Whoever runs cannot write that he does: to start him again would change nothing."""
    silent = tuple(process(kind, heartbeat_age_seconds=900.0) for kind in ("relay", "confirm"))
    found = hops(replace(HEALTHY, read_only=True, processes=silent))
    for name in ("publish", "confirm"):
        assert found[name].run_by == "not known: no process can write that it runs"
        assert "default_transaction_read_only" in found[name].note
        assert "start it" not in found[name].note
        assert not found[name].healthy


def test_who_stopped_before_the_database_was_read_only_is_known() -> None:
    gone = process("relay", stopped_at=ago(60), stop_reason="SIGTERM")
    found = hops(replace(HEALTHY, read_only=True, processes=(gone,)))
    assert "stopped 60 s ago" in found["publish"].run_by


def test_partitions_that_wait_and_what_stands_aside_are_named() -> None:
    says = {
        "state": "active",
        "blocked_partitions": {"orders.returns-3": "a trigger refuses it"},
        "quarantine_full": True,
    }
    counts = replace(
        HEALTHY,
        processes=(process("relay"), process("confirm", detail=says)),
        set_aside=SetAsideCount(unreadable=2, places=70),
    )
    confirm = hops(counts)["confirm"]
    assert not confirm.healthy
    assert "orders.returns-3 waits: a trigger refuses it" in confirm.note
    assert "the quarantine is full" in confirm.note
    assert "2 ranges of offsets cannot be read" in confirm.note
    assert "of 70 refused returns only the place is kept" in confirm.note
    assert status(counts).next_command == "relay check"


def test_a_check_fails_for_what_waits_and_warns_of_what_stands_aside() -> None:
    none = SetAsideCount()
    consumer = process("confirm")

    def judged(aside: SetAsideCount, **says: Any) -> list[State]:
        found = judge_set_aside([replace(consumer, detail={"state": "active"} | says)], aside)
        return [one.state for one in found]

    assert judged(none) == [State.OK, State.OK]
    assert judged(none, blocked_partitions={"t-0": "x"}) == [State.FAILED, State.OK]
    assert judged(none, quarantine_full=True) == [State.OK, State.FAILED]
    assert judged(SetAsideCount(unreadable=1)) == [State.OK, State.WARNING]
    assert judged(SetAsideCount(places=1)) == [State.OK, State.WARNING]


NO_ROUND = Looked(None, "no watchdog has completed a round yet")


def running_for(seconds: float, looked: Looked) -> Status:
    started = ago(seconds)
    processes = (process("relay", started_at=started), process("confirm", started_at=ago(1)))
    return status(replace(HEALTHY, processes=processes, looked=looked))


def test_the_first_seconds_of_a_service_are_not_red_for_a_round_that_is_to_come() -> None:
    early = running_for(FIRST_ROUND_SECONDS - 1, NO_ROUND)
    assert early.healthy
    assert as_data(early)["watch"]["looked"] is False
    assert not any(line == "all is well" for line, _ in _lines(early))
    assert not running_for(FIRST_ROUND_SECONDS + 1, NO_ROUND).healthy


def test_a_round_that_failed_or_that_nobody_does_is_red_at_once() -> None:
    failed = replace(NO_ROUND, why_not="it failed", failed=True)
    assert not running_for(1, failed).healthy
    nobody = replace(HEALTHY, processes=(), looked=NO_ROUND)
    assert status(nobody).blind
    assert running_for(1, Looked(NOW, None)).healthy


def test_a_reader_in_no_group_is_known_by_what_it_leaves_waiting() -> None:
    alone = {"order-processor": GroupMembers("Empty", 0, never_joined=True)}
    for lag, fine in ((Lag(0), True), (Lag(3, ago(5)), True), (Lag(3, ago(600)), False)):
        found = hops(lags=Lags(lag, Lag(0), alone))["process"]
        assert found.healthy is fine
        assert "assigns its partitions itself" in found.run_by
    left = {"order-processor": GroupMembers("Empty", 0)}
    assert not hops(lags=Lags(Lag(0), Lag(0), left))["process"].healthy
