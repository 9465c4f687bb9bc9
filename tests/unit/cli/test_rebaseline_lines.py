"""What `relay rebaseline` prints where somebody moved the checkpoint, and nothing was restored."""

from unittest.mock import Mock

import pytest

from relay.cli.rebaseline import _plan_lines
from relay.repair.baseline import Baseline
from relay.repair.later_records import LaterRecords
from relay.repair.rebaseline import Plan
from relay.repair.retained import RetainedRows

NEXT = "nothing was changed.  next  relay rebaseline --execute --reason WHY"


@pytest.mark.parametrize(("unpublished", "printed"), [(6, True), (0, False)])
def test_rows_that_were_passed_over_have_a_command(unpublished: int, printed: bool) -> None:
    rows = Mock(
        spec=RetainedRows, rows=20, published=14, settled=0, unpublished=unpublished, foreign=0,
        issued_twice=0, oldest_at=None, newest_at=None,
    )  # fmt: skip
    later = Mock(spec=LaterRecords, unreachable="not asked")
    own = Baseline(Mock(), (), None, {})
    lines = _plan_lines(Plan(own, rows, later))
    assert lines[0] == "the checkpoint is this database's own"
    assert (NEXT in lines) is printed
