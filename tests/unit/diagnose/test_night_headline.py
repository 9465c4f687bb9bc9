"""The state of the night in one sentence: the worst first, and never "none" where nobody looks."""

from datetime import UTC, datetime, timedelta

from relay.diagnose.report.night import headline
from relay.diagnose.verdicts import Fate
from relay.diagnose.watch.case_pages import CaseKind
from relay.diagnose.watch.looked import Looked

NOW = datetime(2026, 11, 1, 3, tzinfo=UTC)
LOOKED = Looked(NOW, None)


def kind(verdict: str, cause: str, count: int, newest_minutes: float) -> CaseKind:
    newest = NOW - timedelta(minutes=newest_minutes)
    return CaseKind("return", verdict, cause, count, newest - timedelta(hours=1), newest)


def test_lost_orders_are_said_before_more_delayed_ones() -> None:
    kinds = [
        kind("not_published", "relay_down", 900, 1),
        kind("no_return", "offsets_skipped", 10, 60),
        kind("no_return", "return_never_sent", 2, 60),
    ]
    said = headline(kinds, LOOKED, NOW, 900.0)
    assert (said.fate, said.orders, said.kinds) == (Fate.LOST, 12, 2)
    assert said.kind is kinds[1]
    assert said.growing is False


def test_it_grows_while_orders_that_are_just_overdue_join() -> None:
    just_overdue = [kind("no_return", "offsets_skipped", 10, 15.5)]
    assert headline(just_overdue, LOOKED, NOW, 900.0).growing is True
    assert headline(just_overdue, None, NOW, 900.0).growing is None


def test_none_is_said_only_where_somebody_looks() -> None:
    assert headline([], LOOKED, NOW, 900.0).fate is Fate.FINE
    assert headline([], Looked(None, "no watchdog"), NOW, 900.0).fate is Fate.UNKNOWN
    assert headline([], None, NOW, 900.0).fate is Fate.UNKNOWN
