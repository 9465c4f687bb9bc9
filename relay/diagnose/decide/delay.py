"""Where a returned order spent its time, and which recorded trouble lies over that.

Invariant: pure; a delay is only explained by what was recorded to overlap it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from relay.diagnose.causes import MEANINGS, PROVISIONAL, Cause
from relay.diagnose.decide.decision import applied_return, returned_at, waited_from
from relay.diagnose.decide.duty import cause_of_outage
from relay.diagnose.evidence.order import Evidence
from relay.diagnose.evidence.system_state import (
    PROCESSES_AT_MOST,
    Missing,
    OutageSeen,
    ProcessSeen,
)
from relay.diagnose.verdicts import HOPS, Hop
from relay.runtime.liveness import GONE_SECONDS

# Of a delay, how much a recorded trouble must cover to explain it.
_COVERED_SHARE = 0.5
# A record may be answered, and that applied, so long before the ledger has it: its time is that of
# the page's last acknowledgement.
LEDGER_BEHIND_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Delay:
    """The longest stretch of a late order's way, and its cause where one was recorded."""

    hop: Hop
    seconds: float
    cause: Cause | None


def longest_delay(evidence: Evidence) -> Delay | None:
    """Return where a returned order waited longest; None when its times are not recorded."""
    placed, ended = waited_from(evidence), returned_at(evidence)
    if placed is None or ended is None:
        return None
    stretches = _stretches(evidence, placed, ended)
    hop, start, end = max(stretches, key=lambda one: one[2] - one[1])
    seconds = (end - start).total_seconds()
    lost = lost_before_replay(evidence)
    if lost is not None and (start, end) == (lost.from_at, lost.to_at):
        return Delay(hop, seconds, lost.cause)
    seen = _seen(evidence, hop)
    if seen is not None and seen not in PROVISIONAL:
        # What the watchdog saw while it waited is better than what can be inferred now.
        return Delay(hop, seconds, seen)
    return Delay(hop, seconds, _cause(evidence, hop, start, end) or seen)


@dataclass(frozen=True, slots=True)
class _Lost:
    """The time that an order lay where it had been lost, until it was sent again."""

    hop: Hop
    cause: Cause | None
    from_at: datetime
    to_at: datetime


def lost_before_replay(evidence: Evidence) -> _Lost | None:
    """Return where an order lay before it was sent again; None: it was not, or nobody saw where."""
    kind = evidence.lost_kind
    deliveries = () if isinstance(evidence.deliveries, Missing) else evidence.deliveries
    ended = returned_at(evidence)
    again = [
        one.published_at
        for one in deliveries
        if one.replay_id is not None
        and (ended is None or one.published_at <= ended + timedelta(seconds=LEDGER_BEHIND_SECONDS))
    ]
    written = kind is not None and kind[0] == Hop.PLACE
    if kind is None or kind[0] not in HOPS or not (again or (written and deliveries)):
        return None
    start = waited_from(evidence) if written else deliveries[0].published_at
    if start is None:
        return None
    until = deliveries[0].published_at if written else max(again)
    until = until if ended is None else min(until, ended)
    cause = Cause(kind[1]) if kind[1] in MEANINGS else None
    return _Lost(Hop(kind[0]), cause, start, max(start, until))


def _seen(evidence: Evidence, hop: Hop) -> Cause | None:
    kind = evidence.case_kind
    known = kind is not None and kind[0] == hop and kind[1] in MEANINGS
    return Cause(kind[1]) if kind is not None and known else None


def _stretches(
    evidence: Evidence, placed: datetime, ended: datetime
) -> list[tuple[Hop, datetime, datetime]]:
    published = placed
    if not isinstance(evidence.deliveries, Missing) and evidence.deliveries:
        published = max(placed, evidence.deliveries[0].published_at)
    applied = applied_return(evidence)
    sent = applied.recorded_at if applied and applied.recorded_at else ended
    sent = min(max(sent, published), ended)
    lost = lost_before_replay(evidence)
    if lost is None:
        read_from = published
        before = [(Hop.PUBLISH, placed, published)]
    else:
        read_from = min(lost.to_at, sent)
        before = [(Hop.PUBLISH, placed, lost.from_at), (lost.hop, lost.from_at, lost.to_at)]
    return [*before, (Hop.PROCESS, read_from, sent), (Hop.CONFIRM, sent, ended)]


def _cause(evidence: Evidence, hop: Hop, start: datetime, end: datetime) -> Cause | None:
    around = evidence.around
    outages = () if isinstance(around.outages, Missing) else around.outages
    if hop is Hop.PROCESS:
        crossings = evidence.crossing.values()
        alone = any(one.unattended_from_at is not None for one in crossings)
        return Cause.PROCESSOR_DOWN if alone else None
    relay = hop is Hop.PUBLISH
    kind, processes = ("relay", around.relays) if relay else ("confirm", around.consumers)
    if relay and around.publisher is not None:
        # Whoever publishes has no process record here; what he was away for the witnesses noted.
        seen = [one for one in outages if one.resource == "publisher"]
        return _outage(seen, "witness", start, end)
    outage = _outage(outages, kind, start, end)
    if outage is not None:
        return outage
    if isinstance(processes, Missing) or not _nobody(processes, start, end):
        return None
    return Cause.RELAY_DOWN if relay else Cause.CONSUMER_DOWN


def _outage(
    outages: Iterable[OutageSeen], kind: str, start: datetime, end: datetime
) -> Cause | None:
    for one in outages:
        covered = min(one.to_at or end, end) - max(one.from_at, start)
        if one.kind == kind and covered >= (end - start) * _COVERED_SHARE:
            return cause_of_outage(one)
    return None


def _nobody(processes: Iterable[ProcessSeen], start: datetime, end: datetime) -> bool:
    """Tell whether for most of a stretch no process of a kind was alive."""
    processes = tuple(processes)
    oldest = min((one.heartbeat_at for one in processes), default=start)
    if len(processes) >= PROCESSES_AT_MOST and oldest > start:
        return False  # older records than these are not looked at
    grace = timedelta(seconds=GONE_SECONDS)
    spans = sorted(
        (max(one.started_at, start), min(one.stopped_at or one.heartbeat_at + grace, end))
        for one in processes
    )
    alive, reached = timedelta(0), start
    for begin, finish in spans:
        if finish > max(begin, reached):
            alive += finish - max(begin, reached)
            reached = finish
    return alive < (end - start) * (1 - _COVERED_SHARE)
