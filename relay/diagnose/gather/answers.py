"""Hops 4 and 5: which of an order's returns answers which of its events: pure functions.

Invariant: a return answers the event named in its `ce_causationid`, else the order's oldest
unanswered one; every return is given to exactly one event.
"""

from collections.abc import Mapping, Sequence

from relay.diagnose.evidence.order import Place
from relay.diagnose.evidence.rows import EventRow, ReturnRow


def share_out(
    events: Sequence[EventRow], returns: Sequence[ReturnRow]
) -> dict[str, list[ReturnRow]]:
    """Give each return to the event it answers.

    Args:
        events: those of an order that expect a return, oldest first.
        returns: those of the order, in the order they came.
    """
    given: dict[str, list[ReturnRow]] = {event.event_id: [] for event in events}
    for row in returns:
        if row.causation_id in given:
            given[row.causation_id].append(row)
        elif events:
            given[_oldest_unanswered(events, given).event_id].append(row)
    return given


def in_question(
    events: Sequence[EventRow], given: Mapping[str, list[ReturnRow]], asked: str | None
) -> EventRow | None:
    """Choose the event to diagnose: the one asked about, the oldest unanswered, the newest."""
    if not events:
        return None
    chosen = next((event for event in events if event.event_id == asked), None)
    return chosen or _oldest_unanswered(events, given)


def _oldest_unanswered(
    events: Sequence[EventRow], given: Mapping[str, list[ReturnRow]]
) -> EventRow:
    open_ones = (event for event in events if not _answered(given[event.event_id]))
    return next(open_ones, events[-1])


def _answered(rows: Sequence[ReturnRow]) -> bool:
    return any(row.seen.place is Place.INBOX and row.seen.terminal for row in rows)
