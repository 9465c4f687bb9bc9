"""How each hop stands, decided from what database and broker said; pure.

Invariant: what is not known is None and has a note, never a zero. `return` has no queue of its own:
there wait the open orders that wait nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal, TypeVar

from relay.diagnose.evidence.publisher import PublisherSeen
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.status.evidence import Counts, ProcessRow
from relay.diagnose.status.external import explain_publisher
from relay.diagnose.status.lags import Lag, Lags
from relay.diagnose.status.traces import Traces, compare
from relay.diagnose.watch.looked import Looked
from relay.runtime import liveness
from relay.runtime.flow import Flow

T = TypeVar("T")
HopName = Literal["place", "publish", "process", "return", "confirm"]

ACTIVE_STATES: Final = ("active", "standby")


@dataclass(frozen=True, slots=True)
class HopStatus:
    """How one hop stands.

    Attributes:
        waiting: how many events wait for it; None: not known.
        exact: False: an estimate, or the least that it can be.
        oldest_age_seconds: of the oldest of them.
        rate_per_second: done over the last minute.
        run_by: who does it, in words.
        note: what is missing, or what else is to be known.
        healthy: whether somebody does it, as far as is known.
    """

    name: HopName
    waiting: int | None
    oldest_age_seconds: float | None = None
    rate_per_second: float | None = None
    run_by: str = ""
    note: str = ""
    exact: bool = True
    healthy: bool = True


@dataclass(frozen=True, slots=True)
class Status:
    """How the installation stands.

    Attributes:
        missing: what could not be read, and how to get it.
        next_command: what to run next.
        traces: of the newest answered orders; None: not known.
        looked: whether a watchdog looks for overdue orders; None: not known.
        blind: nobody looks, and that does not end by itself.
        database_away: it could not be asked; what is known is the broker's word alone.
    """

    hops: tuple[HopStatus, ...]
    processes: tuple[ProcessRow, ...]
    overdue: Mapping[str, int] | None
    incidents: int | None
    held: Mapping[str, int] | None
    missing: tuple[str, ...]
    next_command: str
    traces: Traces | None = None
    looked: Looked | None = None
    blind: bool = False
    database_away: bool = False

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong, as far as is known."""
        well = all(hop.healthy for hop in self.hops)
        return well and not (self.missing or self.overdue or self.blind)


def decide(counts: Counts | Missing, lags: Lags, flow: Flow, now: datetime) -> Status:
    """Say how each hop stands."""
    if isinstance(counts, Missing):
        hops = _without_database(counts, lags, flow, now)
        status = _status(hops, None, (counts, lags.process, lags.confirm))
        return replace(status, database_away=True)
    publish = _publish(counts)
    process = _process(lags, flow, now)
    confirm = _confirm(counts, lags, now)
    place = _place(counts)
    rest = _return(counts, (place, publish, process, confirm))
    parts = (
        *(getattr(counts, name) for name in ("kind", "publish", "open_orders", "pending", "held")),
        *(getattr(counts, name) for name in ("next_offsets", "overdue", "rates", "processes")),
        counts.looked,
        counts.set_aside,
        lags.process,
        lags.confirm,
    )
    status = _status((place, publish, process, rest, confirm), counts, parts)
    answered = _known(counts.answered)
    traces = None if answered is None else compare(answered, lags.record_traces)
    return replace(status, traces=traces)


def _status(hops: tuple[HopStatus, ...], counts: Counts | None, parts: Sequence[object]) -> Status:
    missing = [part for part in parts if isinstance(part, Missing)]
    told = tuple(dict.fromkeys(f"{m.what}: {m.detail} ({m.how_to_get})" for m in missing))
    overdue = _known(counts.overdue) if counts else None
    status = Status(
        hops=hops,
        processes=(_known(counts.processes) or ()) if counts else (),
        overdue=overdue,
        incidents=_known(counts.incidents) if counts else None,
        held=_known(counts.held) if counts else None,
        missing=told,
        next_command="",
        looked=_known(counts.looked) if counts else None,
        blind=counts is not None and _blind(counts),
    )
    return replace(status, next_command=_next_command(status))


def _blind(counts: Counts) -> bool:
    looked = _known(counts.looked)
    living = [one.started_at for one in _known(counts.processes) or () if is_alive(one)]
    return looked is not None and looked.alarming(counts.now, min(living, default=None))


def _known(part: T | Missing) -> T | None:
    return None if isinstance(part, Missing) else part


def _age(oldest_at: datetime | None, now: datetime) -> float | None:
    return None if oldest_at is None else round(max(0.0, (now - oldest_at).total_seconds()), 3)


def _rate(counts: Counts, hop: HopName) -> float | None:
    rates = _known(counts.rates)
    return None if rates is None else rates.get(hop)


