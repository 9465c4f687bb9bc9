"""Tells a finding in words: how each hop stands and what says so, and what to run next.

Invariant: pure; a hop before the one that is blamed is never shown as missing, and nothing is shown
as proven that the evidence does not prove.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from relay.diagnose.causes import MEANINGS, Cause, for_incident
from relay.diagnose.decide.decision import decide, due_at, given_status, placed_at
from relay.diagnose.decide.delay import Delay, longest_delay
from relay.diagnose.decide.finding import Finding
from relay.diagnose.evidence.order import EventSeen, Evidence, OrderSeen
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.report import hops
from relay.diagnose.report.diagnosis import Diagnosis, HopLine, Mark
from relay.diagnose.verdicts import HOPS, Hop, Verdict
from relay.runtime.command_line import command
from relay.runtime.durations import duration
from relay.runtime.phrases import AROUND, BETWEEN
from relay.telemetry.continuity import stored_trace


def diagnose(evidence: Evidence) -> Diagnosis:
    """Decide about one order and tell it."""
    finding = decide(evidence)
    row = MEANINGS[finding.cause]
    event = evidence.event if isinstance(evidence.event, EventSeen) else None
    return Diagnosis(
        order_id=evidence.order_id,
        verdict=finding.verdict,
        cause=finding.cause,
        hop=finding.hop,
        lines=_lines(evidence, finding),
        next=_next(evidence, finding),
        meaning=row.meaning,
        fix=row.fix,
        placed_at=placed_at(evidence),
        due_at=due_at(evidence),
        event_id=event.event_id if event else None,
        event_type=event.event_type if event else None,
        outbox_id=event.outbox_id if event else None,
        traceparent=event.traceparent if event else None,
        trace_id=_trace_id(event),
        incident_id=evidence.incident_id,
        delay=_delay(evidence, finding),
        missing=_missing(finding),
        overwritten=_overwritten(evidence, finding),
        event_deleted=event is not None and event.deleted,
        trace_told=evidence.trace_told,
    )


def _overwritten(evidence: Evidence, finding: Finding) -> tuple[str, str] | None:
    order, given = evidence.order, given_status(evidence)
    known = finding.cause is Cause.STATUS_OVERWRITTEN and isinstance(order, OrderSeen)
    return (given, order.status) if known and given and isinstance(order, OrderSeen) else None


@dataclass(frozen=True, slots=True)
class Statements:
    """The statements that mend an order in the database, with what is put in between braces.

    Attributes:
        insert: makes its missing outbox row; None: nobody says what that holds.
        update: sets its status again, if nobody has set another one meanwhile; None: its table is
            not named.
    """

    insert: str | None = None
    update: str | None = None

    def of(self, diagnosis: Diagnosis) -> str | None:
        """Return the statement for one order; None: none helps."""
        if diagnosis.verdict is Verdict.NO_OUTBOX_ROW and self.insert is not None:
            return put_in(self.insert, key=diagnosis.order_id)
        if diagnosis.overwritten is not None and self.update is not None:
            given, now = diagnosis.overwritten
            return put_in(self.update, key=diagnosis.order_id, given=given, now=now)
        return None


_HOLE: Final = re.compile(r"\{(key|given|now)\}")


def put_in(template: str, **texts: str) -> str:
    """Return a statement with texts, quoted, between its braces."""
    return _HOLE.sub(lambda hole: "'" + texts[hole[1]].replace("'", "''") + "'", template)


def needs_statement(diagnosis: Diagnosis) -> bool:
    """Tell whether a statement in the database may mend the order."""
    return diagnosis.verdict is Verdict.NO_OUTBOX_ROW or diagnosis.overwritten is not None


def with_statement(diagnosis: Diagnosis, statements: Statements) -> Diagnosis:
    """Add the statement that mends the order, where one does."""
    return replace(diagnosis, mend_sql=statements.of(diagnosis))


def asked_as(diagnosis: Diagnosis, asked: tuple[str, str] | None) -> Diagnosis:
    """Add the id that was given for the order, and what that id is; None: its own."""
    return diagnosis if asked is None else replace(diagnosis, asked=asked[0], found_as=asked[1])


def _delay(evidence: Evidence, finding: Finding) -> Delay | None:
    return longest_delay(evidence) if finding.cause is Cause.LATE else None


def _missing(finding: Finding) -> str | None:
    gap = finding.missing
    if gap is None:
        return None
    detail = f": {gap.detail}" if gap.detail else ""
    how = f"; to get it: {gap.how_to_get}" if gap.how_to_get else ""
    return f"{gap.what}{detail}{how}"


def _trace_id(event: EventSeen | None) -> str | None:
    if event is None:
        return None
    return stored_trace(event.traceparent, UUID(event.event_id))


def _next(evidence: Evidence, finding: Finding) -> tuple[str, ...]:
    """Return the commands, with the order's ids in them; a whole incident is replayed as one."""
    names = {"order": evidence.order_id, "twin": evidence.twin or "ORDER"}
    commands = MEANINGS[finding.cause].next
    if isinstance(evidence.event, EventSeen) and evidence.event.deleted:
        # There is no row to send again: the event is made anew out of the order.
        commands = tuple(one.replace(_REPLAY, f"{_REPLAY} --write-missing") for one in commands)
    incident = evidence.incident_id
    if incident is not None:
        commands = tuple(for_incident(one, finding.cause, f"I-{incident}") for one in commands)
    return tuple(command(template, **names) for template in commands)


