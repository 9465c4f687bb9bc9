"""What was sent and cannot be read back counts for the orders it stands around, and no others."""

from relay.diagnose.evidence.order import Moment
from relay.diagnose.gather.deleted_rows import _with_unread


def test_a_vanished_row_accuses_nobody_far_from_it() -> None:
    found = _with_unread(
        {"near": Moment(), "far": Moment()}, {"near": (7, 8), "far": (90,)}, unread={8}
    )
    assert (found["near"].sent_count, found["far"].sent_count) == (1, 0)