def _place(counts: Counts) -> HopStatus:
    """Orders and their events commit together: what waits here bypassed the outbox."""
    found = HopStatus(
        "place", None, run_by="the order service", rate_per_second=_rate(counts, "place")
    )
    without = counts.without_event
    if without is None:
        return replace(found, note="the flow does not say where orders stand")
    if isinstance(without, Missing):
        return replace(found, note="not known")
    note = "orders without an event: the writer bypassed the outbox" if without.count else ""
    if without.count and counts.never_an_event:
        note = "no event was ever written: does the order service write to relay.outbox?"
    return replace(
        found,
        waiting=without.count,
        oldest_age_seconds=_age(without.oldest_at, counts.now),
        note=note,
        healthy=not without.count,
    )


def _publish(counts: Counts) -> HopStatus:
    publisher = _known(counts.publisher)
    found = HopStatus("publish", None, rate_per_second=_rate(counts, "publish"))
    if publisher is not None:
        found = _external(found, counts, publisher)
    else:
        processes = _alive(counts, "relay")
        active = [p for p in processes if p.active]
        found = replace(found, run_by=_run_by(counts, "relay", processes))
        found = replace(
            found, healthy=bool(active), note=_trouble(counts, active or processes, "relay run")
        )
    held = (_known(counts.held) or {}).get("event", 0)
    if held:
        found = replace(found, note=_joined(found.note, f"{held} parked in quarantine"))
    waiting = counts.publish
    if isinstance(waiting, Missing):
        return found
    return replace(
        found,
        waiting=waiting.count,
        exact=waiting.exact,
        oldest_age_seconds=_age(waiting.oldest_at, counts.now),
    )


def _external(found: HopStatus, counts: Counts, publisher: PublisherSeen) -> HopStatus:
    """Say who publishes where our relay does not, and who witnesses it."""
    witnesses, told = _alive(counts, "witness"), explain_publisher(publisher)
    active = [one for one in witnesses if _state(one) == "active"]
    by = _run_by(counts, "witness", witnesses)
    return replace(
        found,
        run_by=f"{told.named}; witnessed by {by}",
        note=_joined(*told.troubles, _trouble(counts, witnesses, "relay witness"), told.behind),
        healthy=bool(active) and not told.troubles,
    )


def _process(lags: Lags, flow: Flow, now: datetime) -> HopStatus:
    said = [_group(name, lags, now) for name in flow.processor_groups]
    said += [(f"{name} reads the events, too", True) for name in lags.other_readers[:3]]
    found = HopStatus(
        "process",
        None,
        run_by="; ".join(text for text, _ in said),
        healthy=all(fine for _, fine in said),
    )
    return _behind(found, lags.process, now)


def _group(name: str, lags: Lags, now: datetime) -> tuple[str, bool]:
    group = lags.groups.get(name)
    if group is None:
        return f"group {name}: not known", True
    if group.members is None:
        return f"group {name} ({group.kind}): its members are not known", True
    if group.state == "Dead":
        return f"no group {name}", False
    if group.never_joined:
        said = f"group {name}: a reader that assigns its partitions itself, in no group"
        return said, _keeps_up(lags.process, now)
    plural = "" if group.members == 1 else "s"
    return f"group {name}: {group.members} member{plural}", group.members > 0


def _keeps_up(lag: Lag | Missing, now: datetime) -> bool:
    """Tell whether a reader that nobody can see leaves nothing waiting for long."""
    if isinstance(lag, Missing) or not lag.count:
        return True
    return lag.oldest_at is not None and now - lag.oldest_at < _UNSEEN_WAIT


def _behind(found: HopStatus, lag: Lag | Missing, now: datetime) -> HopStatus:
    if isinstance(lag, Missing):
        return replace(found, note=_joined(found.note, "not known: the broker does not answer"))
    if lag.missing_topics:
        topics = ", ".join(lag.missing_topics)
        found = replace(found, note=_joined(found.note, f"no topic {topics}"), healthy=False)
    note = _joined(found.note, *lag.transactions)
    return replace(found, waiting=lag.count, oldest_age_seconds=_age(lag.oldest_at, now), note=note)


def _confirm(counts: Counts, lags: Lags, now: datetime) -> HopStatus:
    processes = _alive(counts, "confirm")
    found = HopStatus(
        "confirm",
        None,
        rate_per_second=_rate(counts, "confirm"),
        run_by=_run_by(counts, "confirm", processes),
        note=_trouble(counts, processes, "relay confirm"),
        healthy=any(_state(p) in ACTIVE_STATES for p in processes),
    )
    held = (_known(counts.held) or {}).get("return", 0)
    if held:
        found = replace(found, note=_joined(found.note, f"{held} returns in quarantine"))
    blocked = blocked_partitions(processes)
    aside = _known(counts.set_aside)
    note = _joined(
        found.note,
        *(f"{where} waits: {why}" for where, why in blocked.items()),
        QUARANTINE_FULL if quarantine_full(processes) else "",
        "" if aside is None else aside.text(),
    )
    found = replace(found, note=note, healthy=found.healthy and not blocked)
    found = _behind(found, lags.confirm, now)
    pending = counts.pending
    if found.waiting is None or isinstance(pending, Missing) or not pending.count:
        return found
    ages = [age for age in (found.oldest_age_seconds, _age(pending.oldest_at, now)) if age]
    return replace(
        found,
        waiting=found.waiting + pending.count,
        oldest_age_seconds=max(ages, default=None),
        note=_joined(found.note, f"{pending.count} wait for a locked order"),
    )


