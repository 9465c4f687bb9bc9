"""The application: which address shows what, and to whom.

Invariant: nothing but the login, the style and the scripts is shown to somebody who may not look;
every answer has the headers of `guard`. An error is a page with a sentence, and its cause is in the
log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final
from urllib.parse import quote

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from relay.diagnose.gather.lookup import NotLookedUpError
from relay.diagnose.session import UnreachableError
from relay.kafka.failures import BROKER_FAILURES
from relay.runtime.database import DATABASE_FAILURES
from relay.runtime.language import LANGUAGES
from relay.runtime.migration_files import MigrationError
from relay.telemetry.redaction import redact
from relay.web.acts import NOT_DONE, Acts
from relay.web.early import early
from relay.web.guard import WithHeaders, read_fields, require_host, require_own_origin
from relay.web.live import Fragments, live
from relay.web.oidc import CALLBACK, LOGIN_COOKIE, Provider
from relay.web.pages import find, repair, verify
from relay.web.people import COOKIE, NotAllowedError, Person
from relay.web.render import STATIC, asset_version
from relay.web.site import (
    LANGUAGE_COOKIE,
    NotFoundError,
    Page,
    Read,
    Site,
    read_page,
    respond,
)

_LOG: Final = structlog.get_logger("relay.web")
_YEAR_SECONDS: Final = 365 * 86_400
_KEPT: Final = "public, max-age=31536000, immutable"
_NO_FACTS: Final[Mapping[str, Any]] = {"away": None, "as_of": None}

_PAGES: Final[Mapping[str, Read]] = {
    "/": find.night,
    "/incidents": find.incidents,
    "/incidents/{name}": find.incident,
    "/orders": find.orders,
    "/orders/{order:path}": find.order,
    "/unreturned": find.unreturned,
    "/replays": repair.replays,
    "/replays/{name}": repair.replay,
    "/quarantine": repair.quarantine,
    "/quarantine/{number}": repair.held,
    "/checks": verify.checks,
    "/probes": verify.probes,
    "/reconcile": verify.reconcile,
    "/processes": verify.processes,
    "/audit": verify.audit,
}
_DATA: Final[Mapping[str, Callable[[Site, Request], Awaitable[Response]]]] = {
    "/search": find.search,
    "/unreturned.json": find.unreturned_data,
    "/unreturned.csv": find.unreturned_data,
    "/diagnose/{order:path}": find.order_json,
}
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class _Files(StaticFiles):
    """The style and the scripts: kept by browsers, since other contents have another address."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Answer with a file; only the address that a page of ours names is kept."""
        answer = await super().get_response(path, scope)
        asked = scope["query_string"].decode("ascii", "replace")
        found = answer.status_code in (200, 304)
        fresh = found and asked == f"v={asset_version(path)}"
        answer.headers["cache-control"] = _KEPT if fresh else "no-cache"
        return answer


def application(site: Site, stop: asyncio.Event, acts: Acts) -> WithHeaders:
    """Return the application.

    Args:
        site: what its pages are made with.
        stop: ends what is pushed.
        acts: does what forms ask for.
    """
    fragments = Fragments(site)

    async def pushed(_site: Site, request: Request) -> Response:
        return await live(site, request, fragments, stop)

    routes = [
        Route("/login", _answer(site, _login, public=True), methods=["GET", "POST"]),
        Route("/login/start", _answer(site, _start, public=True)),
        Route(CALLBACK, _answer(site, _done, public=True)),
        Route("/logout", _answer(site, _logout, public=True), methods=["POST"]),
        Route("/language/{code}", _answer(site, _language, public=True), methods=["POST"]),
        Route("/live", _answer(site, pushed)),
        Route("/acts/{act}", _answer(site, acts.post), methods=["POST"]),
        *(Route(path, _answer(site, read)) for path, read in _DATA.items()),
        *(Route(path, _paged(site, read)) for path, read in _PAGES.items()),
        Mount("/static", _Files(directory=STATIC)),
    ]
    return WithHeaders(Starlette(routes=routes, exception_handlers={404: _not_found(site)}))


def _paged(site: Site, read: Read) -> Handler:
    async def shown(site: Site, request: Request) -> Response:
        page, facts = await read_page(site, request, read)
        return respond(site, request, page, _person(site, request), facts)

    whole = _answer(site, shown)

    async def answer(request: Request) -> Response:
        return await early(site, request, _person(site, request), whole(request))

    return answer


def _person(site: Site, request: Request) -> Person | None:
    try:
        return site.gate.person(request)
    except NotAllowedError:
        return None


def _answer(
    site: Site, handle: Callable[[Site, Request], Awaitable[Response]], *, public: bool = False
) -> Handler:
    """Return a handler that judges who asks, and turns what goes wrong into a page."""

    async def answer(request: Request) -> Response:
        try:
            require_host(request, site.web)
            if request.method == "POST":
                require_own_origin(request, site.web)
            if not public:
                site.gate.person(request)
            return await handle(site, request)
        except NotAllowedError as error:
            return _refused(site, request, error)
        except NotFoundError as error:
            return _problem(site, request, str(error), 404)
        except (*NOT_DONE, NotLookedUpError) as error:
            return _problem(site, request, redact(str(error)), 409)
        except (*DATABASE_FAILURES, *BROKER_FAILURES, UnreachableError, MigrationError) as error:
            return _problem(site, request, redact(str(error)), 503)
        except Exception as error:  # noqa: BLE001 - the edge: whoever asks gets a page
            _LOG.error("request_failed", path=request.url.path, exc_info=error)
            text = f"{type(error).__name__}: {error}"
            return _problem(site, request, redact(text), 500)

    return answer


