"""What people do on the page: with the right, a reason and the page's own form, and once."""

import asyncio
import re

import pytest

from tests.integration.web.test_pages import fill

ORIGIN = {"origin": "http://localhost"}
CLOSED = "SELECT closed_by, closed_why FROM relay.incident WHERE incident_id = $1"
AUDITED = "SELECT who, action, subject, why FROM relay.audit_log ORDER BY audit_id"


def token(text: str, act: str) -> str:
    form = text.partition(f'action="/acts/{act}"')[2]
    return re.search(r'name="token" value="([^"]+)"', form)[1]


@pytest.fixture
async def acting(visit, login):
    """A page that may act, behind a proxy that says who asks."""

    async def make(name: str = "anna", roles: str = "relay-operator"):
        said = {"x-forwarded-user": name, "x-forwarded-groups": roles}
        operator = await login("relay_operator")
        return await visit(
            said, RELAY_WEB_OPERATOR_URL=operator, RELAY_WEB_AUTH="proxy",
            RELAY_WEB_PUBLIC_URL="http://localhost",
        )  # fmt: skip

    return make


async def test_an_incident_is_closed_once_by_the_person_with_his_reason(pg, acting) -> None:
    number = await fill(pg, evil="plain", cases=3)
    page = await acting()
    text = (await page.get(f"/incidents/I-{number}")).text
    form = {"token": token(text, "close-incident"), "reason": "told the customers"}
    both = await asyncio.gather(
        *(page.client.post("/acts/close-incident", data=form, headers=ORIGIN) for _ in range(2))
    )
    assert [one.status_code for one in both] == [303, 303]
    assert sorted(one.headers["location"] for one in both) == [
        f"/incidents/I-{number}",
        f"/incidents/I-{number}?again=1",
    ]
    assert tuple(await pg.fetchrow(CLOSED, number)) == ("anna", "told the customers")
    acts = [tuple(row) for row in await pg.fetch(AUDITED) if row["action"] == "close"]
    assert [row for row in acts if row[2] == f"I-{number}"] == [
        ("anna", "close", f"I-{number}", "told the customers")
    ]


async def test_whoever_comes_second_is_told_what_the_first_did(pg, acting) -> None:
    number = await fill(pg, evil="plain", cases=3)
    page = await acting()
    tabs = [(await page.get(f"/incidents/I-{number}")).text for _ in range(2)]
    answers = [
        await page.client.post(
            "/acts/close-incident",
            data={"token": token(tab, "close-incident"), "reason": f"reason {place}"},
            headers=ORIGIN,
        )
        for place, tab in enumerate(tabs)
    ]
    assert [one.status_code for one in answers] == [303, 409]
    assert "closed already by anna: reason 0" in answers[1].text


async def test_orders_that_came_after_the_page_was_drawn_are_not_closed(pg, acting) -> None:
    number = await fill(pg, evil="plain", cases=3)
    page = await acting()
    text = (await page.get(f"/incidents/I-{number}")).text
    await pg.execute("UPDATE relay.incident SET order_count = 4")
    form = {"token": token(text, "close-incident"), "reason": "why"}
    answer = await page.client.post("/acts/close-incident", data=form, headers=ORIGIN)
    assert answer.status_code == 409
    assert "look again" in answer.text
    assert (await pg.fetchrow(CLOSED, number))["closed_by"] is None


async def test_many_orders_need_their_number_and_every_act_a_reason(pg, acting) -> None:
    number = await fill(pg, evil="plain", cases=101)
    page = await acting()
    text = (await page.get(f"/incidents/I-{number}")).text
    form = {"token": token(text, "close-incident"), "reason": "why"}

    async def post(**more: str) -> int:
        sent = {**form, **more}
        return (
            await page.client.post("/acts/close-incident", data=sent, headers=ORIGIN)
        ).status_code

    assert await post(reason=" ") == 409
    assert await post() == 409
    text = (await page.get(f"/incidents/I-{number}")).text
    assert "Type the number of orders, 101" in text
    form["token"] = token(text, "close-incident")
    assert await post(number="101") == 303


