from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from uuid import RFC_4122, UUID

import orjson
import pytest

from relay.sample.processor.decision import Answer, Event, decide, read_event
from relay.sample.processor.delay import HeldBack
from relay.sample.processor.faults import Befallen, Fault, FaultPlan, FaultRule
from relay.sample.processor.journal import FaultJournal, FaultLine
from relay.sample.processor.options import FaultOptions, ProcessorOptions
from relay.sample.processor.return_maker import Maker, Return, corrupted, new_id
from relay.sample.processor.work import Page, Worker

NOW = "2026-01-31T12:34:57.001002+00:00"


@dataclass(frozen=True)
class Record:
    key: bytes | None = b"order-1"
    value: bytes | None = b'{"total": "10.00"}'
    headers: tuple[tuple[str, bytes], ...] = (("ce_id", b"e-1"), ("ce_type", b"order.placed"))
    topic: str = "orders.events"
    partition: int = 0
    offset: int = 0


@dataclass
class CountedContexts:
    made: int = 0
    passed: list[bytes | None] = field(default_factory=list)

    def of_events(self, events: list[Event]) -> list[bytes | None]:
        return [None] * len(events)

    def of_return(self, event: Event, identity: bytes | None) -> tuple[bytes | None, None]:
        self.made += 1
        return event.traceparent, None


def work(
    records: list[Record], *, options: ProcessorOptions | None = None, **rules: FaultRule
) -> Page:
    by_fault = {Fault(name): rule for name, rule in rules.items()}
    options = options or ProcessorOptions(faults=FaultOptions(by_fault))
    worker = Worker(options, FaultPlan(by_fault), CountedContexts(), {"order.placed"})
    return worker.work(records, Maker(b"/test", NOW))


def statuses(page: Page) -> list[str]:
    return [orjson.loads(one.value)["status"] for one in page.returns]


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (b'{"total": "10.00"}', "confirmed"),
        (b'{"total": "10000"}', "confirmed"),
        (b'{"total": "10000.01"}', "rejected"),
        (b'{"total": 1e30}', "rejected"),
        (b'{"total": "NaN"}', "confirmed"),
        (b'{"total": "Infinity"}', "confirmed"),
        (b'{"total": true}', "confirmed"),
        (b'{"total": {"a": 1}}', "confirmed"),
        (b"[1, 2]", "confirmed"),
        (b"null", "confirmed"),
        (b"", "rejected"),
        (b"\xff\xfe", "rejected"),
        (b"[" * 5000, "rejected"),
    ],
)
def test_every_payload_gets_an_answer(payload: bytes, status: str) -> None:
    answers = decide(payload, reject_above=Decimal(10_000), processing_first=False)
    assert [answer.status for answer in answers] == [status]


def test_processing_goes_first_when_asked() -> None:
    answers = decide(b"{}", reject_above=Decimal(1), processing_first=True)
    assert answers == (Answer("processing"), Answer("confirmed"))


def test_an_event_is_read_from_key_and_headers() -> None:
    headers = (
        ("ce_id", b"e"),
        ("ce_type", b"order.placed"),
        ("traceparent", b"t"),
        ("tracestate", b"s"),
        ("replay_id", b"r"),
    )
    event = read_event(Record(headers=headers))
    assert event == Event(b"order-1", "e", "order.placed", Record.value or b"", b"t", b"s", True)
    assert read_event(Record(key=None)) is None
    by_subject = read_event(Record(key=None, headers=(("ce_subject", b"order-2"),)))
    assert by_subject is not None
    assert by_subject.order_id == "order-2"


def test_a_return_names_its_event_and_its_order() -> None:
    (one,) = work([Record(headers=(*Record.headers, ("traceparent", b"t")))]).returns
    headers = dict(one.headers)
    assert one.key == b"order-1"
    assert orjson.loads(one.value) == {
        "order_id": "order-1",
        "status": "confirmed",
        "returned_at": NOW,
    }
    assert len(headers.pop("ce_id")) == 36
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_source": b"/test",
        "ce_type": b"order.returned",
        "ce_subject": b"order-1",
        "ce_time": NOW.encode(),
        "ce_dataschema": b"urn:outbox-relay:schema:order.returned",
        "content-type": b"application/json",
        "ce_causationid": b"e-1",
        "traceparent": b"t",
    }


def test_events_that_expect_no_return_get_none() -> None:
    cancelled = Record(headers=(("ce_type", b"order.cancelled"),))
    page = work([cancelled, Record(key=None, headers=()), Record(headers=(), offset=7)])
    assert (page.ignored, len(page.returns), page.next_offset) == (2, 1, 8)


def test_lose_processes_and_sends_nothing() -> None:
    page = work([Record()], lose=FaultRule(rate=1))
    assert (len(page.taken), page.returns, len(page.lines)) == (1, [], 1)


