"""Who may look and act: hosts, origins, forms, proxies, passwords."""

import pytest
from starlette.requests import Request

from relay.runtime.settings import load_settings
from relay.runtime.settings_sources import SettingsError
from relay.runtime.settings_web import WebSettings
from relay.web import guard
from relay.web.guard import Forms, require_host, require_own_origin
from relay.web.people import COOKIE, FROM_ALL, Attempts, Gate, NotAllowedError, Person, hashed

PROXY = WebSettings(auth="proxy", viewer_roles=("support",), host="0.0.0.0")
HASH = hashed("correct horse")
PASSWORD = WebSettings(auth="password", password_hash=HASH)


def request(
    headers: dict[str, str] | list[tuple[str, str]], client: str = "127.0.0.1", method: str = "GET"
) -> Request:
    pairs = headers.items() if isinstance(headers, dict) else headers
    raw = [(name.lower().encode(), value.encode()) for name, value in pairs]
    scope = {
        "type": "http", "method": method, "path": "/", "query_string": b"", "headers": raw,
        "client": (client, 1), "server": ("127.0.0.1", 8080), "scheme": "http",
    }  # fmt: skip
    return Request(scope)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "relay.example"])
def test_another_address_needs_authentication(host: str) -> None:
    with pytest.raises(SettingsError, match="auth"):
        load_settings("/dev/null", {"RELAY_WEB_HOST": host})
    proxied = {"RELAY_WEB_HOST": host, "RELAY_WEB_AUTH": "proxy"}
    assert load_settings("/dev/null", proxied).web.host == host


def test_a_password_needs_its_hash() -> None:
    with pytest.raises(SettingsError, match="password_hash"):
        load_settings("/dev/null", {"RELAY_WEB_AUTH": "password"})


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:8080"])
def test_its_own_names_are_answered(host: str) -> None:
    require_host(request({"host": host}), WebSettings())


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "[", "10.0.0.1"])
def test_another_name_that_leads_here_is_refused(host: str) -> None:
    with pytest.raises(NotAllowedError):
        require_host(request({"host": host}), WebSettings())


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost"},
        {"host": "localhost", "origin": "https://evil.example"},
        {"host": "localhost", "origin": "null"},
        {"host": "localhost", "origin": "http://localhost", "sec-fetch-site": "cross-site"},
        {"host": "localhost", "origin": "http://localhost", "sec-fetch-site": "same-site"},
        {"host": "localhost", "origin": "http://localhost:81"},
    ],
)
def test_a_form_of_another_site_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(NotAllowedError):
        require_own_origin(request(headers, method="POST"), WebSettings())


def test_our_own_form_is_taken_here_and_behind_a_proxy() -> None:
    require_own_origin(request({"host": "localhost", "origin": "http://localhost"}), WebSettings())
    public = WebSettings(auth="proxy", public_url="https://relay.example")
    require_own_origin(request({"host": "inside", "origin": "https://relay.example"}), public)


def test_a_form_is_one_persons_for_one_act_and_for_ten_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forms, anna, bob = Forms("key"), Person("anna", "operator"), Person("bob", "operator")
    token = forms.token(anna, "close I-1", {"orders": 3})
    assert forms.read(anna, "close I-1", {"token": token}).shown == {"orders": 3}
    for person, act, given in (
        (bob, "close I-1", token),
        (anna, "close I-2", token),
        (anna, "close I-1", token[:-2] + "xx"),
        (anna, "close I-1", ""),
        (anna, "close I-1", Forms("other key").token(anna, "close I-1")),
    ):
        with pytest.raises(NotAllowedError):
            forms.read(person, act, {"token": given})
    monkeypatch.setattr(guard, "FORM_SECONDS", -1)
    with pytest.raises(NotAllowedError, match="ten minutes"):
        forms.read(anna, "close I-1", {"token": token})


def test_a_proxys_word_is_taken_from_the_proxy_alone() -> None:
    gate = Gate(PROXY)
    said = {"X-Forwarded-User": "anna", "X-Forwarded-Groups": "support, relay-operator"}
    assert gate.person(request(said)) == Person("anna", "operator")
    assert gate.person(request({**said, "X-Forwarded-Groups": "support"})).role == "viewer"
    with pytest.raises(NotAllowedError, match="only the proxy"):
        gate.person(request(said, client="10.0.0.9"))
    with pytest.raises(NotAllowedError, match="no role"):
        gate.person(request({**said, "X-Forwarded-Groups": "sales"}))
    with pytest.raises(NotAllowedError, match="did not say"):
        gate.person(request({"X-Forwarded-Groups": "relay-operator"}))
    twice = [("X-Forwarded-User", "anna"), ("X-Forwarded-User", "root")]
    with pytest.raises(NotAllowedError, match="did not say"):
        gate.person(request(twice))


def test_a_proxys_secret_is_asked_for() -> None:
    gate = Gate(PROXY.model_copy(update={"proxy_secret": PASSWORD.password_hash}))
    said = {"X-Forwarded-User": "anna", "X-Forwarded-Groups": "support"}
    with pytest.raises(NotAllowedError, match="Secret"):
        gate.person(request(said))
    assert gate.person(request({**said, "X-Relay-Proxy-Secret": HASH})).name == "anna"


def test_a_session_is_what_the_password_gave() -> None:
    gate = Gate(PASSWORD)
    assert gate.is_password("correct horse")
    assert not gate.is_password("wrong horse")
    cookie = gate.session("anna\x1b")
    assert gate.person(request({"cookie": f"{COOKIE}={cookie}"})).name == "anna\\x1b"
    for other in ("", "x", Gate(PASSWORD).session("anna")):
        with pytest.raises(NotAllowedError):
            gate.person(request({"cookie": f"{COOKIE}={other}"}))


def test_passwords_are_tried_a_few_times_a_minute() -> None:
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    assert [attempts.allow("a") for _ in range(6)] == [True] * 5 + [False]
    assert attempts.allow("b")
    spread = [attempts.allow(f"10.0.0.{number}") for number in range(60)]
    assert spread.count(True) == FROM_ALL - 6  # many addresses are no way round
    now[0] = 61.0
    assert attempts.allow("a")
