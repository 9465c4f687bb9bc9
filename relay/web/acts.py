"""What people do on the page: each act with a reason, for what the page showed, once.

Invariant: an act takes the ids that were drawn into its form, or a stored plan's, and never "all
that match". The audit row, with the person's name, is written before the act, or in its
transaction. A form that is sent twice is done once, and whoever comes second is told what was done.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import structlog
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from relay.diagnose.check.run_check import check_settings
from relay.diagnose.incidents.listing import list_incidents
from relay.diagnose.probe.run_probe import (
    FlowTopicMissingError,
    ProbeTopicMissingError,
    run_probe,
)
from relay.diagnose.verdicts import found_something
from relay.repair.closing import NothingToCloseError, close_incident, close_orders
from relay.repair.held import WHOLE, read_contents, read_held
from relay.repair.resolving import Decision, resolve
from relay.repair.selection import Selection as HeldSelection
from relay.replay.conductor import RunOptions
from relay.replay.jobs import ReplayError, find_job, move
from relay.replay.planning import Wanted, make_plan
from relay.replay.running import run_until_stopped
from relay.replay.selection import Selection
from relay.runtime.audit import Action, note_action, note_look
from relay.runtime.operator_connection import NotPermittedError, operator_connection
from relay.runtime.settings import Settings
from relay.runtime.settings_model import DatabaseSettings
from relay.runtime.tasks import awaited, background
from relay.web.guard import Form, read_fields
from relay.web.pages.repair import expired, health_changes
from relay.web.people import NotAllowedError, Person
from relay.web.site import Page, Site, respond
from relay.web.snapshot import longest_deadline

_LOG: Final = structlog.get_logger("relay.web")
TYPED_ABOVE: Final = 100
"""From more orders on, their number is typed."""
_KEPT: Final = 1000
_AFTER_DEADLINE_SECONDS: Final = 1.0
_LONGEST_REASON: Final = 1000
_WITHOUT_REASON: Final = ("plan", "check", "probe", "reconcile", "pause", "look", "lose")


class NotDoneError(Exception):
    """It was not done; the message says why, and who was faster."""


@dataclass(frozen=True, slots=True)
class Doing:
    """One act under way."""

    site: Site
    person: Person
    form: Form
    reason: str
    settings: Settings

    @property
    def shown(self) -> Mapping[str, Any]:
        """What the form was drawn for."""
        return self.form.shown

    def connection(self) -> Any:
        """Open the operator's connection."""
        return operator_connection(self.settings.database.dsn, "web")

    def require_number(self, count: int) -> None:
        """Refuse many orders whose number was not typed.

        Raises:
            NotDoneError: it was not, or is another one.
        """
        typed = self.form.fields.get("number", "").replace(",", "").strip()
        if count > TYPED_ABOVE and typed != str(count):
            raise NotDoneError(f"type the number of orders, {count}, to say that you mean them all")


Do = Callable[[Doing], Awaitable[str]]


