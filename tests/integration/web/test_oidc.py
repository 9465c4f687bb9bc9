"""Logging in at an OpenID provider of Authlib's server side, and everything it may do wrong."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from relay.web.people import COOKIE
from tests.integration.web.conftest import Visit
from tests.integration.web.test_pages import fill
from tests.oidc_provider import CLIENT_ID, CLIENT_SECRET, Provider, openid_provider

ORIGIN = {"origin": "http://localhost"}
CALLBACK = "http://localhost/login/done"


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with openid_provider(CALLBACK) as opened:
        yield opened


@pytest.fixture
async def page(visit, provider: Provider, login) -> Visit:
    return await visit(
        RELAY_WEB_AUTH="oidc", RELAY_WEB_OIDC_ISSUER=provider.url,
        RELAY_WEB_OIDC_CLIENT_ID=CLIENT_ID, RELAY_WEB_OIDC_CLIENT_SECRET=CLIENT_SECRET,
        RELAY_WEB_PUBLIC_URL="http://localhost", RELAY_WEB_VIEWER_ROLES="support",
        RELAY_WEB_OPERATOR_URL=await login("relay_operator"),
    )  # fmt: skip


async def at_provider(page: Visit, wanted: str = "/audit") -> str:
    """Go to the provider and be logged in there; return the way back to the page."""
    sent = await page.get("/login/start", params={"next": wanted})
    assert sent.status_code == 303, sent.text
    async with httpx.AsyncClient() as browser:
        answer = await browser.get(sent.headers["location"])
    assert answer.status_code == 302, answer.text
    assert answer.headers["location"].startswith(CALLBACK)
    return answer.headers["location"].removeprefix("http://localhost")


async def log_in(page: Visit) -> httpx.Response:
    return await page.get(await at_provider(page))


async def test_the_provider_says_who_looks_and_who_acts(pg, page, provider) -> None:
    await fill(pg, evil="plain", cases=2)
    sent = await page.get("/audit")
    assert sent.headers["location"] == "/login?next=%2Faudit"
    assert "/login/start?next=/audit" in (await page.get(sent.headers["location"])).text
    provider.says(preferred_username="anna\x1b[2J<b>", groups=["support", "relay-operator"])
    done = await log_in(page)
    assert done.status_code == 200
    assert 'http-equiv="refresh" content="0;url=/audit"' in done.text
    night = (await page.get("/incidents/I-1")).text
    assert "You are anna\\x1b[2J&lt;b&gt;" in night
    assert 'name="reason"' in night
    (asked,) = provider.seen
    assert asked["code_challenge_method"] == "S256"
    assert asked["nonce"]
    assert asked["state"]
    provider.says(preferred_username="ben", groups="support")
    await log_in(page)
    assert "your role may look and not act" in (await page.get("/incidents/I-1")).text
    provider.says(email="carl@shop.example", groups=["sales"])
    refused = await log_in(page)
    assert refused.status_code == 403
    assert "no role that may look" in refused.text


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["offline_access", "support"]}}),
        ("resource_access.relay-page.roles", {
            "resource_access": {"relay-page": {"roles": ["support"]}, "account": {"roles": []}}}),
        ("https://shop.example/roles", {"https://shop.example/roles": ["support"]}),
        ("roles", {"roles": "support"}),
    ],
)  # fmt: skip
async def test_roles_stand_in_a_claim_or_at_a_path(visit, provider, claim: str, said: Any) -> None:
    page = await visit(
        RELAY_WEB_AUTH="oidc", RELAY_WEB_OIDC_ISSUER=provider.url,
        RELAY_WEB_OIDC_CLIENT_ID=CLIENT_ID, RELAY_WEB_OIDC_CLIENT_SECRET=CLIENT_SECRET,
        RELAY_WEB_PUBLIC_URL="http://localhost", RELAY_WEB_VIEWER_ROLES="support",
        RELAY_WEB_OIDC_ROLES_CLAIM=claim,
    )  # fmt: skip
    provider.says(preferred_username="anna", **said)
    assert (await log_in(page)).status_code == 200
    for other in ({}, {"realm_access": "support"}, {"realm_access": ["roles", "support"]}):
        provider.says(preferred_username="ben", **other)
        assert (await log_in(page)).status_code == 403


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        ("iss", 403), ("aud", 403), ("nonce", 403), ("exp", 403), ("key", 403),
        ("no_id_token", 403), ("token_500", 502),
    ],
)  # fmt: skip
async def test_an_answer_that_is_not_right_logs_nobody_in(page, provider, broken, status) -> None:
    provider.says(preferred_username="anna", groups=["relay-operator"])
    provider.broken = broken
    done = await log_in(page)
    assert done.status_code == status, done.text
    assert COOKIE not in page.client.cookies
    assert (await page.get("/audit")).status_code == 303
    provider.broken = ""
    assert (await log_in(page)).status_code == 200  # and the next one works


async def test_a_login_is_finished_once_by_the_browser_that_began_it(page, provider, visit) -> None:
    provider.says(preferred_username="anna", groups=["relay-operator"])
    back = await at_provider(page)
    kept = dict(page.client.cookies)
    page.client.cookies.clear()
    stolen = await page.get(back)  # mallory's browser, or anna's lured to mallory's login
    assert stolen.status_code == 403
    assert "not begun here" in stolen.text
    other = back.replace("state=", "state=x")
    page.client.cookies.update(kept)
    assert (await page.get(other)).status_code == 403
    assert (await page.get(back)).status_code == 200
    page.client.cookies.update(kept)
    assert (await page.get(back)).status_code == 403  # the code was used


async def test_a_person_who_does_not_consent_and_an_address_of_others(page, provider) -> None:
    provider.deny = True
    done = await log_in(page)
    assert done.status_code == 403
    assert "access_denied" in done.text
    provider.deny = False
    provider.says(preferred_username="anna", groups=["support"])
    back = await at_provider(page, "https://evil.example/")
    assert 'content="0;url=/"' in (await page.get(back)).text


async def test_logging_out_ends_the_session_here_and_at_the_provider(page, provider) -> None:
    provider.says(preferred_username="anna", groups=["support"])
    await log_in(page)
    cookie = page.client.cookies[COOKIE]
    assert (await page.get("/audit")).status_code == 200
    assert (await page.client.post("/logout")).status_code == 403  # no Origin: another's form
    done = await page.client.post("/logout", headers=ORIGIN)
    url = done.text.partition('content="0;url=')[2].partition('"')[0].replace("&amp;", "&")
    query = parse_qs(urlsplit(url).query)
    assert url.startswith(f"{provider.url}/end?")
    assert query["post_logout_redirect_uri"] == ["http://localhost/login"]
    assert query["id_token_hint"]
    assert (await page.get("/audit")).status_code == 303
    copied = await page.get("/audit", headers={"cookie": f"{COOKIE}={cookie}"})
    assert copied.status_code == 303  # a copied cookie is over, too


async def test_a_provider_that_is_away_is_said_and_comes_back(visit) -> None:
    page = await visit(
        RELAY_WEB_AUTH="oidc", RELAY_WEB_OIDC_ISSUER="http://127.0.0.1:1",
        RELAY_WEB_OIDC_CLIENT_ID=CLIENT_ID, RELAY_WEB_PUBLIC_URL="http://localhost",
    )  # fmt: skip
    answer = await page.get("/login/start")
    assert answer.status_code == 502
    assert "does not answer as it should" in answer.text
    assert (await page.get("/login/done?code=x&state=y")).status_code == 403
    assert (await page.get("/")).status_code == 303


Opened = Callable[..., Awaitable[Visit]]


async def test_without_oidc_there_is_no_such_login(visit: Opened) -> None:
    page = await visit()
    assert (await page.get("/login/start")).status_code == 404
    assert (await page.get("/login/done")).status_code == 404
