"""A small OpenID provider of Authlib's own server side, over real HTTP, that can be told to lie.

Everybody who comes is logged in at once, as `person` says; codes are used once, PKCE is required.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from authlib.oauth2.rfc6749 import (
    AuthorizationCodeMixin,
    AuthorizationServer,
    ClientMixin,
    OAuth2Error,
    OAuth2Request,
    grants,
)
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core.grants import OpenIDCode
from joserfc.jwk import KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from relay.runtime.http_server import listener, serve_application

CLIENT_ID, CLIENT_SECRET = "relay-page", "the client's secret"


@dataclass
class Person:
    """Whom the provider logs in: the claims of the ID token."""

    claims: dict[str, Any]

    def get_user_id(self) -> str:
        return str(self.claims["sub"])


@dataclass
class Provider:
    """The provider's state, and what it is told to do.

    Attributes:
        deny: the person does not consent.
        broken: which part of the answer is wrong, as `test_oidc.py` names them.
        ended: the queries that ended a session here.
    """

    url: str = ""
    redirect_uris: tuple[str, ...] = ()
    person: Person = field(default_factory=lambda: Person({"sub": "u-1"}))
    deny: bool = False
    broken: str = ""
    ended: list[dict[str, str]] = field(default_factory=list)
    seen: list[dict[str, str]] = field(default_factory=list)
    keys: KeySet = field(
        default_factory=lambda: KeySet([RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"})])
    )

    def says(self, **claims: Any) -> None:
        self.person = Person({"sub": "u-1", **claims})


class _Client(ClientMixin):
    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    def get_client_id(self) -> str:
        return CLIENT_ID

    def get_default_redirect_uri(self) -> str:
        return self.provider.redirect_uris[0]

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in self.provider.redirect_uris

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == CLIENT_SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "client_secret_basic"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


@dataclass
class _Code(AuthorizationCodeMixin):
    code: str
    redirect_uri: str
    scope: str
    nonce: str | None
    code_challenge: str
    code_challenge_method: str
    person: Person

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> int:
        return int(time.time())

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


class _CodeGrant(grants.AuthorizationCodeGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic",)

    def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
        sent = request.payload.data
        self.server.codes[code] = _Code(
            code, sent["redirect_uri"], sent["scope"], sent.get("nonce"), sent["code_challenge"],
            sent["code_challenge_method"], request.user,
        )  # fmt: skip

    def query_authorization_code(self, code: str, client: ClientMixin) -> _Code | None:
        return self.server.codes.get(code)

    def delete_authorization_code(self, authorization_code: _Code) -> None:
        del self.server.codes[authorization_code.code]

    def authenticate_user(self, authorization_code: _Code) -> Person:
        return authorization_code.person


class _OpenID(OpenIDCode):
    def __init__(self, provider: Provider) -> None:
        super().__init__(require_nonce=True)
        self.provider = provider

    def exists_nonce(self, nonce: str, request: OAuth2Request) -> bool:
        return False

    def resolve_client_private_key(self, client: ClientMixin) -> Any:
        if self.provider.broken == "key":
            return RSAKey.generate_key(2048, {"kid": "k1"})
        return self.provider.keys.keys[0]

    def get_encode_header(self, client: ClientMixin) -> dict[str, str]:
        return {"alg": "RS256", "kid": "k1"}

    def get_client_claims(self, client: ClientMixin) -> dict[str, Any]:
        broken = self.provider.broken
        claims: dict[str, Any] = {"iss": self.provider.url, "aud": [CLIENT_ID]}
        claims |= {"iss": "https://evil.example"} if broken == "iss" else {}
        claims |= {"aud": ["another-client"]} if broken == "aud" else {}
        return claims | ({"exp": int(time.time()) - 3600} if broken == "exp" else {})

    def generate_user_info(self, user: Person, scope: str) -> dict[str, Any]:
        nonce = {"nonce": "another"} if self.provider.broken == "nonce" else {}
        return {**user.claims, **nonce}


class _Request(OAuth2Request):
    @property
    def args(self) -> dict[str, str]:
        return self.payload.data

    @property
    def form(self) -> dict[str, str]:
        return self.payload.data


class _Server(AuthorizationServer):
    def __init__(self, provider: Provider) -> None:
        super().__init__()
        self.provider = provider
        self.codes: dict[str, _Code] = {}
        make = BearerTokenGenerator(lambda **_given: "an-access-token", None, lambda *_: 300)
        self.register_token_generator("default", make)
        self.register_grant(_CodeGrant, [_OpenID(provider), CodeChallenge(required=True)])

    def query_client(self, client_id: str) -> _Client | None:
        return _Client(self.provider) if client_id == CLIENT_ID else None

    def save_token(self, token: Any, request: Any) -> None:
        pass

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        pass

    def create_oauth2_request(self, request: Any) -> OAuth2Request:
        method, uri, headers, fields = request
        made = _Request(method, uri, headers=headers)
        made.payload = BasicOAuth2Payload(fields)
        return made

    def handle_response(self, status: int, body: Any, headers: Any) -> Response:
        if isinstance(body, dict):
            return JSONResponse(body, status, headers=dict(headers))
        return PlainTextResponse(body or "", status, headers=dict(headers))


def _application(provider: Provider) -> Starlette:
    server = _Server(provider)

    async def metadata(_request: Request) -> Response:
        url = provider.url
        return JSONResponse({
            "issuer": url, "authorization_endpoint": f"{url}/authorize",
            "token_endpoint": f"{url}/token", "jwks_uri": f"{url}/keys",
            "end_session_endpoint": f"{url}/end", "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        })  # fmt: skip

    async def keys(_request: Request) -> Response:
        return JSONResponse(provider.keys.as_dict(private=False))

    async def authorize(request: Request) -> Response:
        fields = dict(request.query_params)
        provider.seen.append(fields)
        asked = ("GET", str(request.url), request.headers, fields)
        try:
            grant = server.get_consent_grant(asked, provider.person)
        except OAuth2Error as error:
            return PlainTextResponse(str(error), 400)
        who = None if provider.deny else provider.person
        return server.create_authorization_response(grant.request, who, grant)

    async def token(request: Request) -> Response:
        if provider.broken == "token_500":
            return PlainTextResponse("<h1>oops</h1>", 500)
        form = dict(parse_qsl((await request.body()).decode()))
        answer = server.create_token_response(("POST", str(request.url), request.headers, form))
        if provider.broken == "no_id_token":
            return JSONResponse({"access_token": "x", "token_type": "Bearer"})
        return answer

    async def end(request: Request) -> Response:
        provider.ended.append(dict(request.query_params))
        return RedirectResponse(request.query_params["post_logout_redirect_uri"], 303)

    return Starlette(routes=[
        Route("/.well-known/openid-configuration", metadata), Route("/keys", keys),
        Route("/authorize", authorize), Route("/token", token, methods=["POST"]),
        Route("/end", end),
    ])  # fmt: skip


@asynccontextmanager
async def openid_provider(*redirect_uris: str) -> AsyncIterator[Provider]:
    """Serve a provider, under the name localhost: another site than the page's 127.0.0.1."""
    provider = Provider(redirect_uris=redirect_uris)
    stop, listening = asyncio.Event(), asyncio.Event()
    with listener("127.0.0.1", 0, "") as opened:
        provider.url = f"http://localhost:{opened.getsockname()[1]}"
        serving = asyncio.create_task(
            serve_application(
                _application(provider), opened, stop, lambda _: listening.set(), drain_seconds=1
            )
        )
        await listening.wait()
        yield provider
        stop.set()
        await serving