def test_skip_does_not_even_process() -> None:
    page = work([Record()], skip=FaultRule(rate=1))
    assert (page.taken, page.returns, page.next_offset, len(page.lines)) == ([], [], 1, 1)


def test_delay_holds_back() -> None:
    page = work([Record()], delay=FaultRule(rate=1))
    assert (len(page.returns), len(page.delayed)) == (0, 1)


def test_duplicate_is_the_same_record_twice() -> None:
    first, second = work([Record()], duplicate=FaultRule(rate=1)).returns
    assert first == second


def test_reorder_sends_the_terminal_return_first() -> None:
    assert statuses(work([Record()], reorder=FaultRule(rate=1))) == ["confirmed", "processing"]


def test_conflict_contradicts_afterwards_under_another_id() -> None:
    page = work([Record()], conflict=FaultRule(rate=1))
    assert statuses(page) == ["confirmed", "rejected"]
    first, second = page.returns
    assert dict(first.headers)["ce_id"] != dict(second.headers)["ce_id"]


def test_corrupt_is_told_by_the_bytes() -> None:
    (one,) = work([Record()], corrupt=FaultRule(rate=1)).returns
    try:
        status = orjson.loads(one.value).get("status")
    except orjson.JSONDecodeError:
        return
    assert status not in ("processing", "confirmed", "rejected")


@pytest.mark.parametrize("how", ["truncated", "not_json", "no_status", "unknown_status"])
def test_no_corruption_leaves_an_applicable_return(how: str) -> None:
    whole = Return(b"k", b'{"order_id":"k","status":"confirmed","returned_at":"x"}', [])
    broken = corrupted(whole, how)  # type: ignore[arg-type]
    assert broken.value != whole.value
    try:
        value = orjson.loads(broken.value)
    except orjson.JSONDecodeError:
        assert how in ("truncated", "not_json")
    else:
        assert value.get("status") in ((None,) if how == "no_status" else ("unconfirmed",))


def test_any_corruption_comes_in_all_kinds() -> None:
    whole = [Return(bytes([65 + n]), b'{"status":"confirmed","at":1}', []) for n in range(8)]
    assert len({corrupted(one, "any").value for one in whole}) >= 4


def test_a_replayed_event_is_spared_unless_asked() -> None:
    replayed = Record(headers=(*Record.headers, ("replay_id", b"r")))
    assert len(work([replayed], lose=FaultRule(rate=1)).returns) == 1
    rules = {Fault.LOSE: FaultRule(rate=1)}
    too = ProcessorOptions(faults=FaultOptions(rules, on_replays=True))
    assert work([replayed], options=too, lose=FaultRule(rate=1)).returns == []


def line(event_id: str, fault: Fault = Fault.LOSE) -> FaultLine:
    return FaultLine(Befallen(fault, "count"), "order-1", event_id, "orders.events", 0, 5)


def test_the_journal_says_what_was_done_to_whom_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with FaultJournal(path) as journal:
        journal.write([line("1"), line("2")])
        journal.write([line("2"), line("2", Fault.DELAY)])
        assert journal.counts == {Fault.LOSE: 2, Fault.DELAY: 1}
    written = [orjson.loads(one) for one in path.read_bytes().splitlines()]
    assert [(one["event_id"], one["fault"]) for one in written] == [
        ("1", "lose"),
        ("2", "lose"),
        ("2", "delay"),
    ]
    assert written[0] | {"at": None} == {
        "at": None,
        "fault": "lose",
        "by": "count",
        "order_id": "order-1",
        "event_id": "1",
        "topic": "orders.events",
        "partition": 0,
        "offset": 5,
    }


def test_a_journal_cut_by_a_crash_is_read_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(line("1").as_json() + line("2").as_json()[:20])
    with FaultJournal(path) as journal:
        assert list(journal.recall()) == [("1", Befallen(Fault.LOSE, "count"))]
        journal.write([line("1"), line("3")])
    with FaultJournal(path) as journal:
        assert [event for event, _ in journal.recall()] == ["1", "3"]


def test_held_back_returns_stay_until_they_are_sent() -> None:
    held = HeldBack()
    one, two = Return(b"1", b"", []), Return(b"2", b"", [])
    held.hold(10.0, [one])
    held.hold(12.0, [two])
    assert held.due(9.9) == []
    assert held.due(10.0) == held.due(11.0) == [one]
    assert held.wait_seconds(9.5, at_most=5.0) == 0.5
    held.sent(1)
    assert held.everything() == [two]
    held.sent(1)
    assert held.wait_seconds(0.0, at_most=5.0) == 5.0


def test_ids_are_uuids_of_version_4() -> None:
    made = [UUID(new_id().decode()) for _ in range(100)]
    assert {(one.version, one.variant) for one in made} == {(4, RFC_4122)}
    assert len(set(made)) == 100
