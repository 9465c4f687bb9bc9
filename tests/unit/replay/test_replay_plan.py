"""What of a selection is sent again, and what is left alone."""

from datetime import UTC, datetime
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.cli.replay import command
from relay.diagnose.causes import MEANINGS, Cause
from relay.diagnose.verdicts import Verdict
from relay.replay.plan import EventRow, Judged, Skip, decide
from relay.replay.ramp import rate_after
from relay.replay.selection import Selection, SelectionError, read_orders

ADVISED = [
    (cause, line)
    for cause, row in MEANINGS.items()
    for line in row.next
    if line.startswith("relay replay")
]


def judged(verdict: str, cause: str = "some_cause", outbox_id: int | None = 1) -> Judged:
    return Judged("o-1", verdict, cause, "return", "e-1", outbox_id)


def row(outbox_id: int = 1, **more: Any) -> EventRow:
    return EventRow(outbox_id, "o-1", "order.placed", "orders.events", **more)


def reason_of(one: Judged, selection: Selection | None = None, **how: Any) -> Skip | None:
    rows = {1: row()} if "row" not in how else {1: how.pop("row")}
    plan = decide([one], rows, selection or Selection(), **how)
    if plan.skipped:
        assert (plan.count, plan.missing, plan.returns) == (0, [], [])
        return plan.skipped[0].reason
    return None


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        ("no_return", None),
        ("record_missing", None),
        ("return_incomplete", None),
        ("returned", Skip.RETURNED),
        ("in_flight", Skip.IN_FLIGHT),
        ("not_published", Skip.FLOWS),
        ("not_processed", Skip.FLOWS),
        ("not_confirmed", Skip.FLOWS),
        ("parked", Skip.PARKED),
        ("closed", Skip.CLOSED),
        ("no_such_order", Skip.NO_ORDER),
        ("no_outbox_row", Skip.NO_ROW),
        ("return_quarantined", Skip.RETURN_WAITS),
        ("unknown", Skip.UNKNOWN),
    ],
)
def test_only_what_is_lost_is_sent_by_default(verdict: str, reason: Skip | None) -> None:
    assert reason_of(judged(verdict)) is reason


@pytest.mark.parametrize("verdict", ["not_processed", "return_quarantined", "returned"])
def test_a_verdict_that_is_named_is_sent(verdict: str) -> None:
    assert reason_of(judged(verdict), Selection(verdicts=(verdict,))) is None
    assert reason_of(judged("no_return"), Selection(verdicts=(verdict,))) is Skip.NOT_SELECTED


@pytest.mark.parametrize("verdict", ["not_published", "parked", "no_such_order", "no_outbox_row"])
def test_what_the_relay_has_not_published_is_never_sent_by_a_replay(verdict: str) -> None:
    assert reason_of(judged(verdict), Selection(verdicts=(verdict,))) is not None


def test_a_return_that_can_never_be_applied_is_asked_for_again() -> None:
    assert reason_of(judged("return_quarantined", "return_malformed")) is None
    assert reason_of(judged("return_quarantined", "return_discarded")) is Skip.RETURN_WAITS


def test_a_return_that_the_consumer_went_past_is_given_to_it() -> None:
    plan = decide([judged("return_skipped", "offset_moved")], {1: row()}, Selection())
    assert (plan.returns, plan.count, plan.skipped) == (["o-1"], 0, [])
    assert reason_of(judged("return_skipped", "status_overwritten")) is Skip.SET_BACK


def test_missing_events_are_written_only_when_asked_to() -> None:
    plan = decide([judged("no_outbox_row", outbox_id=None)], {}, Selection(), write_missing=True)
    assert (plan.missing, plan.count, plan.skipped) == (["o-1"], 0, [])


def test_an_event_beside_unclaimed_ones_is_written_only_when_the_verdict_is_named_too() -> None:
    one = judged("unknown", "event_unclaimed", outbox_id=None)
    named = Selection(verdicts=("unknown",))
    for selection, write in ((Selection(), False), (Selection(), True), (named, False)):
        plan = decide([one], {}, selection, write_missing=write)
        assert (plan.missing, [it.reason for it in plan.skipped]) == ([], [Skip.UNCLAIMED])
        assert plan.skipped[0].next == "relay diagnose o-1"
    plan = decide([one], {}, named, write_missing=True)
    assert (plan.missing, plan.skipped) == (["o-1"], [])


def test_rows_say_no_too() -> None:
    lost = judged("no_return")
    assert reason_of(lost, row=row(replayed=True)) is Skip.REPLAYED
    assert reason_of(lost, row=row(replayed=True), again=True) is None
    assert reason_of(lost, row=row(selected=False)) is Skip.NOT_SELECTED
    assert reason_of(lost, row=row(in_replay="r-1")) is Skip.IN_REPLAY
    assert decide([lost], {}, Selection()).skipped[0].reason is Skip.DROPPED


