"""The pages that find: Night, incidents, orders, unreturned.

Invariant: reads only; each shows what a command with `--json` says.
"""

from __future__ import annotations

import asyncio
import csv
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any, Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.fate import fate_of
from relay.diagnose.gather.lookup import order_of_submission
from relay.diagnose.gather.readers import read_readers
from relay.diagnose.incidents.aftermath import (
    Aftermath,
    Gone,
    decide_aftermath,
    due_stretch,
    expected_effect,
    held_kind,
    lacks_its_event,
    must_not,
)
from relay.diagnose.incidents.listing import IncidentSeen, list_incidents, single_orders
from relay.diagnose.incidents.next_step import next_command
from relay.diagnose.report.diagnosis import Diagnosis
from relay.diagnose.report.explain import headline
from relay.diagnose.report.timeline import timeline
from relay.diagnose.session import Session
from relay.diagnose.status.minutes import read_minutes
from relay.diagnose.verdicts import HOPS, Verdict, found_something
from relay.diagnose.watch.case_pages import (
    CaseSeen,
    CaseWanted,
    count_cases,
    read_cases,
    read_marks,
)
from relay.diagnose.watch.happened import read_happened
from relay.diagnose.watch.looked import read_looked
from relay.repair.audited import read_audit
from relay.replay.jobs import jobs_with_order
from relay.replay.plan import is_replayed
from relay.runtime.command_line import command, incident_number
from relay.runtime.operator_connection import operator_connection
from relay.web.drawing import Axis, band, time_line
from relay.web.site import NotFoundError, Page, Site
from relay.web.snapshot import longest_deadline

PAGE_ORDERS: Final = 100
_EXPORT_ORDERS: Final = 100_000
_MARKS: Final = 2000
_IDS_AT_MOST: Final = 200
_LONGEST_ID: Final = 1024
_MARGIN: Final = timedelta(minutes=2)
_LONGEST: Final = timedelta(hours=48)


async def night(site: Site, _request: Request) -> Page:
    """Show the state of everything."""
    found = await site.watcher.current()
    return Page("night.html", night_data(site, found))


def night_data(site: Site, found: Any) -> dict[str, Any]:
    """Return what the Night page, and what is pushed to it, is drawn with."""
    drawn = None
    if found is not None and found.minutes is not None:
        drawn = band(found.minutes, longest_deadline(site.settings))
    facts: dict[str, Any] = {"night": found, "band": drawn, "failure": site.watcher.failure}
    if found is not None:
        facts |= {"away": found.away, "as_of": found.at}
    return facts


async def incidents(site: Site, request: Request) -> Page:
    """Show incidents, the open ones first."""
    closed = request.query_params.get("all") == "1"
    async with site.reading() as opened:
        con = opened.connection
        seen = await list_incidents(con, opened.flow, closed=closed)
        return Page(
            "incidents.html",
            {
                "incidents": seen,
                "single": await single_orders(con, opened.flow),
                "looked": await read_looked(con),
                "closed": closed,
                "next_command": next_command,
            },
        )


async def incident(site: Site, request: Request) -> Page:
    """Show one incident: its story, its time line, its proof, its repair."""
    number = incident_number(request.path_params["name"])
    if number is None:
        raise NotFoundError("an incident is called I-17")
    async with site.reading() as opened:
        con = opened.connection
        seen = await list_incidents(con, opened.flow, closed=True, incident_id=number)
        if not seen:
            raise NotFoundError(f"there is no incident I-{number}")
        one = seen[0]
        drawn = await _drawn(opened, one)
        after = await _aftermath(site, opened, one)
        readers, example = await asyncio.gather(
            read_readers(site.settings.kafka, opened.flow), opened.diagnose(one.examples[:1])
        )
        notes = await read_audit(con, None, None, one.name)
    found = site.watcher.night
    hops = {} if found is None else {hop.name: hop for hop in found.status.hops}
    return Page(
        "incident.html",
        {
            "one": one,
            "line": drawn,
            "example": timeline(example[0]) if example else None,
            "notes": notes,
            "hops": hops,
            "next_command": next_command(one),
            "fate": fate_of(one.kind[1], one.kind[2]),
            "after": after,
            "effect": expected_effect(one.breakdown),
            "held": held_kind(one.kind[1]),
            "is_replayed": is_replayed(*one.kind[1:]),
            "lacks_its_event": lacks_its_event(one.kind[1]),
            "must_not": must_not(*one.kind, after.gone, is_replayed=is_replayed(*one.kind[1:])),
            "readers": () if isinstance(readers, Missing) else readers,
            "readers_missing": readers if isinstance(readers, Missing) else None,
        },
    )


