"""The pages of what people repair: replays and the quarantine.

Invariant: reads only; what is done is done by `acts.py`. "Sent" is never shown where "returned" is
meant.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request

from relay.repair.held import read_held
from relay.repair.held_pages import HeldWanted, count_open, read_held_page
from relay.replay.follow import Counted, Follower
from relay.replay.jobs import Job, ReplayError, find_job, list_jobs, refused
from relay.replay.running import Outcome, following
from relay.runtime.printable import printable
from relay.web.site import NotFoundError, Page, Site

PLAN_MINUTES: Final = 10
_JOBS: Final = 50
_PAGE: Final = 100
_PARTS_AT_MOST: Final = 1_000
STATES: Final = ("held", "release_requested", "released", "discarded")


async def replays(site: Site, _request: Request) -> Page:
    """Show the latest replays."""
    async with site.reading() as opened:
        return Page("replays.html", {"jobs": await list_jobs(opened.connection, _JOBS)})


async def replay(site: Site, request: Request) -> Page:
    """Show a replay: its plan, then how many were released, sent and returned."""
    async with site.reading() as opened:
        con = opened.connection
        try:
            job = await find_job(con, request.path_params["name"])
        except ReplayError as error:
            raise NotFoundError(str(error)) from error
        counted = Counted()
        if job.target_topic is None and job.sent_count + len(job.besides):
            follower = Follower(con, opened.flow, job.replay_id, job.besides)
            counted = await follower.look(job.sent_count, _PARTS_AT_MOST)
        outcome = Outcome(job, counted, await refused(con, job.replay_id))
    return Page("replay.html", replay_data(site, outcome))


def replay_data(site: Site, outcome: Outcome) -> dict[str, Any]:
    """Return what a replay's page is drawn with."""
    job = outcome.job
    found = site.watcher.night
    changed = [] if found is None else health_changes(job, {h.name: h for h in found.status.hops})
    return {
        "job": job,
        "outcome": outcome,
        "next": following(outcome),
        "expired": expired(job),
        "changed": changed,
        "live": job.state in ("running", "sent"),
    }


def expired(job: Job) -> bool:
    """Tell whether a plan is too old to be run: what it judged may have changed."""
    age = datetime.now(UTC) - job.planned_at
    return job.state == "planned" and age > timedelta(minutes=PLAN_MINUTES)


def health_changes(job: Job, hops: dict[str, Any]) -> list[str]:
    """Return the hops that work now and did not when it was planned, or the other way round."""
    return [
        name
        for name, seen in job.plan.get("mended", {}).items()
        if name in hops and hops[name].healthy != seen["healthy"]
    ]


async def quarantine(site: Site, request: Request) -> Page:
    """Show what is held, by reason, and a page of it."""
    query = request.query_params
    state = query.get("state") if query.get("state") in STATES else None
    after = int(query["after"]) if query.get("after", "").isdecimal() else 0
    wanted = HeldWanted(
        (state,) if state else STATES[:2],
        query.get("reason") or None,
        query.get("kind") or None,
        min(after, 2**62),
    )
    async with site.reading() as opened:
        groups, exact = await count_open(opened.connection, opened.flow)
        rows, more = await read_held_page(opened.connection, opened.flow, wanted, _PAGE)
    kept = {k: v for k, v in query.items() if k in ("state", "reason", "kind")}
    nxt = urlencode({**kept, "after": rows[-1].quarantine_id}) if more else None
    data = {"groups": groups, "exact": exact, "rows": rows, "following": nxt, "wanted": wanted}
    return Page("quarantine.html", {**data, "ids": [one.quarantine_id for one in rows]})


async def held(site: Site, request: Request) -> Page:
    """Show one row of the quarantine, without its bytes: each look at those is a row of audit."""
    text = request.path_params["number"]
    number = int(text) if text.isdecimal() and len(text) < 19 else 0  # noqa: PLR2004 - bigint
    async with site.reading() as opened:
        rows = await read_held(opened.connection, [number])
    if not rows:
        raise NotFoundError(f"there is nothing in quarantine of the number {printable(text)[:40]}")
    return Page("held.html", {"row": rows[0], "content": None})
