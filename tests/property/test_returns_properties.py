"""Hop 5's decisions against models: any bytes, any order of returns."""

import json
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from relay.consumers.returns.fold import Outcome, Statuses, fold
from relay.consumers.returns.identity import contested, identities, sort_copies
from relay.consumers.returns.packing import storable
from relay.consumers.returns.reader import Return, ReturnReader
from relay.consumers.returns.refusals import Refusal
from relay.consumers.returns.stored_record import read_stored, recorded_ms, stored_headers
from relay.runtime.flow import Flow

FLOW = Flow()
STATUSES = Statuses(FLOW.status_ranks, FLOW.terminal_statuses)
WORDS = [*FLOW.status_ranks]


class Record(NamedTuple):
    value: bytes | None
    key: bytes | None = None
    headers: tuple = ()
    topic: str = "t"
    partition: int = 0
    offset: int = 0
    timestamp: int = 0


HEADER_NAMES = st.sampled_from(
    ["ce_id", "ce_source", "ce_subject", "ce_causationid", "traceparent", "tracestate", "x"]
)
HEADERS = st.lists(st.tuples(HEADER_NAMES, st.none() | st.binary(max_size=40)), max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(
    st.sampled_from(["order_id", "status", "reason"]),
    JSON | st.sampled_from(WORDS) | st.uuids().map(str),
)
VALUES = st.none() | st.binary(max_size=60) | FIELDS.map(lambda one: json.dumps(one).encode())
RECORDS = st.builds(
    Record,
    value=VALUES,
    key=st.none() | st.binary(max_size=40) | st.uuids().map(lambda one: str(one).encode()),
    headers=HEADERS.map(tuple),
    offset=st.integers(0, 2**62),
    timestamp=st.integers(-(2**63), 2**63 - 1),
)


@given(RECORDS)
def test_anything_is_read_or_refused_and_what_is_read_can_be_stored(record):
    found = ReturnReader(FLOW).read(record)
    if isinstance(found, Refusal):
        assert found.detail
        return
    assert found.status in FLOW.status_ranks
    texts = [found.order_id, found.reason, found.own_identity, found.causation_id]
    assert all(storable(text) for text in [*texts, found.traceparent] if text is not None)


@given(RECORDS)
def test_what_is_stored_comes_back_the_same(record):
    row = {
        "topic": record.topic,
        "partition": record.partition,
        "record_offset": record.offset,
        "record_key": record.key,
        "record_value": record.value,
        "record_headers": stored_headers(record),
        "recorded_ms": recorded_ms(record),
    }
    stored = read_stored(row)
    assert (stored.key, stored.value) == (record.key, record.value)
    assert list(stored.headers) == list(record.headers)
    assert 0 <= stored.timestamp <= 253_402_300_799_000


def returned(number, status, identity, content):
    record = Record(b"", offset=number)
    return Return(record, "o", status, str(number), identity, content, None, None, None)


RETURNS = st.lists(
    st.tuples(
        st.sampled_from(WORDS),
        st.none() | st.sampled_from(["/p/1", "/p/2", "/p/3"]),
        st.sampled_from([b"a", b"b"]),
    ),
    max_size=12,
).map(lambda rows: [returned(number, *row) for number, row in enumerate(rows)])


def one_by_one(current, returns):
    """The rule, said the slow way."""
    changes, kept, refused = [], [], []
    for one in returns:
        new = one.status
        terminal = current in FLOW.terminal_statuses
        if terminal and new in FLOW.terminal_statuses and new != current:
            refused.append(one)
        elif FLOW.status_ranks[new] > FLOW.status_ranks[current]:
            changes.append((current, new))
            current = new
        else:
            kept.append(one)
    return current, changes, kept, refused


@given(st.sampled_from(WORDS), RETURNS)
def test_folding_is_the_same_as_one_by_one(current, returns):
    status, changes, kept, refused = one_by_one(current, returns)
    steps, refusals = [], []
    change = fold(
        STATUSES, current, [(str(n), one) for n, one in enumerate(returns)], steps, refusals
    )
    applied = [step for step in steps if step.outcome is Outcome.APPLIED]
    assert [(step.old_status, step.new_status) for step in applied] == changes
    assert [s.returned for s in steps if s.outcome is Outcome.NO_CHANGE] == kept
    assert [one.record for one in refusals] == [one.record for one in refused]
    assert len(steps) + len(refusals) == len(returns)
    if change is None:
        assert not changes
    else:
        assert change.changes == len(changes)
        assert steps[change.last_step] is applied[-1]
        assert applied[-1].new_status == status


@given(RETURNS, st.dictionaries(st.sampled_from(["/p/1", "/p/2", "t-0-3"]), st.just(b"a")))
def test_only_true_copies_are_dropped_and_every_identity_is_used_once(returns, known):
    found = sort_copies(returns, known, "topic")
    names = [name for name, _ in found.fresh]
    assert len(set(names)) == len(names)
    assert not set(names) & known.keys()
    everything = [one for _, one in found.fresh] + found.copies
    assert sorted(one.record.offset for one in everything) == list(range(len(returns)))
    by_name = {**known, **{name: one.content for name, one in found.fresh}}
    for copy in found.copies:
        assert copy.content in {by_name.get(name) for name in identities(copy, "topic")}
    assert [one.record.offset for _, one in found.fresh] == sorted(
        one.record.offset for _, one in found.fresh
    )


@given(RETURNS, st.dictionaries(st.sampled_from(["/p/1", "/p/2", "t-0-3"]), st.just(b"a")))
def test_whoever_needs_a_second_identity_is_contested(returns, known):
    disputed = {one.record.offset for one in contested(returns, known)}
    for name, one in sort_copies(returns, known, "topic").fresh:
        if name != (one.own_identity or one.position):
            assert one.record.offset in disputed