async def _aftermath(site: Site, opened: Session, one: IncidentSeen) -> Aftermath:
    """Judge by the orders that were placed later whether the cause is gone."""
    con, later = opened.connection, None
    assert not isinstance(con, Missing)
    looked = await read_looked(con)
    # What became due since the watchdog's last round was judged by nobody.
    if looked.at is not None:
        deadline = longest_deadline(site.settings)
        stretch = due_stretch(one.to_at, looked.at, deadline, _LONGEST)
        later = stretch and await read_minutes(con, opened.flow, *stretch)
    return decide_aftermath(one.kind[0], one.to_at, later)


async def _drawn(opened: Session, one: IncidentSeen) -> Any:
    con = opened.connection
    margin = max(_MARGIN, (one.to_at - one.from_at) / 4)
    from_at, to_at = one.from_at - margin, one.to_at + margin
    to_at = min(to_at, from_at + _LONGEST, datetime.now(UTC))
    to_at = max(to_at, from_at + _MARGIN)
    cases, whole = await read_marks(con, opened.flow, one.incident_id, (from_at, to_at), _MARKS)
    minutes = await read_minutes(con, opened.flow, from_at, to_at)
    happened = await read_happened(con, opened.flow, from_at, to_at)
    axis = Axis(from_at, to_at)
    return time_line(axis, (one.from_at, one.to_at), cases, minutes, happened, whole=whole)


_BETWEEN: Final = re.compile(r"[\s,;]+")


async def orders(site: Site, request: Request) -> Page:
    """Find the orders that were asked for: one id, or a complaint with many."""
    text = request.query_params.get("q", "")
    ids = list(dict.fromkeys(one for one in _BETWEEN.split(text) if one))
    submission = _submission(request.query_params)
    asked = [one for one in ids if len(one) <= _LONGEST_ID][:_IDS_AT_MOST]
    given = {"q": text, "submission": submission, "cut": len(ids) - len(asked)}
    if not ids and submission is None:
        return Page("orders.html", {**given, "found": [], "counts": None})
    async with site.reading() as opened:
        found = await opened.diagnose(asked, by_any_id=True) if asked else []
        if submission is not None:
            known = await _order_of(site, request, opened, *submission)
            found += await opened.diagnose([known or "/".join(submission)])
    rows = [(one, headline(one, datetime.now(UTC))) for one in found]
    counts = {
        "hit": sum(found_something(one.verdict) for one in found),
        "unknown": sum(one.verdict is Verdict.NO_SUCH_ORDER for one in found),
        "all": len(found),
    }
    return Page("orders.html", {**given, "found": rows, "counts": counts})


def _submission(query: Mapping[str, str]) -> tuple[str, str] | None:
    customer, key = (query.get(name, "").strip() for name in ("customer", "key"))
    if not (customer or key):
        return None
    if not (customer and key) or len(customer) + len(key) > _LONGEST_ID:
        raise NotFoundError("a customer and the key of his submission go together")
    return customer, key


async def _order_of(
    site: Site, request: Request, opened: Session, customer: str, key: str
) -> str | None:
    """Return the order of a customer's submission; who may act looks with the operator's login.

    Raises:
        NotLookedUpError: the orders have no such columns, or the page's login may not read them.
    """
    operator = site.web.operator_url
    if operator is None or site.gate.person(request).role != "operator":
        assert not isinstance(opened.connection, Missing)
        return await order_of_submission(opened.connection, opened.flow, customer, key)
    async with operator_connection(operator.get_secret_value(), "web") as connection:
        return await order_of_submission(connection, opened.flow, customer, key)


async def search(_site: Site, request: Request) -> Response:
    """Send one id to its page, several to the list."""
    text = request.query_params.get("q", "").strip()
    ids = [one for one in _BETWEEN.split(text) if one]
    if len(ids) == 1 and len(text) <= _LONGEST_ID:
        if incident_number(ids[0]) is not None and ids[0][0] in "Ii":
            return RedirectResponse(f"/incidents/{quote(ids[0].upper(), safe='')}", 303)
        return RedirectResponse(f"/orders/{quote(ids[0], safe='')}", 303)
    return RedirectResponse(f"/orders?{urlencode({'q': text[:60_000]})}", 303)


async def order(site: Site, request: Request) -> Page:
    """Show one order: the verdict first, then its way with the proof of each hop."""
    asked = request.path_params["order"]
    if len(asked) > _LONGEST_ID:
        raise NotFoundError("an order's id has at most 1,024 characters")
    async with site.reading() as opened:
        found = await opened.diagnose([asked], by_any_id=True)
        con = opened.connection
        one = found[0]
        audit = await read_audit(con, None, None, one.order_id)
        jobs = await jobs_with_order(con, one.outbox_id)
    told = timeline(one)
    now_at = datetime.now(UTC)
    return Page(
        "order.html",
        {
            "asked": asked,
            "one": one,
            "others": found[1:],
            "told": told,
            "says": headline(one, now_at),
            "held": held_kind(one.verdict.value),
            **_repair(one),
            "trace_url": one.trace_link(site.settings.trace.url),
            "json": one.as_json(site.settings.trace.url),
            "audit": audit,
            "jobs": jobs,
            "command": command("relay diagnose {order}", order=one.order_id),
        },
        404 if one.verdict is Verdict.NO_SUCH_ORDER and not found[1:] else 200,
    )


