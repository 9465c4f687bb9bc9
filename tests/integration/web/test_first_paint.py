"""What a browser can paint before everything is read, and what it need not fetch again."""

import asyncio
import re

import httpx

from tests.integration.web.test_attacks import serve

__all__ = ["serve"]  # a fixture, used by its name
PERSON = {"accept": "text/html,application/xhtml+xml"}


async def test_a_page_that_takes_a_while_begins_at_once(pg, serve) -> None:
    url = f"http://{await serve()}"
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await client.get("/audit")  # its connection is there
        held = pg.transaction()
        await held.start()
        await pg.execute("LOCK TABLE relay.audit_log IN ACCESS EXCLUSIVE MODE")
        async with client.stream("GET", "/audit", headers=PERSON) as answer:
            assert answer.status_code == 200
            chunks = answer.aiter_text()
            head = await anext(chunks)
            assert "<title>Audit" in head
            assert 'role="search"' in head
            assert 'class="reading"' in head
            assert "<main" not in head
            rest = asyncio.ensure_future(_rest(chunks))
            await asyncio.sleep(0)
            assert not rest.done()
            program = asyncio.ensure_future(client.get("/audit"))  # waits for its status
            await asyncio.sleep(0)
            await held.commit()
            whole = head + await rest
        assert whole.count("<main") == whole.count("</html>") == 1
        plain = (await program).text
        shown = re.sub(r'<p class="reading".*?</p>\n', "", whole)
        assert _body(shown) == _body(plain)


def _body(text: str) -> str:
    return re.sub(r"\s+", " ", text.partition("<nav")[2])


async def _rest(chunks) -> str:
    return "".join([chunk async for chunk in chunks])


async def test_what_is_refused_is_refused_before_anything_is_sent(serve) -> None:
    where = await serve(RELAY_WEB_AUTH="password", RELAY_WEB_PASSWORD_HASH="$argon2id$x")
    async with httpx.AsyncClient(base_url=f"http://{where}") as client:
        answer = await client.get("/audit", headers=PERSON)
        assert answer.status_code == 303
        other = await client.get("/nope", headers=PERSON)
        assert other.status_code == 404


async def test_style_and_scripts_are_kept_until_they_change(serve) -> None:
    async with httpx.AsyncClient(base_url=f"http://{await serve()}") as client:
        page = (await client.get("/audit")).text
        files = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
        assert len(files) == 5
        for file in files:
            answer = await client.get(file)
            assert answer.status_code == 200
            assert "immutable" in answer.headers["cache-control"]
            other = await client.get(file.partition("?")[0] + "?v=older")
            assert other.headers["cache-control"] == "no-cache"
            same = {"if-none-match": answer.headers["etag"]}
            assert (await client.get(file, headers=same)).status_code == 304
        assert (await client.get("/static/nothing.css?v=1")).status_code == 404
