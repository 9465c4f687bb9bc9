"""Makes a replay's plan: the diagnosis's judgement and the rows, put together and stored.

Invariant: nothing is sent; the plan is stored with its id before it is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import uuid4

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.gather.logs import LogReading
from relay.diagnose.gather.orders import GatherOptions
from relay.diagnose.report.diagnosis import Diagnosis
from relay.diagnose.session import Session, UnreachableError, session
from relay.diagnose.status.reading import read_status
from relay.replay.candidates import (
    count_returned,
    dropped_ranges,
    event_rows,
    orders_of_customers,
    orders_of_events,
    orders_of_incidents,
    recorded_cases,
)
from relay.replay.everything import store_everything
from relay.replay.jobs import (
    Job,
    create_job,
    read_job,
    selection_data,
    store_items,
    store_plan,
)
from relay.replay.missing import require_payload
from relay.replay.plan import Judged, Plan, Skip, decide, skipped_at_once
from relay.replay.selection import Selection
from relay.runtime.flow import Flow
from relay.runtime.operator_connection import operator_connection
from relay.runtime.settings import Settings

AT_MOST = 100_000
_SCAN = LogReading(scan_seconds=60.0)
_CAUSES_OF = ("publish", "process", "confirm")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for.

    Attributes:
        topic: another one than the events' own.
        again: what was replayed before, too.
        write_missing: make the events of orders that have none.
    """

    selection: Selection
    who: str
    topic: str | None = None
    again: bool = False
    write_missing: bool = False


async def make_plan(settings: Settings, wanted: Wanted) -> Job:
    """Plan a replay, and store it.

    Raises:
        SelectionError: the selection names what is not there.
        NotPermittedError: this login may not replay.
        UnreachableError: the database cannot be reached.
    """
    async with operator_connection(settings.database.dsn, "replay") as connection:
        if wanted.selection.everything:
            return await _plan_everything(settings, connection, wanted)
        plan = await _plan(settings, connection, wanted)
        selection, flow = wanted.selection, settings.flow
        plan.gone = await dropped_ranges(connection, selection)
        plan.mended = await _repairs(settings, shown=await _came_back(connection, flow, plan))
        replay_id = uuid4()
        async with connection.transaction():
            await store_plan(
                connection,
                replay_id,
                selection_data(selection),
                plan,
                target=wanted.topic,
                who=wanted.who,
            )
        return await read_job(connection, replay_id)


async def _plan(settings: Settings, connection: Any, wanted: Wanted) -> Plan:
    flow, selection = settings.flow, wanted.selection
    orders, events = await _named(settings, connection, selection)
    options = GatherOptions(selection.since, _SCAN)
    async with session(settings.database.dsn, settings.kafka, flow, options) as opened:
        if isinstance(opened.connection, Missing):
            raise UnreachableError(opened.connection.detail)
        cut = False
        if orders is None:
            orders, cut = await _waiting(opened, selection)
        judged = [_judged(one) for one in await opened.diagnose(orders, events)]
    judged = await _as_recorded(connection, opened.flow, judged)
    ids = [one.outbox_id for one in judged if one.outbox_id is not None]
    rows = await event_rows(connection, flow, ids, selection, wanted.topic)
    plan = decide(judged, rows, selection, again=wanted.again, write_missing=wanted.write_missing)
    plan.cut_at = AT_MOST if cut else None
    if plan.missing:
        await require_payload(connection, flow)
    if wanted.topic is not None:
        plan.twice = 0  # whoever reads there has not seen them
    if not selection.names_orders:
        returned = await count_returned(connection, flow, selection.since, selection.until)
        plan.skipped += skipped_at_once({Skip.RETURNED: returned or 0})
    return plan


async def _named(
    settings: Settings, connection: Any, selection: Selection
) -> tuple[list[str] | None, dict[str, str]]:
    """Return the orders that the selection names (None: all that wait), and their events."""
    sets: list[list[str]] = []
    events: dict[str, str] = {}
    if selection.orders:
        sets.append(list(selection.orders))
    if selection.events:
        events = await orders_of_events(connection, selection.events)
        sets.append(list(events))
    if selection.customers:
        found = await orders_of_customers(connection, settings.flow, selection.customers)
        sets.append(found)
    if selection.incidents:
        sets.append(await orders_of_incidents(connection, settings.flow, selection.incidents))
    if not sets:
        return None, {}
    common = set(sets[0]).intersection(*sets[1:])
    return [one for one in sets[0] if one in common], events


