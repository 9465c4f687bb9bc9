"""Decides what of a selection is sent again, and says why the rest is not.

Invariant: pure; every selected order is either sent or counted as skipped under one reason, with
the command that helps it. By default only what is lost, and what another return would mend, is
sent: what flows by itself would only be duplicated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from relay.diagnose.causes import Cause
from relay.diagnose.verdicts import Hop, Verdict
from relay.replay.selection import Selection
from relay.runtime.command_line import command


class Skip(StrEnum):
    """Why an order is not sent again."""

    RETURNED = "already_returned"
    IN_FLIGHT = "in_flight"
    FLOWS = "flows_by_itself"
    REPLAYED = "replayed_before"
    IN_REPLAY = "in_another_replay"
    DROPPED = "dropped_partition"
    PARKED = "parked"
    CLOSED = "closed"
    UNKNOWN = "unknown"
    UNCLAIMED = "event_unclaimed"
    NO_ORDER = "no_such_order"
    NO_ROW = "no_outbox_row"
    RETURN_WAITS = "return_waits"
    SET_BACK = "set_back_by_hand"
    NOT_SELECTED = "not_selected"


# What helps an order that is not sent; {order} and {replay} are put in.
HELP: Final[Mapping[Skip, str]] = {
    Skip.IN_FLIGHT: "relay diagnose {order}",
    Skip.FLOWS: "relay status",
    Skip.REPLAYED: "relay replay --order {order} --again",
    Skip.IN_REPLAY: "relay replay resume {replay}",
    Skip.PARKED: "relay quarantine list --order {order}",
    Skip.UNKNOWN: "relay diagnose {order} --scan-seconds 600",
    # What it prints is needed to decide, and it has a command for each decision.
    Skip.UNCLAIMED: "relay diagnose {order}",
    Skip.NO_ORDER: "relay diagnose {order}",
    Skip.NO_ROW: "relay replay --order {order} --write-missing",
    Skip.RETURN_WAITS: "relay quarantine list --order {order}",
    Skip.SET_BACK: "relay diagnose {order}",
}

_BY_VERDICT: Final[Mapping[Verdict, Skip]] = {
    Verdict.RETURNED: Skip.RETURNED,
    Verdict.IN_FLIGHT: Skip.IN_FLIGHT,
    Verdict.CLOSED: Skip.CLOSED,
    Verdict.NO_SUCH_ORDER: Skip.NO_ORDER,
    Verdict.NO_OUTBOX_ROW: Skip.NO_ROW,
    Verdict.NOT_PUBLISHED: Skip.FLOWS,
    Verdict.NOT_PROCESSED: Skip.FLOWS,
    Verdict.NOT_CONFIRMED: Skip.FLOWS,
    Verdict.PARKED: Skip.PARKED,
    Verdict.RETURN_QUARANTINED: Skip.RETURN_WAITS,
    Verdict.RETURN_SKIPPED: Skip.RETURN_WAITS,
}

LOST: Final = frozenset({Verdict.NO_RETURN, Verdict.RECORD_MISSING, Verdict.RETURN_INCOMPLETE})
# Their return came and can never be applied: only another one helps.
_USELESS_RETURN: Final = frozenset(
    {Cause.RETURN_MALFORMED, Cause.RETURN_UNKNOWN_ORDER, Cause.RETURN_MISNAMED}
)
# Published, and read by nobody: on another topic, or between two groups.
_ASTRAY: Final = frozenset({Cause.SENT_TO_OTHER_TOPIC, Cause.GROUP_REPLACED})
# Their return is there, and the consumer only went past it.
_PASSED_RETURN: Final = frozenset({Cause.OFFSET_GAP, Cause.OFFSET_MOVED})
# Never by a replay: the relay publishes them first, or there is nothing to publish.
NEVER: Final = frozenset(
    {Verdict.NO_SUCH_ORDER, Verdict.NO_OUTBOX_ROW, Verdict.NOT_PUBLISHED, Verdict.PARKED}
)

EXAMPLES: Final = 10


@dataclass(frozen=True, slots=True)
class Judged:
    """An order with its diagnosis; `event_id` and `outbox_id` where its event is known.

    Attributes:
        dropped: its event left with its day's partition.
        deleted: its event's row was deleted; Kafka alone proves that it was there.
    """

    order_id: str
    verdict: Verdict
    cause: Cause
    hop: Hop | None = None
    event_id: str | None = None
    outbox_id: int | None = None
    dropped: bool = False
    deleted: bool = False

    @property
    def rowless(self) -> bool:
        """Whether it has no event, or none that is known to be its own."""
        return self.verdict == Verdict.NO_OUTBOX_ROW or self.cause == Cause.EVENT_UNCLAIMED

    @property
    def processed(self) -> bool:
        """Whether the processor has seen its event, as far as the diagnosis proves that."""
        came_past = self.verdict == "returned" or self.hop in ("return", "confirm")
        return came_past and self.cause != "offsets_skipped"


@dataclass(frozen=True, slots=True)
class EventRow:
    """A selected event's row, as it stands in the outbox or among what was kept.

    Attributes:
        selected: it meets the conditions on events.
        newer: a newer event of its order was published.
        replayed: it went to the same topic again before.
        in_replay: the replay under way that holds it.
    """

    outbox_id: int
    order_id: str
    event_type: str
    topic: str | None
    selected: bool = True
    newer: bool = False
    replayed: bool = False
    in_replay: str | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """Orders that are not sent, for one reason."""

    reason: Skip
    count: int
    examples: tuple[str, ...]
    next: str | None = None

    def as_data(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "reason": str(self.reason),
            "count": self.count,
            "examples": list(self.examples),
            "next": self.next,
        }


@dataclass(frozen=True, slots=True)
class Kind:
    """Events that are sent for the same reason."""

    hop: Hop | None
    verdict: Verdict
    cause: Cause


@dataclass(slots=True)
class Plan:
    """What would be sent.

    Attributes:
        count: events.
        kinds: how many of which kind.
        topics: how many to which topic.
        skipped: what is not sent.
        outbox_ids: the events, ascending; left out of the data (they have a table).
        missing: orders whose event was never written and is, before the replay begins.
        returns: orders whose return is on Kafka, and is given to the consumer once more.
        twice: events that the processor has seen before, and sees once more.
        behind: events that go out after a newer one of the same order.
        gone: ranges whose rows were dropped.
        mended: what is known of the cause now.
        cut_at: so many orders were looked at, and more are overdue; None: all were.
    """

    count: int = 0
    kinds: Counter[Kind] = field(default_factory=Counter)
    topics: Counter[str] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)
    outbox_ids: list[int] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    returns: list[str] = field(default_factory=list)
    twice: int = 0
    behind: int = 0
    gone: list[dict[str, Any]] = field(default_factory=list)
    mended: dict[str, Any] = field(default_factory=dict)
    cut_at: int | None = None

    def as_data(self) -> dict[str, Any]:
        """Return it for JSON and for the stored job."""
        return {
            "events": self.count,
            "by_kind": [
                {"hop": one.hop, "verdict": one.verdict, "cause": one.cause, "count": count}
                for one, count in self.kinds.most_common()
            ],
            "topics": dict(self.topics),
            "skipped": [one.as_data() for one in self.skipped],
            "missing": self.missing,
            "returns": self.returns,
            "seen_twice": self.twice,
            "seen_behind_newer": self.behind,
            "dropped": self.gone,
            "mended": self.mended,
            "cut_at": self.cut_at,
        }


def skip_reason(one: Judged, selection: Selection, *, write_missing: bool = False) -> Skip | None:
    """Return why an order is not sent, judged by its diagnosis alone; None: it is."""
    if selection.hops and one.hop not in selection.hops:
        return Skip.NOT_SELECTED
    if selection.verdicts and one.verdict not in selection.verdicts:
        return Skip.NOT_SELECTED
    if one.rowless:
        return _unwritten_reason(one, selection, write_missing=write_missing)
    # What a person discarded was never published; another person may think otherwise.
    sendable = one.verdict not in NEVER or one.cause == Cause.DISCARDED_BY_HAND
    named = one.verdict in selection.verdicts and sendable
    useless = one.cause in _USELESS_RETURN or one.cause in _ASTRAY
    if named or one.verdict in LOST or useless or _passed(one):
        return None
    if one.cause == Cause.STATUS_OVERWRITTEN:
        # The inbox knows the answer: the same one again would be a copy.
        return Skip.SET_BACK
    return Skip.DROPPED if one.dropped else _BY_VERDICT.get(one.verdict, Skip.UNKNOWN)


def _unwritten_reason(one: Judged, selection: Selection, *, write_missing: bool) -> Skip | None:
    if one.verdict == Verdict.NO_OUTBOX_ROW:
        return None if write_missing else Skip.NO_ROW
    # Whoever names the verdict, too, has compared: none of those events is this order's.
    compared = write_missing and one.verdict in selection.verdicts
    return None if compared else Skip.UNCLAIMED


def is_replayed(verdict: str, cause: str) -> bool:
    """Tell whether a replay sends orders of this kind, those without an event being written first.

    It leaves alone what moves by itself, what quarantine holds, and what it does not know.
    """
    try:
        one = Judged("", Verdict(verdict), Cause(cause))
    except ValueError:  # of a newer version, or written by hand
        return False
    return skip_reason(one, Selection(), write_missing=True) is None


def _passed(one: Judged) -> bool:
    return one.verdict == Verdict.RETURN_SKIPPED and one.cause in _PASSED_RETURN


def decide(
    judged: Iterable[Judged],
    rows: Mapping[int, EventRow],
    selection: Selection,
    *,
    again: bool = False,
    write_missing: bool = False,
) -> Plan:
    """Decide about every order.

    Args:
        judged: the selected orders.
        rows: the events' rows that are there and meet the selection, by outbox id.
        selection: what was asked for.
        again: events that were replayed before, too.
        write_missing: make the missing events of orders without one.
    """
    plan, skips = Plan(), _Skips()
    for one in judged:
        reason = skip_reason(one, selection, write_missing=write_missing)
        if reason is None and one.rowless:
            plan.missing.append(one.order_id)
            continue
        if reason is None and _passed(one):
            plan.returns.append(one.order_id)
            continue
        row = None if one.outbox_id is None else rows.get(one.outbox_id)
        if reason is None and one.deleted:
            # Its row is gone, and its partition is not: the event can only be made anew.
            if write_missing:
                plan.missing.append(one.order_id)
            else:
                skips.add(Skip.NO_ROW, one.order_id, None)
            continue
        if reason is None:
            reason = _row_reason(one, row, again=again)
        if reason is not None or row is None:
            skips.add(reason or Skip.DROPPED, one.order_id, None if row is None else row.in_replay)
            continue
        plan.outbox_ids.append(row.outbox_id)
        plan.kinds[Kind(one.hop, one.verdict, one.cause)] += 1
        plan.topics[row.topic or "-"] += 1
        plan.twice += one.processed
        plan.behind += row.newer
    plan.outbox_ids.sort()
    plan.count = len(plan.outbox_ids)
    plan.skipped = skips.listed()
    return plan


def _row_reason(one: Judged, row: EventRow | None, *, again: bool) -> Skip | None:
    if row is None:
        return Skip.UNKNOWN if one.outbox_id is None else Skip.DROPPED
    if not row.selected:
        return Skip.NOT_SELECTED
    if row.in_replay is not None:
        return Skip.IN_REPLAY
    return Skip.REPLAYED if row.replayed and not again else None


@dataclass(slots=True)
class _Skips:
    found: dict[Skip, list[str]] = field(default_factory=dict)
    counts: Counter[Skip] = field(default_factory=Counter)
    replays: dict[Skip, str] = field(default_factory=dict)

    def add(self, reason: Skip, order_id: str, replay: str | None) -> None:
        self.counts[reason] += 1
        examples = self.found.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(order_id)
        if replay is not None:
            self.replays.setdefault(reason, replay)

    def listed(self) -> list[Skipped]:
        return [
            Skipped(reason, count, tuple(self.found[reason]), self._next(reason))
            for reason, count in self.counts.most_common()
        ]

    def _next(self, reason: Skip) -> str | None:
        said = HELP.get(reason)
        if said is None:
            return None
        return command(said, order=self.found[reason][0], replay=self.replays.get(reason, "ID"))


def skipped_at_once(counts: Mapping[Skip, int]) -> Sequence[Skipped]:
    """Return skips that were only counted."""
    return [Skipped(reason, count, ()) for reason, count in counts.items() if count]
