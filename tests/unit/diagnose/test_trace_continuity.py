"""Whether an order is one trace: decided from what the row, the record and the return carry."""

from uuid import UUID

import pytest

from relay.diagnose.status.traces import Answered, Traces, compare
from relay.telemetry.continuity import Continuity, continuity, stored_trace, trace_of

TRACE, OTHER = "1" * 32, "2" * 32
EVENT = UUID("0190a0c1-0000-7000-8000-0000000000aa")


def header(trace_id: str) -> str:
    return f"00-{trace_id}-{'3' * 16}-01"


@pytest.mark.parametrize(
    ("returned", "record", "expected"),
    [
        (TRACE, TRACE, Continuity.WHOLE),
        (TRACE, None, Continuity.WHOLE),
        (OTHER, TRACE, Continuity.RETURN_OTHER),
        (None, TRACE, Continuity.RETURN_WITHOUT),
        (TRACE, OTHER, Continuity.RECORD_BREAKS),
        (TRACE, "", Continuity.RECORD_BREAKS),
        # The first break is the one to mend: the return could not know better.
        (OTHER, OTHER, Continuity.RECORD_BREAKS),
        (None, "", Continuity.RECORD_BREAKS),
    ],
)
def test_where_a_trace_breaks(
    returned: str | None, record: str | None, expected: Continuity
) -> None:
    assert continuity(TRACE, returned, record) is expected


def test_spans_differ_and_traces_may_not() -> None:
    assert stored_trace(header(TRACE), EVENT) == trace_of(f"00-{TRACE}-{'9' * 16}-00") == TRACE


@pytest.mark.parametrize("given", [None, "", "nonsense", header("0" * 32)])
def test_a_row_without_a_context_has_the_one_that_the_relay_derives(given: str | None) -> None:
    assert stored_trace(given, EVENT) == EVENT.hex
    assert trace_of(given) is None


def test_an_order_is_as_good_as_its_worst_return() -> None:
    at = (("orders.events", 0), 7)
    found = compare(
        [
            Answered("a", "e", TRACE, TRACE, at),
            Answered("a", "e", TRACE, OTHER, at),
            Answered("b", "e", TRACE, TRACE, at),
            Answered("c", "e", TRACE, None, at),
            Answered("d", "e", TRACE, TRACE, None),
        ],
        {(at, "e"): TRACE},
    )
    assert found.orders == 4
    assert found.breaks == {Continuity.RETURN_OTHER: 1, Continuity.RETURN_WITHOUT: 1}
    assert (found.whole, found.share, found.unread) == (2, 0.5, 1)


def test_nothing_compared_is_no_share() -> None:
    assert Traces(0, {}).share is None
