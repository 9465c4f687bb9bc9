"""What can no longer be replayed, told by range."""

from datetime import UTC, datetime, timedelta

from relay.cli.quarantine_text import gone_lines
from relay.repair.gone import Gone, joined

DAY = datetime(2026, 1, 1, tzinfo=UTC)


def day(number: int, ids: tuple[int, int] | None, rows: int, kept: int = 0) -> Gone:
    start = DAY + timedelta(days=number)
    first, last = ids or (None, None)
    return Gone(False, start, start + timedelta(days=1), first, last, rows, kept)


def test_days_that_follow_one_another_are_one_range() -> None:
    days = [day(0, (1, 9), 9, 1), day(1, None, 0), day(2, (10, 12), 3, 2), day(5, (20, 21), 2)]
    first, second = joined(days)
    assert (first.from_at, first.to_at) == (DAY, DAY + timedelta(days=3))
    assert (first.first_id, first.last_id, first.rows, first.kept) == (1, 12, 12, 3)
    assert second == days[3]


def test_kept_rows_are_told_apart() -> None:
    kept = Gone(True, DAY, DAY + timedelta(days=1), 3, 4, 2, 0)
    assert len(joined([day(0, (1, 9), 9), kept])) == 2
    text = "\n".join(gone_lines([day(0, (1, 9), 9, 2), kept]))
    assert (
        "9  rows of 2026-01-01 to 2026-01-02, outbox ids 1-9; 2 of stuck orders were kept" in text
    )
    assert "kept rows of stuck orders" in text
    assert gone_lines([]) == []
