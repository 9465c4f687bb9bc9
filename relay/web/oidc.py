"""All hops: logging in at an OpenID provider, by the authorization code flow with PKCE.

Invariant: nobody is logged in but by an ID token of the configured issuer, signed with its keys,
for this client, with the nonce of a login that this browser began; what is not so is refused with
a sentence. A provider that does not answer keeps nobody from being told so, and stops nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.starlette_client import OAuth
from httpx2 import HTTPError
from itsdangerous import BadData, URLSafeTimedSerializer
from joserfc.errors import JoseError
from starlette.requests import Request

from relay.runtime.printable import printable
from relay.runtime.settings_web import WebSettings
from relay.web.people import NotAllowedError, Person, role_of

_LOG: Final = structlog.get_logger("relay.web")
LOGIN_COOKIE: Final = "relay_login"
LOGIN_SECONDS: Final = 600
"""A login that was begun has to be done in so many seconds."""
CALLBACK: Final = "/login/done"
_TIMEOUT_SECONDS: Final = 10.0
# Logins begun in several tabs; an older one has to be begun again.
_BEGUN_AT_MOST: Final = 3
_LONGEST_NAME: Final = 200
# What a foreign answer can fail with: it is not reached, no JSON, no key, no claim.
_FAILURES: Final = (
    AuthlibBaseError, JoseError, HTTPError, RuntimeError, ValueError, KeyError, TypeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Somebody whom the provider vouches for.

    Attributes:
        next: the page that he wanted.
        id_token: to end the provider's own session with.
    """

    person: Person
    next: str
    id_token: str


def claim_at(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim of this name, or what stands at it as a path: `realm_access.roles`."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


@dataclass(slots=True)
class Provider:
    """The OpenID provider of the settings.

    Attributes:
        key: signs what the browser keeps between the way there and the way back.
    """

    settings: WebSettings
    key: str
    _client: Any = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        secret = settings.oidc_client_secret
        self._client = OAuth().register(
            "provider",
            client_id=settings.oidc_client_id,
            client_secret=None if secret is None else secret.get_secret_value(),
            server_metadata_url=f"{self._issuer.rstrip('/')}/.well-known/openid-configuration",
            client_kwargs={
                "scope": " ".join(settings.oidc_scopes),
                "code_challenge_method": "S256",
                "timeout": _TIMEOUT_SECONDS,
            },
        )

    @property
    def _issuer(self) -> str:
        return self.settings.oidc_issuer or ""

    @property
    def name(self) -> str:
        """Return the host that people log in at."""
        return urlsplit(self._issuer).hostname or ""

    def _address(self, path: str) -> str:
        return f"{(self.settings.public_url or '').rstrip('/')}{path}"

    async def begin(self, request: Request, wanted: str) -> tuple[str, str]:
        """Return where to send the browser, and the cookie that it needs on the way back.

        Raises:
            NotAllowedError: the provider does not answer.
        """
        session = request.scope["session"] = self._begun(request)
        try:
            answer = await self._client.authorize_redirect(request, self._address(CALLBACK))
        except _FAILURES as error:
            raise self._unreachable(error) from error
        state = list(session)[-1]
        kept = dict(list(session.items())[-_BEGUN_AT_MOST:])
        kept[state]["next"] = wanted
        return answer.headers["location"], self._signer().dumps(kept)

    async def finish(self, request: Request) -> LoggedIn:
        """Return who came back from the provider.

        Raises:
            NotAllowedError: the provider does not say so, or not to this browser.
        """
        session = request.scope["session"] = self._begun(request)
        begun = session.get(f"_state_provider_{request.query_params.get('state', '')}")
        if begun is None:
            raise NotAllowedError("this login was not begun here, or is too old: log in again")
        if "error" in request.query_params:
            said = printable(request.query_params["error"])[:100]
            raise NotAllowedError(f"the login provider refused: {said}")
        try:
            token = await self._client.authorize_access_token(
                request, claims_options=self._claims()
            )
        except HTTPError as error:
            raise self._unreachable(error) from error
        except _FAILURES as error:
            _LOG.warning("login_refused", why=f"{type(error).__name__}: {error}")
            raise NotAllowedError(
                f"the login provider's answer is not believed ({type(error).__name__})"
            ) from error
        claims = token.get("userinfo")
        if not claims:
            raise NotAllowedError("the login provider sent no ID token")
        return LoggedIn(self.person(claims), str(begun["next"]), str(token["id_token"]))

    def person(self, claims: Mapping[str, Any]) -> Person:
        """Return whom an ID token is about.

        Raises:
            NotAllowedError: his roles are none that may look.
        """
        names = (claims.get(one) for one in (self.settings.oidc_name_claim, "email", "sub"))
        name = next((one for one in names if isinstance(one, str) and one.strip()), "")
        said = claim_at(claims, self.settings.oidc_roles_claim)
        roles = [said] if isinstance(said, str) else said if isinstance(said, list) else []
        role = role_of(self.settings, {str(one) for one in roles})
        return Person(printable(name.strip())[:_LONGEST_NAME], role)

    async def ending(self, id_token: str | None) -> str | None:
        """Return where the provider's own session is ended; None: it does not say, or is away."""
        try:
            made = await self._client.create_logout_url(
                post_logout_redirect_uri=self._address("/login"),
                id_token_hint=id_token,
                client_id=self.settings.oidc_client_id,
            )
        except _FAILURES as error:
            _LOG.warning("provider_session_not_ended", why=f"{type(error).__name__}: {error}")
            return None
        return str(made["url"]) if urlsplit(made["url"]).scheme in ("http", "https") else None

    def _claims(self) -> dict[str, Any]:
        return {
            "iss": {"essential": True, "value": self._issuer},
            "aud": {"essential": True, "value": self.settings.oidc_client_id},
            "sub": {"essential": True},
            "exp": {"essential": True},
        }

    def _begun(self, request: Request) -> dict[str, Any]:
        """Return the logins that this browser began."""
        try:
            found = self._signer().loads(
                request.cookies.get(LOGIN_COOKIE, ""), max_age=LOGIN_SECONDS
            )
        except BadData:
            return {}
        return dict(found)

    def _signer(self) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self.key, salt="relay-login")

    def _unreachable(self, error: Exception) -> NotAllowedError:
        _LOG.error(
            "provider_unreachable", issuer=self._issuer, why=f"{type(error).__name__}: {error}"
        )
        text = f"the login provider {self.name} does not answer as it should: tell whoever runs it"
        return NotAllowedError(text, status=502)
