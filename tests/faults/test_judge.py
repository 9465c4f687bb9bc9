"""The oracle is tested: each broken promise is seen, and a good run is not accused."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.journal import Intent, Journal, Kind, Truth
from tests.faults.judge import (
    duplicates,
    judge_epochs,
    judge_events,
    judge_orders,
    parked_events,
    returned_steps,
)
from tests.faults.reading import Seen


def event(order: str, version: int, kind: Kind = "noted") -> Intent:
    return Intent(f"{order}-{version}", order, version, kind)


def seen(intent: Intent, offset: int, partition: int = 0) -> Seen:
    return Seen(partition, offset, intent.order_id, intent.event_id, intent.version, 1, None, 0.0)


def returned(order: str, status: str | None, offset: int = 0) -> Seen:
    return Seen(0, offset, order, f"r-{offset}", None, 0, status, 0.0)


A = [event("a", 1, "placed"), event("a", 2), event("a", 3)]
B = [event("b", 1, "placed")]
LOG = [seen(one, offset) for offset, one in enumerate([*A, *B])]


def named(violations: list[object]) -> set[str]:
    return {str(one).partition(":")[0] for one in violations}


def test_a_good_run_is_not_accused_and_repeats_are_counted() -> None:
    repeated = [*LOG, *(replace(one, offset=10 + one.offset) for one in LOG[:2])]
    assert judge_events([*A, *B], [], repeated) == []
    assert duplicates(repeated) == 2


@pytest.mark.parametrize(
    ("committed", "rolled_back", "records", "invariant"),
    [
        ([*A, *B], [], LOG[:3], "lost"),
        (A, B, LOG, "rolled back, yet published"),
        (A, [], LOG, "never committed, yet published"),
        ([*A, *B], [], [LOG[0], LOG[2], LOG[1], LOG[3]], "first occurrences out of order"),
        ([*A, *B], [], [*LOG[:3], replace(LOG[3], key="a")], "another event's record"),
    ],
)
def test_each_broken_promise_of_hop_2_is_seen(
    committed: list[Intent], rolled_back: list[Intent], records: list[Seen], invariant: str
) -> None:
    assert invariant in named(list(judge_events(committed, rolled_back, records)))


def test_what_a_failover_took_may_be_published_or_not_and_nothing_else_may() -> None:
    assert judge_events(A, [], LOG, lost_by_failover={"b-1"}) == []
    assert judge_events(A, [], LOG[:3], lost_by_failover={"b-1"}) == []
    stray = [*LOG, seen(event("c", 1), 9)]
    assert "never committed, yet published" in named(
        list(judge_events(A, [], stray, lost_by_failover={"b-1"}))
    )


def test_in_a_topic_that_grew_an_order_may_go_on_elsewhere_but_not_backwards() -> None:
    moved = [LOG[0], LOG[3], seen(A[1], 0, partition=9), seen(A[2], 1, partition=9)]
    assert judge_events([*A, *B], [], moved) == []
    turned = [LOG[0], LOG[3], seen(A[2], 0, partition=9), seen(A[1], 1, partition=9)]
    assert named(list(judge_events([*A, *B], [], turned))) == {"first occurrences out of order"}


def test_what_cannot_be_sent_waits_with_all_that_follows() -> None:
    events = [event("c", 1, "placed"), event("c", 2, "too_large"), event("c", 3), *B]
    assert set(parked_events(events)) == {"c-2", "c-3"}
    log = [seen(events[0], 0), seen(B[0], 1)]
    assert judge_events(events, [], log) == []
    overtaken = judge_events(events, [], [*log, seen(events[2], 2)])
    assert "never committed, yet published" in named(list(overtaken))


def test_steps_only_go_up_and_end_at_the_first_terminal() -> None:
    said = ["processing", None, "confirmed", "rejected", "processing", "unheard of"]
    records = [returned("a", status, offset) for offset, status in enumerate(said)]
    assert returned_steps(records) == {"a": {("submitted", "processing", "confirmed")}}


def test_returns_of_one_partition_have_an_order_and_those_of_two_have_none() -> None:
    here = [returned("a", "confirmed", 0), returned("a", "processing", 1)]
    assert returned_steps(here) == {"a": {("submitted", "confirmed")}}
    there = [here[0], replace(here[1], partition=1)]
    late = ("submitted", "processing", "confirmed")
    assert returned_steps(there) == {"a": {("submitted", "confirmed"), late}}
    made = {"a": [("submitted", "processing"), ("processing", "confirmed")]}
    assert judge_orders(["a"], there, {"a": "confirmed"}, made) == []
    assert "wrong history" in named(judge_orders(["a"], here, {"a": "confirmed"}, made))
    rivals = [here[0], replace(returned("a", "rejected"), partition=1)]
    for status in ("confirmed", "rejected"):
        one = {"a": [("submitted", status)]}
        assert judge_orders(["a"], rivals, {"a": status}, one) == []
        other = "rejected" if status == "confirmed" else "confirmed"
        assert "wrong history" in named(judge_orders(["a"], rivals, {"a": other}, one))


@pytest.mark.parametrize(
    ("status", "history", "invariant"),
    [
        (None, [], "order lost"),
        ("submitted", [], "not returned"),
        ("rejected", [("submitted", "rejected")], "wrong status"),
        ("confirmed", [("submitted", "confirmed"), ("confirmed", "confirmed")], "wrong history"),
        ("confirmed", [], "wrong history"),
    ],
)
def test_each_broken_promise_of_hop_5_is_seen(
    status: str | None, history: list[tuple[str, str]], invariant: str
) -> None:
    statuses = {} if status is None else {"a": status}
    found = judge_orders(["a"], [returned("a", "confirmed")], statuses, {"a": history})
    assert invariant in named(list(found))
    good = {"a": [("submitted", "confirmed")]}
    assert judge_orders(["a"], [returned("a", "confirmed")], {"a": "confirmed"}, good) == []


def test_an_order_that_is_reported_is_excused_but_not_its_status() -> None:
    excused = frozenset({"a"})
    assert judge_orders(["a"], [], {"a": "submitted"}, {}, excused=excused) == []
    found = judge_orders(
        ["a"], [returned("a", "confirmed")], {"a": "submitted"}, {}, excused=excused
    )
    assert "wrong status" in named(list(found))


def test_a_stale_epoch_is_seen() -> None:
    assert judge_epochs([1, 1, 2, 3]) == []
    assert len(judge_epochs([1, 2, 1, 3])) == 1


async def test_the_journal_on_disk_is_what_is_judged(tmp_path: Path) -> None:
    journal, truth = Journal(tmp_path / "journal"), Truth()
    await journal.intend("t-1", A[:2])
    await journal.intend("t-2", B)
    await journal.intend("t-3", A[2:])
    await journal.outcome("t-1", "committed")
    await journal.outcome("t-2", "rolled_back")
    truth.read(journal.path)
    assert truth.unresolved() == ["t-3"]
    await journal.outcome("t-3", "unknown")
    truth.read(journal.path)
    assert truth.unresolved() == ["t-3"]
    truth.resolve({"t-3"}, ["t-3"])
    assert list(truth.committed()) == A
    assert list(truth.rolled_back()) == B
    truth.failed_over({"t-1"}, ["t-1", "t-3"])
    assert list(truth.committed()) == A[:2]
    assert (truth.lost_events(), truth.unresolved()) == ({"a-3"}, [])
    await journal.close()