@dataclass(slots=True)
class Acts:
    """Does what forms ask for, each drawing of a form once.

    Attributes:
        stop: ends replays that run here: paused, they go on elsewhere.
    """

    site: Site
    stop: asyncio.Event
    _done: OrderedDict[str, asyncio.Task[str]] = field(default_factory=OrderedDict)
    _replays: set[asyncio.Task[None]] = field(default_factory=set)

    async def post(self, _site: Site, request: Request) -> Response:
        """Do what a form asks for, and send to the page that shows it."""
        name = request.path_params["act"]
        if name not in (*_ACTS, "run", "look"):
            raise NotAllowedError("there is no such act", status=404)
        person = self.site.gate.person(request)
        operator = self.site.web.operator_url
        if operator is None or person.role != "operator":
            raise NotAllowedError("this page, or this person, may only look")
        form = self.site.forms.read(person, name, await read_fields(request))
        reason = form.fields.get("reason", "").strip()[:_LONGEST_REASON]
        if not reason and name not in _WITHOUT_REASON:
            raise NotDoneError("say why: the reason is kept in the audit log")
        login = DatabaseSettings(url=operator)
        settings = self.site.settings.model_copy(update={"database": login})
        doing = Doing(self.site, person, form, reason, settings)
        if name == "look":
            return await self._look(doing, request)
        task, again = self._once(doing)
        target = await asyncio.shield(task)
        if again:
            target += "?again=1"
        return RedirectResponse(target, 303)

    def _once(self, doing: Doing) -> tuple[asyncio.Task[str], bool]:
        known = self._done.get(doing.form.once)
        if known is not None:
            return known, True

        async def done() -> str:
            _LOG.info("act", act=doing.form.act, who=doing.person.name, why=doing.reason)
            if doing.form.act == "run":
                return await self._run(doing)
            return await _ACTS[doing.form.act](doing)

        task = awaited(done(), doing.form.act)
        self._done[doing.form.once] = task
        while len(self._done) > _KEPT:
            self._done.popitem(last=False)
        return task, False

    async def _run(self, doing: Doing) -> str:
        """Begin a stored plan, or go on with a paused one, beside the page."""
        async with doing.connection() as connection:
            job = await find_job(connection, doing.shown["replay"])
        if job.state != doing.shown["state"]:
            by = f", by {job.run_by}" if job.run_by else ""
            raise NotDoneError(f"replay {job.replay_id} is {job.state} by now{by}")
        if expired(job):
            raise NotDoneError("this plan is older than ten minutes: plan anew, and look again")
        night = self.site.watcher.night
        changed = (
            [] if night is None else health_changes(job, {h.name: h for h in night.status.hops})
        )
        if changed and job.state == "planned":
            raise NotDoneError(f"{', '.join(changed)} changed since the plan: plan anew")
        doing.require_number(job.item_count + len(job.besides))
        wait = longest_deadline(doing.settings) + _AFTER_DEADLINE_SECONDS
        options = RunOptions(wait_seconds=wait if job.target_topic is None else 0.0)
        started = asyncio.Event()

        async def conduct() -> None:
            try:
                await run_until_stopped(
                    doing.settings, job, options, self.stop, who=doing.person.name,
                    why=doing.reason, tell=lambda _progress: started.set(),
                )  # fmt: skip
            finally:
                started.set()

        task = background(conduct(), "replay")
        self._replays.add(task)
        task.add_done_callback(self._replays.discard)
        await started.wait()
        if task.done():
            task.result()
        return f"/replays/{job.replay_id}"

    async def _look(self, doing: Doing, request: Request) -> Response:
        """Show the bytes of one row; the look is a row of the audit log first."""
        number, download = doing.shown["held"], "download" in doing.form.fields
        async with doing.connection() as connection:
            rows = await read_held(connection, [number])
            await note_look(connection, [number], doing.person.name)
            contents = await read_contents(connection, [number], WHOLE if download else 65_536)
        content = contents.get(number)
        if download:
            headers = {"content-disposition": f'attachment; filename="quarantine-{number}.bin"'}
            value = (content.value if content else None) or b""
            return Response(value, media_type="application/octet-stream", headers=headers)
        page = Page("held.html", {"row": rows[0], "content": content})
        return respond(self.site, request, page, doing.person, {"away": None, "as_of": None})

    async def end(self) -> None:
        """Wait for the replays that run here: they pause."""
        self.stop.set()
        if self._replays:
            await asyncio.wait(self._replays)


async def _plan(doing: Doing) -> str:
    shown = doing.shown
    if "incident" in shown:
        selection = Selection(incidents=(shown["incident"],))
    else:
        chosen = doing.form.fields.get("order")
        orders = shown["orders"]
        if shown.get("choose"):
            wanted = set((chosen or "").split("\n"))
            orders = [one for one in orders if one in wanted]
        if not orders:
            raise NotDoneError("choose the orders first")
        selection = Selection(orders=tuple(orders))
    missing = "write_missing" in doing.form.fields
    wanted_plan = Wanted(selection, doing.person.name, write_missing=missing)
    job = await make_plan(doing.settings, wanted_plan)
    return f"/replays/{job.replay_id}"


async def _move(doing: Doing, state: str, result: str, trouble: str | None = None) -> str:
    async with doing.connection() as connection:
        job = await find_job(connection, doing.shown["replay"])
        who = doing.person.name
        await move(connection, job, state, who=who, trouble=trouble, result=result)
    return f"/replays/{job.replay_id}"


async def _pause(doing: Doing) -> str:
    return await _move(doing, "paused", "paused by hand", "paused by hand")


async def _cancel(doing: Doing) -> str:
    return await _move(doing, "cancelled", doing.reason)


