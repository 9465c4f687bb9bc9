"""All hops: the proof of each hop of one event, or what was looked for in vain.

Invariant: each hop is told from its own evidence alone; what a later hop proves is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from relay.diagnose.timeline_facts import (
    Delivery,
    EventRow,
    OrderFacts,
    PartitionState,
    ReturnFact,
    Unreachable,
)
from relay.runtime.flow import Flow

HopName = Literal["place", "publish", "process", "return", "confirm"]
State = Literal["done", "passed", "waiting", "missing", "unknown"]

HOPS: Final[tuple[HopName, ...]] = ("place", "publish", "process", "return", "confirm")


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop of one event.

    Attributes:
        at: when it was done, as recorded.
        took_seconds: since the last hop before it that has a time.
        found: the proof, or what was looked for; one line each.
    """

    name: HopName
    state: State
    found: tuple[str, ...]
    at: datetime | None = None
    took_seconds: float | None = None


def is_terminal(one: ReturnFact, flow: Flow) -> bool:
    """Whether it is a final answer."""
    return one.status in flow.terminal_statuses


def place_hop(row: EventRow, facts: OrderFacts) -> Hop:
    """The row, and whether the order's own row is there."""
    where = "relay.kept" if row.kept else "relay.outbox"
    found = f"{row.event_type} is row {row.outbox_id} of {where}, event {row.event_id}"
    if facts.order is None and facts.order_readable:
        return Hop("place", "done", (found, "the order's own row is not there"), row.created_at)
    return Hop("place", "done", (found,), row.created_at)


def publish_hop(row: EventRow, deliveries: Sequence[Delivery], facts: OrderFacts) -> Hop:
    """What the ledger says, or what holds the event back."""
    parked = tuple(
        f"parked since {held.first_seen_at:%H:%M:%S}: {held.reason}"
        for held in facts.parked
        if held.outbox_id <= row.outbox_id
    )
    if not deliveries:
        looked = "the delivery ledger has no record of it"
        return Hop("publish", "missing", parked or (looked,))
    found = tuple(_delivery_found(one) for one in deliveries)
    return Hop("publish", "done", found, deliveries[0].published_at)


def _delivery_found(one: Delivery) -> str:
    offset = "unknown" if one.offset is None else one.offset
    replay = f", replay {one.replay_id}" if one.replay_id else ""
    return f"{one.topic}[{one.partition}] offset {offset}, epoch {one.epoch}{replay}"


def process_hop(deliveries: Sequence[Delivery], facts: OrderFacts, flow: Flow) -> Hop:
    """What the processor's groups have committed, against the newest delivery."""
    if isinstance(facts.kafka, Unreachable):
        return Hop("process", "unknown", (facts.kafka.why,))
    if not deliveries:
        return Hop("process", "missing", ("nothing was published",))
    last = deliveries[-1]
    if last.offset is None:
        return Hop("process", "unknown", ("the broker gave no offset for the record",))
    part = facts.kafka.partitions.get((last.topic, last.partition))
    if part is None:
        return Hop("process", "unknown", (f"{last.topic}[{last.partition}] is not on the broker",))
    found, passed = [], False
    for group in flow.processor_groups:
        found.append(_group_found(group, part, last.offset))
        passed = passed or (part.committed.get(group) or 0) > last.offset
    return Hop("process", "done" if passed else "missing", tuple(found))


def _group_found(group: str, part: PartitionState, offset: int) -> str:
    committed = part.committed.get(group)
    if committed is None:
        return f"{group} has committed nothing there; the log ends at {part.log_end}"
    relation = "past" if committed > offset else "not past"
    return f"{group} committed {committed}, {relation} offset {offset}"


def return_hop(returns: Sequence[ReturnFact], facts: OrderFacts, flow: Flow) -> Hop:
    """The returns that were found, or how far they were looked for."""
    if returns:
        terminal = [one for one in returns if is_terminal(one, flow)]
        found = tuple(
            f"{one.status or _unnamed(one)} on {one.topic}[{one.partition}] offset {one.offset}"
            for one in returns
        )
        # One that cannot be read may be the answer: what became of it is for the next hop to say.
        ends = terminal or [one for one in returns if one.status not in flow.status_ranks]
        if ends:
            return Hop("return", "done", found, ends[0].recorded_at)
        return Hop("return", "missing", (*found, "none of them is terminal"))
    if isinstance(facts.kafka, Unreachable):
        return Hop("return", "unknown", (facts.kafka.why,))
    scan = facts.kafka.scan
    if scan is None:
        return Hop("return", "missing", ("none in inbox or quarantine",))
    looked = f"none among {scan.records:,} records of {flow.returns_topic}"
    if not scan.complete:
        return Hop("return", "unknown", (f"{looked} read; not all were read",))
    return Hop("return", "missing", (f"{looked} since it was published (all of them)",))


def _unnamed(one: ReturnFact) -> str:
    return "a return" if one.place == "pending" else "an unreadable return"


def confirm_hop(returns: Sequence[ReturnFact], facts: OrderFacts, flow: Flow) -> Hop:
    """What the confirmation consumer did with the returns."""
    found = tuple(_return_outcome(one) for one in returns if one.place != "log")
    applied = [one for one in returns if one.place == "inbox" and is_terminal(one, flow)]
    if applied:
        return Hop("confirm", "done", found, applied[0].handled_at)
    behind = tuple(_not_read(one, facts) for one in returns if one.place == "log")
    return Hop("confirm", "missing", found + behind or ("no return was applied",))


def _return_outcome(one: ReturnFact) -> str:
    match one.place:
        case "inbox":
            return f"{one.old_status or '?'} -> {one.new_status or '?'}: {one.outcome}"
        case "pending":
            return "set aside: somebody holds a lock on the order's row"
        case _:
            return f"refused, in quarantine: {one.outcome}"


def _not_read(one: ReturnFact, facts: OrderFacts) -> str:
    position = facts.consumer_offsets.get((one.topic, one.partition))
    stands = "has read nothing there" if position is None else f"stands at {position}"
    return f"the confirmation consumer {stands}, the return at {one.offset}"
