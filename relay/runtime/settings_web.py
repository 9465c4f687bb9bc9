"""The settings of the operator's page.

Invariant: beyond this machine there is no page without somebody who says who asks: an address that
is not the loopback, and no authentication, contradict each other.
"""

from __future__ import annotations

import ipaddress
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from relay.runtime.settings_limits import Pause, Port
from relay.runtime.settings_model import Section

Authentication = Literal["none", "proxy", "password", "oidc"]


class WebSettings(Section):
    """The operator's page (`relay web`)."""

    host: str = Field(
        default="127.0.0.1", description="address; others than this machine's own need `auth`"
    )
    port: Port = Field(default=8080, description="TCP port; 0: any free one")
    public_url: str | None = Field(
        default=None, description="where people reach it, as https://relay.example, behind a proxy"
    )
    operator_url: SecretStr | None = Field(
        default=None,
        description="postgresql:// URL of a login with relay_operator, for what people do on the "
        "page; without it the page only reads",
    )
    auth: Authentication = Field(
        default="none",
        description="who says who asks: none (this machine only), proxy (a header), password, "
        "oidc (an OpenID provider)",
    )
    proxy_addresses: tuple[str, ...] = Field(
        default=("127.0.0.1", "::1"),
        description="for proxy: the only addresses that are answered",
    )
    proxy_user_header: str = Field(
        default="X-Forwarded-User", description="for proxy: holds the person's name"
    )
    proxy_roles_header: str = Field(
        default="X-Forwarded-Groups", description="for proxy: holds roles, separated by commas"
    )
    proxy_secret: SecretStr | None = Field(
        default=None, description="for proxy: what X-Relay-Proxy-Secret has to hold, where given"
    )
    viewer_roles: tuple[str, ...] = Field(
        default=(), description="for proxy and oidc: who may look; none given: whoever has a name"
    )
    operator_roles: tuple[str, ...] = Field(
        default=("relay-operator",), description="for proxy and oidc: who may act, too"
    )
    password_hash: SecretStr | None = Field(
        default=None, description="for password: its argon2 hash, as `relay web --hash` prints it"
    )
    session_hours: float = Field(
        default=12.0, gt=0, le=168, description="for password and oidc: hours until the next login"
    )
    oidc_issuer: str | None = Field(
        default=None,
        description="for oidc: the provider's issuer, as https://login.example/realms/shop",
    )
    oidc_client_id: str | None = Field(default=None, description="for oidc: the page's client id")
    oidc_client_secret: SecretStr | None = Field(
        default=None, description="for oidc: the client's secret; a public client has none"
    )
    oidc_scopes: tuple[str, ...] = Field(
        default=("openid", "profile", "email"), description="for oidc: what is asked for"
    )
    oidc_name_claim: str = Field(
        default="preferred_username",
        description="for oidc: the claim with the person's name; else email, else sub",
    )
    oidc_roles_claim: str = Field(
        default="groups",
        description="for oidc: the claim of the ID token with the roles, or the path to it "
        "(Keycloak: realm_access.roles)",
    )
    poll_seconds: Pause = Field(
        default=5.0, description="seconds between looks while somebody is looking"
    )

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        if self.auth == "none" and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached by others, and auth = none: set auth to proxy, "
                "password or oidc, or host to 127.0.0.1"
            )
        if self.auth == "password" and self.password_hash is None:
            raise ValueError("auth = password needs password_hash: `relay web --hash` makes one")
        if self.auth == "oidc":
            self._require_provider()
        if self.public_url is not None and not _is_origin(self.public_url):
            raise ValueError("public_url is no address such as https://relay.example")
        return self

    def _require_provider(self) -> None:
        for name in ("oidc_issuer", "oidc_client_id", "public_url"):
            if getattr(self, name) is None:
                raise ValueError(f"auth = oidc needs {name}")
        issuer = urlsplit(self.oidc_issuer or "")
        if issuer.scheme != "https" and not is_loopback(issuer.hostname or ""):
            raise ValueError("oidc_issuer does not begin with https://")
        if "openid" not in self.oidc_scopes:
            raise ValueError("oidc_scopes lack openid")


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_origin(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.path in ("", "/")