async def _close_incident(doing: Doing) -> str:
    number, count = doing.shown["incident"], doing.shown["orders"]
    doing.require_number(count)
    async with doing.connection() as connection:
        flow = doing.settings.flow
        (seen,) = await list_incidents(connection, flow, closed=True, incident_id=number) or (None,)
        if seen is None or seen.closed_at is not None:
            by = "" if seen is None else f" by {seen.closed_by}: {seen.closed_why}"
            raise NotDoneError(f"I-{number} was closed already{by}")
        if seen.orders != count:
            raise NotDoneError(
                f"I-{number} has {seen.orders} orders by now, the page showed {count}: look again"
            )
        await close_incident(connection, number, who=doing.person.name, why=doing.reason)
    return f"/incidents/I-{number}"


async def _close_orders(doing: Doing) -> str:
    orders = doing.shown["orders"]
    doing.require_number(len(orders))
    async with doing.site.reading() as opened:
        found = await opened.diagnose(orders)
    fine = [one.order_id for one in found if not found_something(one.verdict)]
    if fine:
        raise NotDoneError(f"not overdue, or closed already: {', '.join(fine[:5])}")
    async with doing.connection() as connection:
        who, why = doing.person.name, doing.reason
        await close_orders(connection, doing.settings.flow, found, who=who, why=why)
    return f"/orders/{quote(orders[0], safe='')}"


async def _note(doing: Doing) -> str:
    name = f"I-{doing.shown['incident']}"
    async with doing.connection() as connection:
        await note_action(connection, Action(doing.person.name, "note", name, doing.reason))
    return f"/incidents/{name}"


async def _resolve(doing: Doing, decision: Decision) -> str:
    ids = list(doing.shown["held"])
    doing.require_number(len(ids))
    async with doing.connection() as connection:
        selection = HeldSelection(ids=tuple(ids))
        done = [one async for one in resolve(connection, ids, decision, selection)][-1]
    if not done.ids:
        states = ", ".join(f"{count} {state}" for state, count in done.left.items())
        raise NotDoneError(f"nothing was changed: {states}")
    return f"/quarantine/{ids[0]}" if len(ids) == 1 else "/quarantine"


async def _release(doing: Doing) -> str:
    return await _resolve(doing, Decision.release(doing.person.name, doing.reason))


async def _discard(doing: Doing) -> str:
    return await _resolve(doing, Decision.discard(doing.person.name, doing.reason))


async def _noted(doing: Doing, name: str) -> None:
    async with doing.connection() as connection:
        await note_action(connection, Action(doing.person.name, name, None, doing.reason or None))


async def _check(doing: Doing) -> str:
    await _noted(doing, "check")
    await check_settings(doing.settings)
    return "/checks"


async def _probe(doing: Doing) -> str:
    await _noted(doing, "probe")
    settings = doing.settings
    await run_probe(
        settings.database.dsn,
        settings.kafka,
        settings.flow,
        within_seconds=10.0,
        through_processor=settings.probe.through_processor,
    )
    return "/probes"


async def _reconcile(doing: Doing) -> str:
    hours = doing.form.fields.get("hours", "1")
    if hours not in ("1", "6", "24"):
        raise NotDoneError("choose 1, 6 or 24 hours")
    await _noted(doing, "reconcile")
    if not doing.site.comparison.start(doing.settings, int(hours), doing.person.name):
        raise NotDoneError(f"one is under way, begun by {doing.site.comparison.by}")
    return "/reconcile"


async def _lose(doing: Doing) -> str:
    lose, hop = doing.site.lose, doing.form.fields.get("hop", "")
    if lose is None or hop not in ("place", "publish", "process"):
        raise NotDoneError("there is nothing to lose orders with")
    await lose(hop)
    return "/"


_ACTS: Final[Mapping[str, Do]] = {
    "plan": _plan,
    "pause": _pause,
    "cancel": _cancel,
    "close-incident": _close_incident,
    "close-orders": _close_orders,
    "note": _note,
    "release": _release,
    "discard": _discard,
    "check": _check,
    "probe": _probe,
    "reconcile": _reconcile,
    "lose": _lose,
}

NOT_DONE: Final = (
    *(NotDoneError, NothingToCloseError, ReplayError, NotPermittedError),
    *(ProbeTopicMissingError, FlowTopicMissingError),
)
