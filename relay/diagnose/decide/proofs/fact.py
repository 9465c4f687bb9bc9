"""All hops: a fact that evidence holds or not, and the facts that more than one hop asks for.

Invariant: pure; a part that is missing holds no fact.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from relay.diagnose.causes import Cause
from relay.diagnose.decide.duty import alive, cause_of_code, cause_of_outage
from relay.diagnose.evidence.order import (
    Delivery,
    EventSeen,
    Evidence,
    Found,
    HeldEvent,
    OrderSeen,
    Place,
    ReadBack,
    ReturnSeen,
)
from relay.diagnose.evidence.system_state import Missing, OutageSeen, ProcessSeen, TopicSeen


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that evidence holds, in words, and how to see it."""

    text: str
    holds: Callable[[Evidence], bool]


@dataclass(frozen=True, slots=True)
class Proof:
    """What must be seen before a cause is said, all of it, and what must not, none of it."""

    seen: tuple[Fact, ...]
    never: tuple[Fact, ...] = ()

    def flaws(self, evidence: Evidence) -> list[str]:
        """Return what is missing from the proof, and what contradicts it."""
        missing = [f"not seen: {one.text}" for one in self.seen if not one.holds(evidence)]
        return missing + [f"seen: {one.text}" for one in self.never if one.holds(evidence)]


def returns(evidence: Evidence) -> tuple[ReturnSeen, ...]:
    """Return the order's returns, wherever they are."""
    return () if isinstance(evidence.returns, Missing) else evidence.returns


def at_home(evidence: Evidence) -> list[ReturnSeen]:
    """Return those that are on the flow's own topic, or came from there."""
    return [one for one in returns(evidence) if one.place is not Place.ELSEWHERE]


def sent(evidence: Evidence) -> tuple[Delivery, ...]:
    """Return what the ledger knows of its publication."""
    return () if isinstance(evidence.deliveries, Missing) else evidence.deliveries


def held(evidence: Evidence) -> list[HeldEvent]:
    """Return what holds the event in quarantine."""
    rows = () if isinstance(evidence.held, Missing) else evidence.held
    return [one for one in rows if one.state != "released"]


def topic_of(evidence: Evidence, name: str | None) -> TopicSeen | None:
    """Return a topic as it was seen."""
    topics = evidence.around.topics
    return None if isinstance(topics, Missing) or name is None else topics.get(name)


def found(evidence: Evidence) -> Found | None:
    """Return what stands where the event was acknowledged."""
    return evidence.readback.found if isinstance(evidence.readback, ReadBack) else None


def living(processes: Iterable[ProcessSeen] | Missing, evidence: Evidence) -> list[ProcessSeen]:
    """Return the processes whose heartbeat is fresh."""
    if isinstance(processes, Missing):
        return []
    return [one for one in processes if alive(one, evidence.around.now_at)]


def complains(kind: str, cause: Cause) -> Callable[[Evidence], bool]:
    """Return whether a process of a kind named a cause: for waiting, or for its end."""

    def holds(evidence: Evidence) -> bool:
        around = evidence.around
        processes = around.relays if kind == "relay" else around.consumers
        own = () if isinstance(processes, Missing) else processes
        codes = [one.failure_code for one in own] + [one.stop_code for one in own]
        outages: tuple[OutageSeen, ...] = ()
        if not isinstance(around.outages, Missing):
            outages = around.outages
        standing = [one for one in outages if one.kind == kind and one.to_at is None]
        said = [cause_of_code(one) for one in codes] + [cause_of_outage(one) for one in standing]
        return cause in said

    return holds


def _terminal(evidence: Evidence) -> bool:
    return isinstance(evidence.order, OrderSeen) and evidence.order.terminal


ORDER_ROW = Fact("the order's row is there", lambda e: isinstance(e.order, OrderSeen))
EVENT_ROW = Fact("its event's row is there, or proven", lambda e: isinstance(e.event, EventSeen))
NO_EVENT = Fact("no row of its event is there", lambda e: e.event is None)
SENT = Fact("the ledger knows its publication", lambda e: bool(sent(e)))
HELD = Fact("quarantine holds it", lambda e: bool(held(e)))
RETURN_CAME = Fact("a return of it came", lambda e: bool(at_home(e)))
FINAL_CAME = Fact("a return came that ends it", lambda e: any(one.ends for one in at_home(e)))
RECORD_THERE = Fact("its record stands where it was acknowledged", lambda e: found(e) is Found.SAME)
CLOSED = Fact("somebody closed it", lambda e: e.closed is not None)
RETURNS_UNREAD = Fact("its returns cannot be looked at", lambda e: isinstance(e.returns, Missing))
SETTLED = Fact("its status is final", _terminal)