async def _waiting(opened: Session, selection: Selection) -> tuple[list[str], bool]:
    """Return the orders that are overdue, of the selection's time, and whether there are more."""
    found = await opened.open_orders(selection.since, AT_MOST + 1)
    until = selection.until
    meant = [one.order_id for one in found if until is None or one.placed_at < until]
    return meant[:AT_MOST], len(meant) > AT_MOST


def _judged(one: Diagnosis) -> Judged:
    return Judged(
        order_id=one.order_id,
        verdict=one.verdict,
        cause=one.cause,
        hop=one.hop,
        event_id=one.event_id,
        outbox_id=one.outbox_id,
        dropped=one.cause is Cause.PAST_RETENTION,
        deleted=one.event_deleted,
    )


async def _as_recorded(connection: Any, flow: Flow, judged: Sequence[Judged]) -> list[Judged]:
    """Where the returns could not be read to their end now, take the watchdog's word."""
    unread = {one.order_id for one in judged if one.cause is Cause.SCAN_INCOMPLETE}
    known = await recorded_cases(connection, flow, list(unread)) if unread else {}
    found = []
    for one in judged:
        if one.order_id in unread and one.order_id in known:
            hop, verdict, cause = known[one.order_id]
            found.append(replace(one, hop=hop, verdict=verdict, cause=cause))
        else:
            found.append(one)
    return found


# Of so many of the newest events one that was answered is looked for.
_NEWEST: Final = 1_000
_CAME_BACK: Final = """
SELECT EXISTS (
    SELECT FROM (SELECT aggregate_id, event_id FROM relay.outbox_summary
                  WHERE id > $1 AND (aggregate_type = $2 OR event_type = ANY ($3::text[]))
                  ORDER BY id DESC LIMIT $5) AS o
      JOIN relay.inbox AS i ON i.aggregate_id = o.aggregate_id
     WHERE i.consumer_group = $4
       AND (i.causation_id IS NULL OR i.causation_id = o.event_id::text))
"""


async def _came_back(connection: Any, flow: Flow, plan: Plan) -> bool | None:
    """Tell whether an order that is newer than all of the plan was answered; None: it is empty."""
    if not plan.outbox_ids:
        return None
    asked = flow.aggregate_type, flow.own_event_types, flow.confirm_group, _NEWEST
    return bool(await connection.fetchval(_CAME_BACK, plan.outbox_ids[-1], *asked))


async def _repairs(settings: Settings, *, shown: bool | None = None) -> dict[str, Any]:
    """Say of each hop that a replay depends on whether somebody does it.

    Args:
        settings: of whom.
        shown: whether a newer order came all the way back; None: nothing depends on that.
    """
    status = await read_status(settings.database.dsn, settings.kafka, settings.flow)
    return {
        hop.name: {
            "healthy": hop.healthy,
            "shown": shown,
            "run_by": hop.run_by,
            "note": hop.note,
        }
        for hop in status.hops
        if hop.name in _CAUSES_OF
    }


async def _plan_everything(settings: Settings, connection: Any, wanted: Wanted) -> Job:
    """Plan all events of a selection without judging their orders."""
    selection, flow = wanted.selection, settings.flow
    orders, _events = await _named(settings, connection, selection)
    replay_id = uuid4()
    plan = Plan(gone=await dropped_ranges(connection, selection))
    async with connection.transaction():
        await create_job(connection, replay_id, selection_data(selection), wanted.topic)
        plan.count = await store_everything(
            connection,
            str(replay_id),
            selection,
            orders,
            flow,
            any_event=wanted.topic is not None,
        )
        plan.twice = plan.count if wanted.topic is None else 0
        plan.topics = Counter({wanted.topic or flow.events_topic: plan.count})
        plan.mended = await _repairs(settings)
        await store_items(connection, replay_id, selection_data(selection), plan, wanted.who)
    return await read_job(connection, replay_id)
