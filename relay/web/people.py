"""Who asks, and whether that person may look or act.

Invariant: pure but for the password's hash. Nobody is taken for a person by a header that the proxy
did not send; a wrong password costs as much time as a right one, and only so many are tried.
"""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from itsdangerous import BadData, URLSafeTimedSerializer
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
        key: signs sessions and forms; another one at every start ends them all.
    """

    settings: WebSettings
    key: str
    attempts: Attempts = field(default_factory=Attempts)

    def person(self, request: Request) -> Person:
        """Return who asks.

        Raises:
            NotAllowedError: nobody who may look.
        """
        if self.settings.auth == "proxy":
            return self._behind_proxy(request)
        if self.settings.auth == "password":
            return self._logged_in(request)
        return Person(f"{this_person()} (page)", "operator")

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
        operator = bool(roles & set(settings.operator_roles))
        if settings.viewer_roles and not operator and not roles & set(settings.viewer_roles):
            raise NotAllowedError("this person has no role that may look (web.viewer_roles)")
        name = printable(names[0].strip())[:_LONGEST_NAME]
        return Person(name, "operator" if operator else "viewer")

    def _sessions(self) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self.key, salt="relay-session")

    def _logged_in(self, request: Request) -> Person:
        cookie = request.cookies.get(COOKIE, "")
        try:
            name = self._sessions().loads(cookie, max_age=round(self.settings.session_hours * 3600))
        except BadData:
            raise NotAllowedError("log in first", status=401, login=True) from None
        return Person(str(name), "operator")

    def session(self, name: str) -> str:
        """Return the cookie of whoever gave the password."""
        return str(self._sessions().dumps(printable(name.strip())[:_LONGEST_NAME] or _ANONYMOUS))

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