def test_hops_narrow() -> None:
    assert reason_of(judged("no_return"), Selection(hops=("publish",))) is Skip.NOT_SELECTED
    assert reason_of(judged("no_return"), Selection(hops=("return",))) is None


@given(st.lists(st.tuples(st.sampled_from(list(Verdict)), st.booleans()), max_size=50))
def test_every_order_is_sent_or_counted_as_left_alone(found: list[tuple[Verdict, bool]]) -> None:
    orders = [
        Judged(f"o-{number}", str(verdict), "x", None, None, number)
        for number, (verdict, _) in enumerate(found)
    ]
    rows = {
        number: EventRow(number, f"o-{number}", "order.placed", "t", newer=newer)
        for number, (_, newer) in enumerate(found)
    }
    plan = decide(orders, rows, Selection())
    left = sum(one.count for one in plan.skipped)
    assert left + plan.count + len(plan.missing) + len(plan.returns) == len(orders)
    assert plan.outbox_ids == sorted(set(plan.outbox_ids))
    assert sum(plan.kinds.values()) == plan.count >= max(plan.twice, plan.behind)


@pytest.mark.parametrize(
    ("verdict", "cause", "hop", "twice"),
    [
        ("no_return", "return_never_sent", "return", 1),
        ("no_return", "offsets_skipped", "return", 0),
        ("return_quarantined", "return_malformed", "confirm", 1),
        ("record_missing", "records_deleted", "publish", 0),
        ("not_processed", "group_replaced", "process", 0),
        ("not_published", "sent_to_other_topic", "publish", 0),
    ],
)
def test_only_what_the_processor_came_to_is_seen_twice(
    verdict: str, cause: str, hop: str, twice: int
) -> None:
    one = Judged("o", verdict, cause, hop, "e", 1)
    plan = decide([one], {1: EventRow(1, "o", "order.placed", "t")}, Selection())
    assert (plan.count, plan.twice) == (1, twice)


@pytest.mark.parametrize(
    "text",
    [
        '{"orders": [{"order_id": "a", "event_id": "e", "verdict": "no_return"}], "by_hop": {}}',
        '[{"order_id": "a", "event_id": "e"}]',
        '{"order_id": "a", "event_id": "e"}',
        '{"order_id": "a", "event_id": "e"}\n\n',
    ],
)
def test_orders_are_read_from_what_other_commands_print(text: str) -> None:
    assert list(read_orders(text)) == [("a", "e")]


def test_orders_are_read_from_lines() -> None:
    assert list(read_orders(" a \n\nb\n")) == [("a", None), ("b", None)]
    assert list(read_orders('{"order_id": "a"}\n{"order_id": "b"}')) == [("a", None), ("b", None)]
    assert list(read_orders("")) == []
    assert list(read_orders('{"orders": []}')) == []


@pytest.mark.parametrize("text", ['{"orders": 1}', "[1]", '{"order_id": ""}', "{", "x" * 2000])
def test_what_is_no_list_of_orders_is_refused(text: str) -> None:
    with pytest.raises(SelectionError):
        list(read_orders(text))


def test_the_rate_doubles_and_stops_at_its_limit() -> None:
    assert [rate_after(second, 200) for second in range(7)] == [10, 20, 40, 80, 160, 200, 200]
    assert rate_after(0, 3) == 3
    assert rate_after(1e9, 200) == 200


def test_a_selection_is_stored_without_what_was_not_asked_for() -> None:
    assert Selection().empty
    since = datetime(2026, 1, 1, tzinfo=UTC)
    assert Selection(orders=("a",), since=since).as_data() == {"orders": ("a",), "since": since}


def parsed(line: str) -> click.Context:
    words = line.split()
    assert words[:2] == ["relay", "replay"]
    if words[2] in command.commands:
        inner = command.commands[words[2]]
        return inner.make_context(words[2], words[3:], obj={"json": False, "config": None})
    return command.make_context("relay replay", words[2:], obj={"json": False, "config": None})


@pytest.mark.parametrize(("cause", "line"), ADVISED)
def test_the_replays_that_a_diagnosis_advises_can_be_run_and_help(cause: Cause, line: str) -> None:
    ctx = parsed(line.format(order="o-1", twin="o-2"))
    assert ctx.params["orders"] == ("o-1",)
    if ctx.command.name == "returns":
        return
    asked = Selection(verdicts=ctx.params["verdicts"])
    write = ctx.params["write_missing"]
    reasons = {
        reason_of(judged(str(verdict), str(cause)), asked, write_missing=write)
        for verdict in MEANINGS[cause].verdicts
    }
    assert None in reasons


def test_what_was_discarded_is_published_when_somebody_says_so() -> None:
    discarded = judged("parked", "discarded_by_hand")
    assert reason_of(discarded) is Skip.PARKED
    assert reason_of(discarded, Selection(verdicts=("parked",))) is None
