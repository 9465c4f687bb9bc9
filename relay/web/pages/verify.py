"""The pages that verify, and who runs what: checks, probes, reconcile, processes, audit.

Invariant: reads only; a check or a canary that somebody wants now is run by `acts.py`.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request

from relay.diagnose.check.history import read_checks, read_probes
from relay.diagnose.check.result import State
from relay.diagnose.reconcile.findings import MEANINGS, NEXT
from relay.repair.audited import read_audit
from relay.runtime.settings_shown import shown_settings
from relay.web.site import Page, Site

_WORST_FIRST: Final = (State.FAILED, State.UNKNOWN, State.WARNING, State.OK)
_AUDIT_PAGE: Final = 100


async def checks(site: Site, _request: Request) -> Page:
    """Show the latest check, failures first, what changed since a healthy one, and the history."""
    async with site.reading() as opened:
        runs = await read_checks(opened.connection)
    results = sorted(runs[0].results, key=lambda one: _WORST_FIRST.index(one.state)) if runs else []
    return Page("checks.html", {"runs": runs, "results": results})


async def probes(site: Site, _request: Request) -> Page:
    """Show the latest canaries."""
    async with site.reading() as opened:
        return Page("probes.html", {"runs": await read_probes(opened.connection)})


async def reconcile(site: Site, _request: Request) -> Page:
    """Show the comparison that was run last from this page."""
    return Page(
        "reconcile.html", {"runner": site.comparison, "meanings": MEANINGS, "next_of": NEXT}
    )


async def processes(site: Site, _request: Request) -> Page:
    """Show who runs, and with which settings this page does."""
    found = await site.watcher.current()
    settings = shown_settings(site.settings, site.config, site.environment)
    data = {"processes": found.status.processes if found else (), "settings": settings}
    return Page("processes.html", {**data, "known": found is not None})


async def audit(site: Site, request: Request) -> Page:
    """Show who did what, the newest first."""
    query = request.query_params
    before = int(query["before"]) if query.get("before", "").isdecimal() else None
    asked = {name: query.get(name) or None for name in ("who", "action", "subject")}
    async with site.reading() as opened:
        rows = await read_audit(
            opened.connection,
            None,
            asked["action"],
            asked["subject"],
            _AUDIT_PAGE,
            who=asked["who"],
            before=None if before is None else min(before, 2**62),
        )
    kept = {name: value for name, value in asked.items() if value}
    more = len(rows) == _AUDIT_PAGE
    nxt = urlencode({**kept, "before": rows[-1].audit_id}) if more else None
    return Page("audit.html", {"rows": rows, "asked": asked, "following": nxt})
