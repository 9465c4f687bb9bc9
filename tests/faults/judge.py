"""The oracle: what the client's journal and the topics themselves say must be true.

Pure. Nothing here comes from the tables of the system under test; the orders and their history are
the order service's own.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

from tests.faults.journal import Intent
from tests.faults.reading import Seen

RANKS = {"submitted": 0, "processing": 10, "confirmed": 20, "rejected": 20}
TERMINAL = {"confirmed", "rejected"}
_BAD = ("too_large", "no_topic")


@dataclass(frozen=True)
class Violation:
    """A broken promise."""

    invariant: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.what}"


def parked_events(committed: Iterable[Intent]) -> dict[str, Intent]:
    """Return, by event id, what must wait: what cannot be sent, and what follows it."""
    by_order: dict[str, list[Intent]] = {}
    for one in committed:
        by_order.setdefault(one.order_id, []).append(one)
    parked: dict[str, Intent] = {}
    for events in by_order.values():
        events.sort(key=lambda one: one.version)
        first = next((place for place, one in enumerate(events) if one.kind in _BAD), len(events))
        parked |= {one.event_id: one for one in events[first:]}
    return parked


def judge_events(
    committed: Sequence[Intent],
    rolled_back: Iterable[Intent],
    records: Sequence[Seen],
    *,
    lost_by_failover: Collection[str] = (),
) -> list[Violation]:
    """Judge hop 2: nothing lost, nothing made up, first occurrences in order.

    `lost_by_failover`: committed, and gone with a server whose standby lagged: they may have been
    published or not.
    """
    parked = parked_events(committed)
    expected = {one.event_id: one for one in committed if one.event_id not in parked}
    ghosts = {one.event_id for one in rolled_back}
    seen = {one.record_id for one in records}
    found = [
        Violation("lost", f"{one.kind} v{one.version} of order {one.order_id} ({one.event_id})")
        for one in expected.values()
        if one.event_id not in seen
    ]
    found += [
        Violation("rolled back, yet published", f"{one.key} {one.record_id} at {_place(one)}")
        for one in records
        if one.record_id in ghosts
    ]
    found += [
        Violation("never committed, yet published", f"{one.key} {one.record_id} at {_place(one)}")
        for one in records
        if one.record_id not in expected
        and one.record_id not in ghosts
        and one.record_id not in lost_by_failover
    ]
    return found + _inversions(records, expected)


def _inversions(records: Sequence[Seen], expected: Mapping[str, Intent]) -> list[Violation]:
    """Look at first occurrences, partition by partition: only there is an order to speak of."""
    found, seen = [], set[str]()
    latest: dict[tuple[str, int], Seen] = {}
    homes: dict[str, set[int]] = {}
    for one in records:
        if one.record_id in seen or one.record_id not in expected:
            continue
        seen.add(one.record_id)
        intent = expected[one.record_id]
        if (intent.order_id, intent.version) != (one.key, one.version):
            found.append(Violation("another event's record", f"{intent} became {one}"))
        before = latest.get((one.key, one.partition))
        homes.setdefault(one.key, set()).add(one.partition)
        version = 0 if before is None or before.version is None else before.version
        # A topic that grew moves an order once: the first there need not be its first.
        moved = before is None and len(homes[one.key]) > 1
        if intent.version <= version or (intent.version != version + 1 and not moved):
            found.append(
                Violation(
                    "first occurrences out of order",
                    f"order {one.key}: v{intent.version} at {_place(one)} after v{version}"
                    f" at {'nothing' if before is None else _place(before)}",
                )
            )
        latest[one.key, one.partition] = one
    return found


def _place(one: Seen) -> str:
    return f"{one.partition}:{one.offset} (epoch {one.epoch})"


def duplicates(records: Sequence[Seen]) -> int:
    """Count the records that repeat an event."""
    return len(records) - len({one.record_id for one in records})


Steps = tuple[str, ...]
_NONE: Steps = ("submitted",)


def returned_steps(records: Iterable[Seen]) -> dict[str, set[Steps]]:
    """Return what each order's status may have gone through, as the returns topic says it.

    A status only moves to a higher rank, so copies change nothing. Returns in several partitions
    (producers that choose them differently) come in any order, those of one in theirs.
    """
    said: dict[str, dict[int, list[str]]] = {}
    for one in records:
        if one.status in RANKS:
            said.setdefault(one.key, {}).setdefault(one.partition, []).append(one.status)
    return {key: _interleaved(list(parts.values())) for key, parts in said.items()}


def _interleaved(parts: list[list[str]]) -> set[Steps]:
    if len(parts) == 1:
        return {reduce(_after, parts[0], _NONE)}
    reached = {((0,) * len(parts), _NONE)}
    for _ in range(sum(map(len, parts))):
        reached = {
            ((*places[:number], place + 1, *places[number + 1 :]), _after(steps, part[place]))
            for places, steps in reached
            for number, (place, part) in enumerate(zip(places, parts, strict=True))
            if place < len(part)
        }
    return {steps for _, steps in reached}


def _after(steps: Steps, status: str) -> Steps:
    return (*steps, status) if RANKS[status] > RANKS[steps[-1]] else steps


def judge_orders(
    placed: Iterable[str],
    records: Iterable[Seen],
    statuses: Mapping[str, str],
    history: Mapping[str, Sequence[tuple[str, str]]],
    *,
    excused: frozenset[str] = frozenset(),
) -> list[Violation]:
    """Judge hops 3 to 5: every order terminal, by one effect for each return, never backwards.

    `excused`: reported as unreturned by the system itself, at the right hop.
    """
    found, steps = [], returned_steps(records)
    for order_id in placed:
        status, wanted = statuses.get(order_id), steps.get(order_id, {_NONE})
        if status is None:
            found.append(Violation("order lost", order_id))
            continue
        if status not in TERMINAL and order_id not in excused:
            found.append(Violation("not returned", f"order {order_id} is {status!r}"))
        if status not in {one[-1] for one in wanted}:
            found.append(
                Violation(
                    "wrong status", f"order {order_id} is {status!r}, returns say {sorted(wanted)}"
                )
            )
        made = [step for pair in history.get(order_id, ())[:1] for step in pair]
        made += [new for _, new in history.get(order_id, ())[1:]]
        if (tuple(made) or _NONE) not in wanted or (made or _NONE)[-1] != status:
            found.append(
                Violation(
                    "wrong history", f"order {order_id}: {made}, returns say {sorted(wanted)}"
                )
            )
    return found


def judge_epochs(ledger_epochs: Sequence[int]) -> list[Violation]:
    """Judge the fence: in the order of writing, no epoch is lower than one before."""
    return [
        Violation("a stale epoch's write was accepted", f"{after} after {before}")
        for before, after in pairwise(ledger_epochs)
        if after < before
    ]
