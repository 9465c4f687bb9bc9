"""Hop 2, when somebody else publishes: what proves that he did not."""

from collections.abc import Callable
from datetime import timedelta

from relay.diagnose.causes import Cause
from relay.diagnose.decide.external import MOVING_SECONDS
from relay.diagnose.decide.proofs.fact import (
    CLOSED,
    EVENT_ROW,
    HELD,
    RETURN_CAME,
    RETURNS_UNREAD,
    SENT,
    SETTLED,
    Fact,
    Proof,
    living,
)
from relay.diagnose.evidence.order import EventSeen, Evidence
from relay.diagnose.evidence.publisher import ConnectorSeen, PublisherSeen, SlotSeen
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.verdicts import Verdict


def _publisher(evidence: Evidence) -> PublisherSeen:
    seen = evidence.around.publisher
    return seen if isinstance(seen, PublisherSeen) else PublisherSeen()


def _unread(evidence: Evidence) -> bool:
    unread = _publisher(evidence).unread
    return isinstance(unread, Missing) or bool(unread)


def _moves(evidence: Evidence) -> bool:
    now_at, moving = evidence.around.now_at, timedelta(seconds=MOVING_SECONDS)
    last, event = _publisher(evidence).last_record_at, evidence.event
    young = isinstance(event, EventSeen) and now_at - event.created_at < moving
    return young or (last is not None and now_at - last < moving)


def _slot(holds: Callable[[SlotSeen], bool]) -> Callable[[Evidence], bool]:
    def seen(evidence: Evidence) -> bool:
        slot = _publisher(evidence).slot
        return slot is not None and holds(slot)

    return seen


def _connector(holds: Callable[[ConnectorSeen], bool]) -> Callable[[Evidence], bool]:
    def seen(evidence: Evidence) -> bool:
        connector = _publisher(evidence).connector
        return isinstance(connector, ConnectorSeen) and holds(connector)

    return seen


_WITNESSED = Fact("a witness is alive", lambda e: bool(living(_publisher(e).witnesses, e)))
_UNREAD = Fact("records on the events' topics are not witnessed", _unread)
_MOVES = Fact("the publisher moves, or the row is some seconds old", _moves)
_CONFIRMED = Fact("its slot confirmed the row's commit", lambda e: e.passed)
_LOST = Fact("the server gave up the WAL that the slot needs", _slot(lambda s: s.lost is not None))
_NEVER = (CLOSED, SETTLED, RETURN_CAME, RETURNS_UNREAD, SENT, HELD, _UNREAD)


def _proof(fact: Fact, *never: Fact) -> Proof:
    other = Fact(
        "another program publishes", lambda e: isinstance(e.around.publisher, PublisherSeen)
    )
    return Proof((EVENT_ROW, other, _WITNESSED, fact), (*_NEVER, *never))


def _of_state(text: str, *states: str) -> Proof:
    says = Fact(f"Kafka Connect says {text}", _connector(lambda c: c.state in states))
    return _proof(says, _CONFIRMED, _LOST)


EXTERNAL: dict[tuple[Verdict, Cause], Proof] = {
    (Verdict.NOT_PUBLISHED, Cause.PUBLISHER_SKIPPED): _proof(_CONFIRMED),
    (Verdict.NOT_PUBLISHED, Cause.PUBLISHER_BEHIND): _proof(_MOVES, _CONFIRMED, _LOST),
    (Verdict.NOT_PUBLISHED, Cause.PUBLISHER_STUCK): _proof(
        Fact("nothing of it was witnessed for half a minute", lambda e: not _moves(e)),
        _CONFIRMED, _LOST, _MOVES,
    ),
    (Verdict.NOT_PUBLISHED, Cause.SLOT_LOST): _proof(_LOST, _CONFIRMED),
    (Verdict.NOT_PUBLISHED, Cause.SLOT_MISSING): _proof(
        Fact("the server has no such slot", _slot(lambda s: not s.exists)), _CONFIRMED
    ),
    (Verdict.NOT_PUBLISHED, Cause.SLOT_INACTIVE): _proof(
        Fact("nobody reads from the slot", _slot(lambda s: s.exists and not s.active)),
        _CONFIRMED, _LOST,
    ),
    (Verdict.NOT_PUBLISHED, Cause.CONNECTOR_FAILED): _of_state("FAILED", "FAILED"),
    (Verdict.NOT_PUBLISHED, Cause.CONNECTOR_PAUSED): _of_state(
        "PAUSED or STOPPED", "PAUSED", "STOPPED"
    ),
    (Verdict.NOT_PUBLISHED, Cause.CONNECTOR_MISSING): _of_state(
        "that there is no connector of the name", "ABSENT"
    ),
    (Verdict.NOT_PUBLISHED, Cause.CONNECT_TASK_FAILED): _proof(
        Fact("Kafka Connect says that a task failed", _connector(
            lambda c: c.failed_task is not None)),
        _CONFIRMED, _LOST,
    ),
}  # fmt: skip