async def test_nothing_is_done_without_the_right_or_by_another_site(pg, acting, visit) -> None:
    number = await fill(pg, evil="plain", cases=3)
    page = await acting()
    text = (await page.get(f"/incidents/I-{number}")).text
    form = {"token": token(text, "close-incident"), "reason": "why"}
    post = page.client.post
    for headers in ({}, {"origin": "https://evil.example"}, ORIGIN | {"sec-fetch-site": "none"}):
        answer = await post("/acts/close-incident", data=form, headers=headers)
        assert answer.status_code == 403
    other = {**ORIGIN, "x-forwarded-user": "mallory"}
    assert (await post("/acts/close-incident", data=form, headers=other)).status_code == 403
    viewer = {**ORIGIN, "x-forwarded-groups": "sales"}
    assert (await post("/acts/close-incident", data=form, headers=viewer)).status_code == 403
    assert (await post("/acts/note", data=form, headers=ORIGIN)).status_code == 403
    assert (await post("/acts/nothing", data=form, headers=ORIGIN)).status_code == 404
    large = {**form, "reason": "x" * 300_000}
    assert (await post("/acts/close-incident", data=large, headers=ORIGIN)).status_code == 413
    reading = await visit()
    text = (await reading.get(f"/incidents/I-{number}")).text
    assert "RELAY_WEB_OPERATOR_URL" in text
    assert "disabled" in text
    form["token"] = token(text, "close-incident")
    sent = await reading.client.post("/acts/close-incident", data=form, headers=ORIGIN)
    assert sent.status_code == 403
    assert (await pg.fetchrow(CLOSED, number))["closed_by"] is None


async def test_a_look_at_bytes_is_audited_before_they_are_shown(pg, acting) -> None:
    await fill(pg, evil="<b>payload</b>", cases=1)
    held = await pg.fetchval("SELECT quarantine_id FROM relay.quarantine")
    page = await acting()
    text = (await page.get(f"/quarantine/{held}")).text
    assert "Its bytes" not in text
    form = {"token": token(text, "look")}
    shown = await page.client.post("/acts/look", data=form, headers=ORIGIN)
    assert "&lt;b&gt;payload&lt;/b&gt;" in shown.text
    assert ("anna", "quarantine_show") in [tuple(row)[:2] for row in await pg.fetch(AUDITED)]


async def test_rows_are_released_as_shown_and_a_note_stays(pg, acting) -> None:
    number = await fill(pg, evil="plain", cases=1)
    held = await pg.fetchval("SELECT quarantine_id FROM relay.quarantine")
    page = await acting()
    text = (await page.get(f"/quarantine/{held}")).text
    form = {"token": token(text, "release"), "reason": "fixed the processor"}
    assert (await page.client.post("/acts/release", data=form, headers=ORIGIN)).status_code == 303
    state = await pg.fetchval("SELECT state || ' ' || resolved_by FROM relay.quarantine")
    assert state == "release_requested anna"
    text = (await page.get(f"/incidents/I-{number}")).text
    form = {"token": token(text, "note"), "reason": "asked the warehouse"}
    sent = await page.client.post("/acts/note", data=form, headers=ORIGIN)
    assert "asked the warehouse" in (await page.get(sent.headers["location"])).text


async def test_a_plan_sends_nothing_and_expires(pg, acting) -> None:
    await fill(pg, evil="plain", cases=2)
    page = await acting()
    text = (await page.get("/unreturned")).text
    form = {"token": token(text, "plan"), "order": "order-2"}
    planned = await page.client.post("/acts/plan", data=form, headers=ORIGIN)
    assert planned.status_code == 303, planned.text
    again = await page.client.post("/acts/plan", data=form, headers=ORIGIN)
    assert again.headers["location"] == planned.headers["location"] + "?again=1"
    assert await pg.fetchval("SELECT count(*) FROM relay.replay_job") == 1
    shown = (await page.get(planned.headers["location"])).text
    assert "Nothing is sent yet." in shown
    assert "order-2" in shown
    assert "anna" in [row["who"] for row in await pg.fetch(AUDITED)]
    await pg.execute("UPDATE relay.replay_job SET planned_at = now() - interval '11 minutes'")
    assert "older than ten minutes" in (await page.get(planned.headers["location"])).text


@pytest.mark.parametrize(
    ("kind", "planned", "writes", "held"),
    [
        (("return", "no_return", "offsets_skipped"), True, False, False),
        (("place", "no_outbox_row", "outbox_bypassed"), True, True, False),
        (("publish", "parked", "too_large"), False, False, True),
        (("confirm", "return_quarantined", "apply_failed"), False, False, True),
        (("confirm", "return_quarantined", "return_malformed"), True, False, True),
        (("confirm", "not_confirmed", "order_row_locked"), False, False, False),
        (("publish", "lost_in_space", "of_a_newer_version"), False, False, False),
    ],
)
async def test_a_replay_is_offered_where_a_plan_would_send_something(
    pg, acting, kind: tuple[str, str, str], planned: bool, writes: bool, held: bool
) -> None:
    number = await fill(pg, evil="plain", cases=3)
    await pg.execute(
        "UPDATE relay.incident SET hop = $2, verdict = $3, cause = $4 WHERE incident_id = $1",
        number, *kind,
    )  # fmt: skip
    page = await acting()
    text = (await page.get(f"/incidents/I-{number}")).text
    assert ('action="/acts/plan"' in text) is planned
    assert ('name="write_missing"' in text) is writes
    assert ('href="/quarantine?kind=' in text) is held
    assert ("would be lost in the same way" in text) is planned