_REPLAY = "relay replay --order {order}"

_DESCRIBED = {
    Hop.PLACE: hops.place,
    Hop.PUBLISH: hops.publish,
    Hop.PROCESS: hops.process,
    Hop.RETURN: hops.returned,
    Hop.CONFIRM: hops.confirm,
}


def _lines(evidence: Evidence, finding: Finding) -> tuple[HopLine, ...]:
    lines, theirs = [], _their_words(evidence)
    event = evidence.event
    created_at = event.created_at if isinstance(event, EventSeen) else None
    for hop in HOPS:
        proven, at, text = _DESCRIBED[hop](evidence)
        if at is not None and created_at is not None:
            # Another clock's, or that of the first record of a merged row of the ledger.
            at = max(at, created_at)
        lines.append(HopLine(hop, _mark(finding, hop, proven=proven), at, text, theirs))
    return tuple(_after_the_gap(lines, finding))


def _their_words(evidence: Evidence) -> frozenset[str]:
    """Return what others wrote in the evidence, in the parts in which a line is translated."""
    order, held, returns = evidence.order, evidence.held, evidence.returns
    found = [order.status] if isinstance(order, OrderSeen) else []
    found += [] if isinstance(held, Missing) else [one.detail for one in held]
    if not isinstance(returns, Missing):
        found += [text for one in returns for text in (one.status, one.detail) if text]
    return frozenset(part.strip(AROUND) for text in found for part in BETWEEN.split(text)) - {""}


def _mark(finding: Finding, hop: Hop, *, proven: bool | None) -> Mark:
    blamed = finding.hop
    if finding.verdict is Verdict.RETURNED:
        return Mark.OK if proven else Mark.UNSURE
    if hop is blamed:
        fine = finding.verdict in (Verdict.IN_FLIGHT, Verdict.UNKNOWN)
        return Mark.UNSURE if fine else Mark.NO
    if hop is Hop.PROCESS and finding.cause is Cause.OFFSETS_SKIPPED:
        return Mark.UNSURE  # the group came past the record; nobody looked at it
    if proven:
        return Mark.OK
    if blamed is not None and hop.number > blamed.number:
        return Mark.NOT_REACHED
    return Mark.UNSURE


def _after_the_gap(lines: list[HopLine], finding: Finding) -> list[HopLine]:
    """What lies behind a missing hop was not reached, whatever stands there."""
    if finding.hop is None:
        return lines
    return [
        replace(line, at=None, text=hops.not_reached(line.text))
        if line.mark is Mark.NOT_REACHED
        else line
        for line in lines
    ]


def headline(diagnosis: Diagnosis, now_at: datetime | None = None) -> str:
    """Return the answer in one line."""
    where = "" if diagnosis.hop is None else f" at {diagnosis.hop.number} {diagnosis.hop}"
    word = _WORDS.get(diagnosis.verdict, diagnosis.fate.name)
    said = f"{word}{where}: {diagnosis.verdict} / {diagnosis.cause}"
    if diagnosis.verdict is Verdict.IN_FLIGHT and diagnosis.due_at and now_at:
        left = (diagnosis.due_at - now_at).total_seconds()
        said += f", due in {duration(left)}"
    if diagnosis.delay is not None:
        said += _delayed(diagnosis.delay)
    if diagnosis.incident_id is not None:
        said += f"   incident I-{diagnosis.incident_id}"
    return said


def _delayed(delay: Delay) -> str:
    why = "" if delay.cause is None else f" ({delay.cause})"
    return f", {duration(delay.seconds)} of it at {delay.hop.number} {delay.hop}{why}"


_WORDS = {
    Verdict.RETURNED: "RETURNED",
    Verdict.IN_FLIGHT: "IN FLIGHT",
    Verdict.CLOSED: "CLOSED",
    Verdict.NO_SUCH_ORDER: "NO SUCH ORDER",
}
