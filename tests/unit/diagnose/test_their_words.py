"""Words that other programs wrote are translated into no language, however they are spelled."""

from dataclasses import replace

import pytest

from relay.diagnose.report.explain import diagnose
from relay.diagnose.verdicts import Hop
from relay.runtime.language import in_language
from tests.unit.diagnose.test_diagnose_decide import EVENT, LOST, REFUSED, UNSENT, OrderSeen

CASE = replace(LOST, event=replace(EVENT, event_id="01a22d06-0b22-72e9-850b-7513c9e320cf"))


@pytest.mark.parametrize("status", ["returned", "closed", "lost", "held", "none", "unknown"])
def test_a_shops_status_that_is_spelled_like_a_word_of_ours_stays(status: str) -> None:
    order = OrderSeen(status, terminal=False, submitted_at=None)
    told = diagnose(replace(UNSENT, event=None, order=order))
    line = told.lines[0]
    assert line.text.startswith(f"order is {status}")
    shown = in_language("zh", line.text, line.theirs)
    assert shown.startswith(f"订单状态为 {status}")


def test_an_error_of_others_stays_word_by_word() -> None:
    theirs = "P0001 RaiseError; gone: held, unknown; permission denied for table orders"
    refused = replace(REFUSED, reason="apply_failed", detail=theirs)
    line = diagnose(replace(CASE, returns=(refused,))).lines[Hop.CONFIRM.number - 1]
    assert theirs in line.text
    shown = in_language("zh", line.text, line.theirs)
    assert theirs in shown
    assert shown != line.text  # what is ours is told
