"""Is a cause gone: said only with later orders that are due, of which none is missing."""

from datetime import UTC, datetime, timedelta

import pytest

from relay.diagnose.incidents.aftermath import (
    DELAYED,
    NO_DISCARD,
    NO_REPLAY_HELD,
    NO_RESET,
    NO_STATUS,
    TOO_EARLY,
    Gone,
    decide_aftermath,
    due_stretch,
    expected_effect,
    must_not,
)
from relay.diagnose.status.minutes import Bucket, Minutes
from relay.replay.plan import is_replayed

AT = datetime(2026, 11, 22, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def later(*buckets: tuple[int, dict[str, int]], whole: bool = True) -> Minutes:
    made = tuple(Bucket(AT, placed, stuck, stuck) for placed, stuck in buckets)
    return Minutes(AT, AT + HOUR, made, exact=True, whole=whole)


@pytest.mark.parametrize(
    ("minutes", "gone", "due", "missing"),
    [
        (later((10, {}), (5, {})), Gone.YES, 15, 0),
        (later((10, {}), (5, {"return": 2})), Gone.NO, 15, 2),
        (later((10, {"place": 3})), Gone.YES, 10, 0),  # another hop's is another incident
        (later((0, {})), Gone.UNPROVEN, 0, 0),
        (later((10, {}), whole=False), Gone.UNPROVEN, 10, 0),  # not all cases were counted
        (None, Gone.UNPROVEN, 0, 0),
    ],
)
def test_gone_is_said_with_a_proof(minutes, gone, due, missing) -> None:
    found = decide_aftermath("return", AT, minutes)
    assert (found.gone, found.due, found.missing) == (gone, due, missing)


def test_only_orders_that_were_due_when_somebody_looked_prove_something() -> None:
    assert due_stretch(AT, AT + timedelta(minutes=10), 900, HOUR) is None
    start, end = due_stretch(AT, AT + timedelta(minutes=20), 900, HOUR)
    assert AT < start < end == AT + timedelta(minutes=5)
    start, end = due_stretch(AT, AT + 5 * HOUR, 900, HOUR)
    assert end - start == HOUR  # so much is read at most


def test_what_must_not_be_done() -> None:
    skipped = ("return", "no_return", "offsets_skipped")
    assert must_not(*skipped, Gone.UNPROVEN, is_replayed=True) == (TOO_EARLY, NO_RESET, NO_STATUS)
    assert must_not(*skipped, Gone.YES, is_replayed=True) == (NO_RESET, NO_STATUS)
    delayed = ("confirm", "not_confirmed", "permission_denied")
    assert must_not(*delayed, Gone.NO, is_replayed=False) == (DELAYED, NO_STATUS)
    held = ("confirm", "return_quarantined", "return_unknown_status")
    assert not is_replayed(*held[1:])
    assert must_not(*held, Gone.NO, is_replayed=False) == (NO_REPLAY_HELD, NO_DISCARD, NO_STATUS)
    useless = ("confirm", "return_quarantined", "return_malformed")
    assert is_replayed(*useless[1:])  # only another return helps
    assert NO_REPLAY_HELD not in must_not(*useless, Gone.NO, is_replayed=True)
    assert is_replayed(*skipped[1:])
    assert not is_replayed("lost_in_space", "x")
    assert is_replayed("no_outbox_row", "outbox_bypassed")
    assert not is_replayed(*delayed[1:])


def test_the_expected_effect_counts_every_order_once() -> None:
    effect = expected_effect({"lost": 24, "returned late": 30, "closed by hand": 2})
    assert (effect.sent, effect.left) == (24, 32)
