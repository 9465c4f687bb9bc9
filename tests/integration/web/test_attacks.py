"""What somebody who means harm sends to the page, over a real socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import httpx
import pytest

from relay.runtime.settings import load_settings
from relay.web import guard
from relay.web.people import hashed
from relay.web.service import WebService
from tests.integration.web.conftest import NOBODY
from tests.integration.web.test_pages import fill

Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def serve(login) -> AsyncIterator[Serve]:
    """Serve the page on a port, and return its host and port."""
    async with AsyncExitStack() as stack:

        async def make(**settings: str) -> str:
            environment = {
                "KAFKA_BOOTSTRAP_SERVERS": NOBODY, "RELAY_WEB_PORT": "0",
                "DATABASE_URL": await login("relay_observer"), **settings,
            }  # fmt: skip
            stop = asyncio.Event()
            service = WebService(load_settings("/dev/null", environment), stop, environment)
            running = asyncio.create_task(service.run())

            async def end() -> None:
                stop.set()
                await running

            stack.push_async_callback(end)
            while service.url is None:
                assert not running.done(), running
                await asyncio.sleep(0.02)
            return service.url.removeprefix("http://")

        yield make


async def ask(where: str, head: str, body: bytes = b"") -> tuple[int, str]:
    """Send raw bytes; return the status (0: hung up) and the answer."""
    host, _, port = where.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
    try:
        answer = (await asyncio.wait_for(reader.read(2_000_000), 60)).decode(errors="replace")
    except ConnectionError:
        answer = ""
    writer.close()
    return int(answer.split(" ", 2)[1]) if answer else 0, answer


PROXY = {
    "RELAY_WEB_AUTH": "proxy", "RELAY_WEB_PROXY_SECRET": "between us",
    "RELAY_WEB_VIEWER_ROLES": "support", "RELAY_WEB_PUBLIC_URL": "http://relay.example",
}  # fmt: skip
SAID = "X-Forwarded-User: root\nX-Forwarded-Groups: relay-operator\n"


@pytest.mark.parametrize(
    "spoofed",
    [
        SAID,
        SAID + "X-Relay-Proxy-Secret: between\n",
        SAID + "X-Relay-Proxy-Secret: \n",
        SAID + "X_Relay_Proxy_Secret: between us\n",
        SAID + "X-Relay-Proxy-Secret : between us\n",
        "X-Relay-Proxy-Secret: between us\nX_Forwarded_User: root\n",
        "X-Relay-Proxy-Secret: between us\n" + SAID + "X-Forwarded-User: ben\n",
        "X-Relay-Proxy-Secret: between us\nX-Forwarded-User: ben\nX_Forwarded_Groups: support\n",
        "X-Forwarded-For: 127.0.0.1\nForwarded: for=127.0.0.1;by=proxy\n" + SAID,
    ],
)
async def test_headers_that_only_the_proxy_may_send_are_believed_of_nobody_else(
    pg, serve: Serve, spoofed: str
) -> None:
    await fill(pg, evil="secret-order", cases=2)
    where = await serve(**PROXY)
    for host in ("relay.example", "evil.example"):
        status, answer = await ask(where, f"GET /unreturned.json HTTP/1.0\nHost: {host}\n{spoofed}")
        assert status in (400, 401, 403, 421), answer
        assert "secret-order" not in answer
    fine = f"GET /unreturned.json HTTP/1.0\nHost: relay.example\n{SAID}"
    told = await ask(where, f"{fine}X-Relay-Proxy-Secret: between us")
    assert "secret-order" in told[1]


@pytest.mark.parametrize(
    "target",
    [
        "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2f..%2fruntime/settings.py",
        "/static/....//app.py", "/static/%00", "//evil.example/audit", "/login/../audit",
        "/login/%2e%2e/audit", "/audit/", "/AUDIT", "/audit%00", "/audit;x", "http://other/audit",
        "/orders/..%2faudit", "/live/../audit", "/quarantine/1%20OR%201=1", "/acts/close-incident",
    ],
)  # fmt: skip
async def test_no_path_leads_round_the_login(pg, serve: Serve, target: str) -> None:
    await fill(pg, evil="secret-order", cases=2)
    where = await serve(RELAY_WEB_AUTH="password", RELAY_WEB_PASSWORD_HASH=hashed("x"))
    status, answer = await ask(where, f"GET {target} HTTP/1.0\nHost: {where}")
    assert status in (303, 307, 400, 401, 403, 404, 405), answer
    assert "secret-order" not in answer
    assert "import annotations" not in answer


async def test_passwords_are_not_guessed_and_names_are_no_markup(serve: Serve) -> None:
    where = await serve(RELAY_WEB_AUTH="password", RELAY_WEB_PASSWORD_HASH=hashed("right"))
    async with httpx.AsyncClient(base_url=f"http://{where}", timeout=60) as client:
        origin = {"origin": f"http://{where}"}
        tried = [
            await client.post("/login", data={"name": "x", "password": guess}, headers=origin)
            for guess in ("a", "b", "c", "d", "e", "right")
        ]
        assert [one.status_code for one in tried] == [401] * 5 + [429]
        assert (await client.get("/audit")).status_code == 303


async def test_large_and_slow_requests_are_ended(serve: Serve, monkeypatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.3)
    where = await serve()
    form = f"Host: {where}\nOrigin: http://{where}\nContent-Type: application/x-www-form-urlencoded"
    slow = f"POST /language/zh HTTP/1.1\n{form}\nContent-Length: 400\nConnection: close"
    assert (await ask(where, slow, b"next=%2F"))[0] == 408
    status, _ = await ask(where, f"GET /?{'q' * 200_000} HTTP/1.1\nHost: {where}")
    assert status in (0, 400, 414, 431)
    status, _ = await ask(where, f"GET / HTTP/1.1\nHost: {where}\nCookie: {'c' * 200_000}")
    assert status in (0, 400, 431)
    many = b"&".join(b"a=1" for _ in range(3000))
    head = f"POST /language/zh HTTP/1.1\n{form}\nContent-Length: {len(many)}\nConnection: close"
    assert (await ask(where, head, many))[0] == 400
    assert (await ask(where, f"GET /incidents HTTP/1.0\nHost: {where}"))[0] == 200  # it lives


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.example", "https://{where}.evil.example", "http://evil@other", "file://"],
)
async def test_no_other_site_may_post(pg, serve: Serve, login, origin: str) -> None:
    number = await fill(pg, evil="plain", cases=2)
    where = await serve(RELAY_WEB_OPERATOR_URL=await login("relay_operator"))
    async with httpx.AsyncClient(base_url=f"http://{where}", timeout=60) as client:
        text = (await client.get(f"/incidents/I-{number}")).text
        form = text.partition('action="/acts/note"')[2]
        token = form.partition('name="token" value="')[2].partition('"')[0]
        data = {"token": token, "reason": "x"}
        for path in ("/acts/note", "/language/zh", "/logout"):
            answer = await client.post(
                path, data=data, headers={"origin": origin.format(where=where)}
            )
            assert answer.status_code == 403, path
        headers = {"origin": f"http://{where}", "content-type": "text/plain"}
        plain = await client.post("/acts/note", content=f"token={token}", headers=headers)
        assert plain.status_code == 415
    assert await pg.fetchval("SELECT count(*) FROM relay.audit_log WHERE action = 'note'") == 0