def _refused(site: Site, request: Request, error: NotAllowedError) -> Response:
    if error.login and request.method == "GET":
        if request.url.path == "/live":
            return Response(status_code=401)
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?next={quote(target, safe='')}", 303)
    _LOG.warning("refused", path=request.url.path, why=str(error))
    return _problem(site, request, str(error), error.status)


def _problem(site: Site, request: Request, text: str, status: int) -> Response:
    page = Page("problem.html", {"text": text, "status": status}, status)
    try:
        require_host(request, site.web)
    except NotAllowedError:
        return Response(f"{text}\n", status, media_type="text/plain")
    return respond(site, request, page, _person(site, request), _NO_FACTS)


def _not_found(site: Site) -> Any:
    async def answer(request: Request, _error: HTTPException) -> Response:
        person = _person(site, request)
        if person is None:
            return Response("not found\n", 404, media_type="text/plain")
        return _problem(site, request, "there is no such page", 404)

    return answer


async def _login(site: Site, request: Request) -> Response:
    if site.provider is not None:
        shown = {"next": _local(request.query_params.get("next", "/")), "wrong": ""}
        return respond(site, request, Page("login.html", shown), None, _NO_FACTS)
    if site.web.auth != "password":
        raise NotFoundError("there is no login: web.auth is neither password nor oidc")
    target = request.query_params.get("next", "/")
    wrong = ""
    if request.method == "POST":
        fields = await read_fields(request)
        target = fields.get("next", "/")
        address = request.client.host if request.client else ""
        if not site.gate.attempts.allow(address):
            _LOG.warning("login_refused", address=address, why="too many attempts")
            raise NotAllowedError("too many attempts: wait a minute", status=429)
        given = fields.get("password", "")[:1024]
        if await asyncio.to_thread(site.gate.is_password, given):
            _LOG.info("login", name=fields.get("name", "")[:200], address=address)
            answer = RedirectResponse(_local(target), 303)
            set_cookie(answer, site, COOKIE, site.gate.session(fields.get("name", "")))
            return answer
        _LOG.warning("login_refused", address=address, why="wrong password")
        wrong = "that is not the password"
    page = Page("login.html", {"next": _local(target), "wrong": wrong}, 401 if wrong else 200)
    return respond(site, request, page, None, _NO_FACTS)


def _provider(site: Site) -> Provider:
    if site.provider is None:
        raise NotFoundError("there is no such login: web.auth is not oidc")
    return site.provider


async def _start(site: Site, request: Request) -> Response:
    """Send to the OpenID provider."""
    wanted = _local(request.query_params.get("next", "/"))
    target, begun = await _provider(site).begin(request, wanted)
    answer = RedirectResponse(target, 303)
    set_cookie(answer, site, LOGIN_COOKIE, begun)
    return answer


async def _done(site: Site, request: Request) -> Response:
    """Log in whoever comes back from the provider.

    A page and no redirect: a browser that comes from another site would not send the new cookie.
    """
    found = await _provider(site).finish(request)
    _LOG.info("login", name=found.person.name, role=found.person.role)
    page = Page("onward.html", {"target": found.next, "text": "logged in"})
    answer = respond(site, request, page, None, _NO_FACTS)
    set_cookie(answer, site, COOKIE, site.gate.sessions.begin(found.person, found.id_token))
    answer.delete_cookie(LOGIN_COOKIE)
    return answer


def _local(target: str) -> str:
    """Return an address of this site; another one's is refused."""
    fine = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if fine else "/"


def set_cookie(answer: Response, site: Site, name: str, value: str) -> None:
    """Set a cookie that no script and no other site gets."""
    secure = (site.web.public_url or "").startswith("https:")
    answer.set_cookie(
        name, value, max_age=_YEAR_SECONDS if name == LANGUAGE_COOKIE else None, path="/",
        httponly=True, secure=secure, samesite="strict" if name == COOKIE else "lax",
    )  # fmt: skip


async def _logout(site: Site, request: Request) -> Response:
    """End the session here, and the provider's, whose address no form may lead to (CSP)."""
    id_token = site.gate.sessions.end(request.cookies.get(COOKIE, ""))
    target = None if site.provider is None else await site.provider.ending(id_token)
    if target is None:
        answer: Response = RedirectResponse("/login" if site.gate.logs_in else "/", 303)
    else:
        page = Page("onward.html", {"target": target, "text": "logged out"})
        answer = respond(site, request, page, None, _NO_FACTS)
    answer.delete_cookie(COOKIE)
    return answer


async def _language(site: Site, request: Request) -> Response:
    code = request.path_params["code"]
    if code not in LANGUAGES:
        raise NotFoundError("there is no such language here")
    answer = RedirectResponse(_local((await read_fields(request)).get("next", "/")), 303)
    set_cookie(answer, site, LANGUAGE_COOKIE, code)
    return answer