def _repair(one: Diagnosis) -> dict[str, Any]:
    """Return whether a replay is an order's repair, and what must not be done."""
    if not found_something(one.verdict) or one.hop is None:
        return {"is_replayed": False, "must_not": ()}
    kind = (one.hop.value, one.verdict.value, one.cause.value)
    replayed = is_replayed(*kind[1:])
    forbidden = must_not(*kind, Gone.UNPROVEN, is_replayed=replayed)
    return {"is_replayed": replayed, "must_not": forbidden}


async def order_json(site: Site, request: Request) -> Response:
    """Return what `relay diagnose ORDER --json` prints."""
    asked = request.path_params["order"][:_LONGEST_ID]
    async with site.reading() as opened:
        found = await opened.diagnose([asked], by_any_id=True)
    url = site.settings.trace.url
    return JSONResponse({"orders": [one.as_json(url) for one in found]})


def _wanted(query: Mapping[str, str]) -> CaseWanted:
    hop = query.get("hop") or None
    if hop is not None and hop not in [one.value for one in HOPS]:
        raise NotFoundError("there is no such hop")
    incident_id = incident_number(query["incident"]) if query.get("incident") else None
    after = None
    if query.get("after"):
        at, _, event_id = query["after"].partition("~")
        try:
            after = (datetime.fromisoformat(at), event_id)
        except ValueError:
            raise NotFoundError("this page's address is broken") from None
        if after[0].tzinfo is None:
            raise NotFoundError("this page's address is broken")
    return CaseWanted(hop, query.get("cause") or None, incident_id, after)


async def unreturned(site: Site, request: Request) -> Page:
    """Show the overdue orders: hop, cause and age first, then a page of them."""
    wanted = _wanted(request.query_params)
    async with site.reading() as opened:
        con = opened.connection
        kinds, exact = await count_cases(con, opened.flow)
        rows, more = await read_cases(con, opened.flow, wanted, PAGE_ORDERS)
        looked = await read_looked(con)
        unjudged = await opened.unjudged()
    query = {name: value for name, value in request.query_params.items() if name != "again"}
    following = None
    if more:
        last = rows[-1]
        following = urlencode({**query, "after": f"{last.placed_at.isoformat()}~{last.event_id}"})
    return Page(
        "unreturned.html",
        {
            "kinds": kinds,
            "exact": exact,
            "rows": rows,
            "ids": [one.order_id for one in rows],
            "following": following,
            "first": wanted.after is None,
            "looked": looked,
            "unjudged": unjudged,
            "wanted": wanted,
            "query": urlencode({k: v for k, v in query.items() if k != "after"}),
        },
    )


async def unreturned_data(site: Site, request: Request) -> Response:
    """Return the overdue orders of the same conditions as CSV or JSON, at most 100,000."""
    wanted = replace(_wanted(request.query_params), after=None)
    async with site.reading() as opened:
        rows, more = await read_cases(opened.connection, opened.flow, wanted, _EXPORT_ORDERS)
    headers = {"x-relay-more": "yes" if more else "no"}
    if request.url.path.endswith(".json"):
        return JSONResponse({"orders": [_case(one) for one in rows], "cut": more}, headers=headers)
    text = StringIO()
    written = csv.DictWriter(text, list(_case_names))
    written.writeheader()
    written.writerows({name: _plain(value) for name, value in _case(one).items()} for one in rows)
    headers["content-disposition"] = 'attachment; filename="unreturned.csv"'
    return Response(text.getvalue(), media_type="text/csv", headers=headers)


_case_names: Final = (
    *("order_id", "event_id", "placed_at", "hop", "verdict", "cause", "fate", "incident"),
    "diagnosed_at",
)


def _case(one: CaseSeen) -> dict[str, Any]:
    return {
        "order_id": one.order_id,
        "event_id": one.event_id,
        "placed_at": one.placed_at.isoformat(),
        "hop": one.hop,
        "verdict": one.verdict,
        "cause": one.cause,
        "fate": one.fate.value,
        "incident": None if one.incident_id is None else f"I-{one.incident_id}",
        "diagnosed_at": one.diagnosed_at.isoformat(),
    }


def _plain(value: Any) -> Any:
    """Keep a spreadsheet from computing what somebody wrote into an id."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value
