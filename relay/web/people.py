"""Who asks, and whether that person may look or act.

Invariant: pure but for the password's hash. Nobody is taken for a person by a header that the proxy
did not send; a wrong password costs as much time as a right one, and only so many are tried.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from starlette.requests import Request

from relay.runtime.audit import this_person
from relay.runtime.printable import printable
from relay.runtime.settings_web import WebSettings

Role = Literal["viewer", "operator"]
COOKIE: Final = "relay_session"
_LONGEST_NAME: Final = 200
FROM_ONE: Final = 5
"""Passwords that may be tried from one address in WINDOW_SECONDS."""
FROM_ALL: Final = 30
"""Passwords that may be tried from all addresses in WINDOW_SECONDS."""
WINDOW_SECONDS: Final = 60.0
_ADDRESSES: Final = 1000
_SESSIONS: Final = 10_000
_ANONYMOUS: Final = "somebody with the password"


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks. `name` stands in the audit log for what he does."""

    name: str
    role: Role


class NotAllowedError(Exception):
    """Nobody may have this answer; `status` is the HTTP status, `login`: logging in would help."""

    def __init__(self, text: str, *, status: int = 403, login: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.login = login


def role_of(settings: WebSettings, roles: Collection[str]) -> Role:
    """Return what somebody with these roles may do.

    Raises:
        NotAllowedError: he may not even look.
    """
    if not set(settings.operator_roles).isdisjoint(roles):
        return "operator"
    if settings.viewer_roles and set(settings.viewer_roles).isdisjoint(roles):
        raise NotAllowedError("this person has no role that may look (web.viewer_roles)")
    return "viewer"


@dataclass(slots=True)
class Sessions:
    """Who is logged in, by the cookie; in memory, and ended here: a copied cookie ends, too."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    _open: OrderedDict[str, tuple[Person, float, str | None]] = field(default_factory=OrderedDict)

    def begin(self, person: Person, id_token: str | None = None) -> str:
        """Return the cookie of a new session; of very many the oldest end."""
        cookie = secrets.token_urlsafe(32)
        self._open[cookie] = person, self.clock() + self.seconds, id_token
        while len(self._open) > _SESSIONS:
            self._open.popitem(last=False)
        return cookie

    def person(self, cookie: str) -> Person | None:
        """Return whose session it is; None: nobody's, or it is over."""
        known = self._open.get(cookie)
        if known is None or self.clock() >= known[1]:
            self._open.pop(cookie, None)
            return None
        return known[0]

    def end(self, cookie: str) -> str | None:
        """End a session; return its ID token."""
        known = self._open.pop(cookie, None)
        return None if known is None else known[2]


@dataclass(slots=True)
class Attempts:
    """How many passwords may be tried: FROM_ONE an address, FROM_ALL in all, in WINDOW_SECONDS.

    Memory is bounded: of many addresses the oldest are forgotten, and FROM_ALL still holds.
    """

    clock: Callable[[], float] = time.monotonic
    _tried: OrderedDict[str, list[float]] = field(default_factory=OrderedDict)

    def allow(self, address: str) -> bool:
        """Tell whether another one may be tried, and count it."""
        now = self.clock()
        for known in list(self._tried):
            recent = [at for at in self._tried[known] if now - at < WINDOW_SECONDS]
            if recent:
                self._tried[known] = recent
            else:
                del self._tried[known]
        own: Sequence[float] = self._tried.get(address, ())
        if len(own) >= FROM_ONE or sum(map(len, self._tried.values())) >= FROM_ALL:
            return False
        self._tried.setdefault(address, []).append(now)
        while len(self._tried) > _ADDRESSES:
            self._tried.popitem(last=False)
        return True


@dataclass(slots=True)
class Gate:
    """Says who asks, by the settings' way.

    Attributes:
        sessions: who is logged in; a new start ends them all.
    """

    settings: WebSettings
    attempts: Attempts = field(default_factory=Attempts)
    sessions: Sessions = field(init=False)
    _anybody: Person = field(init=False)

    def __post_init__(self) -> None:
        self._anybody = Person(f"{this_person()} (page)", "operator")
        self.sessions = Sessions(self.settings.session_hours * 3600)

    @property
    def logs_in(self) -> bool:
        """Whether people log in on the page."""
        return self.settings.auth in ("password", "oidc")

    def person(self, request: Request) -> Person:
        """Return who asks.

        Raises:
            NotAllowedError: nobody who may look.
        """
        if self.settings.auth == "proxy":
            return self._behind_proxy(request)
        if self.logs_in:
            return self._logged_in(request)
        return self._anybody

    def _behind_proxy(self, request: Request) -> Person:
        settings = self.settings
        peer = request.client.host if request.client else ""
        if peer not in settings.proxy_addresses:
            raise NotAllowedError("only the proxy is answered (web.proxy_addresses)")
        if settings.proxy_secret is not None:
            said = request.headers.get("x-relay-proxy-secret", "")
            known = settings.proxy_secret.get_secret_value()
            if not hmac.compare_digest(said.encode(), known.encode()):
                raise NotAllowedError("X-Relay-Proxy-Secret is not the one of the settings")
        names = request.headers.getlist(settings.proxy_user_header)
        if len(names) != 1 or not names[0].strip():
            raise NotAllowedError(
                f"the proxy did not say who asks ({settings.proxy_user_header})", status=401
            )
        roles = {
            role.strip()
            for value in request.headers.getlist(settings.proxy_roles_header)
            for role in value.split(",")
        }
        role = role_of(settings, roles)
        return Person(printable(names[0].strip())[:_LONGEST_NAME], role)

    def _logged_in(self, request: Request) -> Person:
        found = self.sessions.person(request.cookies.get(COOKIE, ""))
        if found is None:
            raise NotAllowedError("log in first", status=401, login=True)
        return found

    def session(self, name: str) -> str:
        """Return the cookie of whoever gave the password."""
        shown = printable(name.strip())[:_LONGEST_NAME] or _ANONYMOUS
        return self.sessions.begin(Person(shown, "operator"))

    def is_password(self, given: str) -> bool:
        """Tell whether it is the password; takes some tenths of a second of a core."""
        known = self.settings.password_hash
        if known is None:
            return False
        try:
            return PasswordHasher().verify(known.get_secret_value(), given)
        except (VerificationError, InvalidHashError):
            return False


def hashed(password: str) -> str:
    """Return what the setting `password_hash` takes."""
    return PasswordHasher().hash(password)