# Whoever assigns partitions himself is known by what he leaves waiting, and for how long.
_UNSEEN_WAIT: Final = timedelta(seconds=60)
QUARANTINE_FULL: Final = "the quarantine is full: of refused returns only the places are kept"


def blocked_partitions(consumers: Sequence[ProcessRow]) -> dict[str, str]:
    """Return the partitions that living consumers cannot go on with, and why, by name."""
    found: dict[str, str] = {}
    for one in consumers:
        said = one.detail.get("blocked_partitions")
        if isinstance(said, dict):  # an older version says nothing of them
            found |= {str(where): str(why) for where, why in said.items()}
    return dict(sorted(found.items()))


def quarantine_full(consumers: Sequence[ProcessRow]) -> bool:
    """Tell whether a living consumer keeps only the places of what it refuses."""
    return any(bool(one.detail.get("quarantine_full")) for one in consumers)


def _return(counts: Counts, others: Sequence[HopStatus]) -> HopStatus:
    found = HopStatus("return", None, run_by="the order processor")
    orders, held = counts.open_orders, _known(counts.held)
    if orders is None:
        return replace(found, note="the flow does not say where orders stand")
    if isinstance(orders, Missing) or held is None or any(o.waiting is None for o in others):
        return replace(found, note="not known: it is what waits at no other hop")
    elsewhere = sum(other.waiting or 0 for other in others) + sum(held.values())
    return replace(
        found,
        waiting=max(0, orders.count - elsewhere),
        exact=orders.exact and all(other.exact for other in others),
        # The oldest open order may be one of those that wait elsewhere.
        oldest_age_seconds=None if elsewhere else _age(orders.oldest_at, counts.now),
    )


def _without_database(
    missing: Missing, lags: Lags, flow: Flow, now: datetime
) -> tuple[HopStatus, ...]:
    away = f"not known: {missing.what}"
    blind = {
        name: HopStatus(name, None, run_by="not known", note=away, healthy=False)
        for name in ("place", "publish", "return", "confirm")
    }
    confirm = replace(_behind(blind["confirm"], lags.confirm, now), note=away)
    return (blind["place"], blind["publish"], _process(lags, flow, now), blind["return"], confirm)


def _alive(counts: Counts, kind: str) -> list[ProcessRow]:
    processes = _known(counts.processes) or ()
    return [p for p in processes if p.kind == kind and is_alive(p)]


def is_alive(process: ProcessRow) -> bool:
    """Whether a process has not stopped and has said something lately."""
    age = timedelta(seconds=process.heartbeat_age_seconds)
    return liveness.is_alive(age, stopped=process.stopped_at is not None)


def _state(process: ProcessRow) -> str:
    return str(process.detail.get("state", ""))


def _run_by(counts: Counts, kind: str, alive: Sequence[ProcessRow]) -> str:
    if alive:
        first = next((p for p in alive if p.active), alive[0])
        others = f" and {len(alive) - 1} more" if len(alive) > 1 else ""
        return f"{first.instance}{others}"
    last = [p for p in (_known(counts.processes) or ()) if p.kind == kind]
    if counts.read_only and not (last and last[0].stopped_at is not None):
        return "not known: no process can write that it runs"
    if not last:
        return "nobody"
    if last[0].stopped_at is not None:
        ago = (counts.now - last[0].stopped_at).total_seconds()
        return f"nobody: {last[0].instance} stopped {ago:.0f} s ago ({last[0].stop_reason})"
    silent = last[0].heartbeat_age_seconds
    return f"nobody: {last[0].instance} is silent since {silent:.0f} s"


def _trouble(counts: Counts, processes: Sequence[ProcessRow], start: str) -> str:
    if counts.read_only:
        return "the database is read-only (default_transaction_read_only): nothing can go on"
    if not processes:
        return f"start it: `{start}`"
    waits = [p.detail.get("waiting_for") for p in processes if p.detail.get("waiting_for")]
    return f"waits for {waits[0]}" if waits and len(waits) == len(processes) else ""


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _next_command(status: Status) -> str:
    if status.overdue:
        return "relay diagnose"
    if status.missing or status.blind or not all(hop.healthy for hop in status.hops):
        return "relay check"
    if status.held:
        return "relay quarantine list"
    return "relay status" if any(hop.waiting for hop in status.hops) else ""
