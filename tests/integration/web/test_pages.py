"""Every page, read as an observer, with Kafka away, and hostile text in every foreign field."""

import csv
from io import StringIO

import pytest

from relay.runtime.audit import Action, note_action

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x1b[2J\u202e{{7*7}}"
PATHS = (
    *("/", "/incidents", "/incidents?all=1", "/unreturned", "/replays", "/quarantine", "/checks"),
    *("/probes", "/reconcile", "/processes", "/audit", "/orders", "/unreturned?hop=return"),
)
CASE = """
INSERT INTO relay.overdue (event_id, aggregate_id, event_type, placed_at, deadline_at, hop, verdict,
                           cause, incident_id, evidence)
SELECT 'e' || n, CASE n WHEN 1 THEN $1 ELSE 'order-' || n END, 'order.placed',
       now() - interval '30 minutes' + n * interval '1 s', now(), 'return', 'no_return',
       CASE n WHEN 2 THEN 'return_never_sent' ELSE 'offsets_skipped' END, $2, '{}'
  FROM generate_series(1, $3) AS n
"""
INCIDENT = """
INSERT INTO relay.incident (hop, verdict, cause, from_at, to_at, order_count, story)
VALUES ('return', 'no_return', 'offsets_skipped', now() - interval '30 minutes',
        now() - interval '20 minutes', $2, json_build_object('text', $1::text)::jsonb)
RETURNING incident_id
"""
HELD = """
INSERT INTO relay.quarantine (kind, reason, detail, aggregate_id, consumer_group, topic, partition,
                              record_offset, record_key, record_value, record_headers, traceparent)
VALUES ('return', 'malformed', $1, $1, 'g', $1, 0, 7, 'k', convert_to($1, 'UTF8'), '[]', $1)
RETURNING quarantine_id
"""
CHECK = """
INSERT INTO relay.check_run (healthy, results)
VALUES ($2, json_build_array(json_build_object('name', 'a.b', 'state', $3::text, 'found', $1::text,
                                               'fix', $1::text))::jsonb)
"""
PROCESS = """
INSERT INTO relay.process_record (process_id, kind, instance, version, detail)
VALUES (gen_random_uuid(), 'relay', $1, $1, json_build_object('state', $1::text)::jsonb)
"""
OUTAGE = """
INSERT INTO relay.outage_record (process_id, kind, resource, from_at, error)
VALUES (gen_random_uuid(), 'relay', 'broker', now() - interval '10 minutes', $1)
"""


async def fill(pg, evil: str = EVIL, cases: int = 250) -> int:
    """Write what foreign programs write, in every field that they do, and return the incident."""
    clean = evil.replace("\0", "")
    number = await pg.fetchval(INCIDENT, clean, cases)
    await pg.execute(CASE, clean, number, cases)
    await pg.execute(HELD, clean)
    await pg.execute(CHECK, "fine", True, "ok")
    await pg.execute(CHECK, clean, False, "failed")
    await pg.execute(PROCESS, clean)
    await pg.execute(OUTAGE, clean)
    await note_action(pg, Action(clean, "close", clean, clean))
    return number


async def test_every_page_says_what_is_missing_and_runs_nothing_of_others(pg, visit) -> None:
    number = await fill(pg)
    page = await visit(RELAY_TRACE_URL="http://localhost:16686")
    held = await pg.fetchval("SELECT min(quarantine_id) FROM relay.quarantine")
    paths = (*PATHS, f"/incidents/I-{number}", f"/quarantine/{held}", "/orders?q=order-3%20nobody")
    for path in paths:
        answer = await page.get(path)
        assert answer.status_code == 200, (path, answer.text)
        for raw in ("<script>alert", "<img src=x", "\x1b", "\u202e", ">49<"):
            assert raw not in answer.text, (path, raw)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["cache-control"] == "no-store"
    night = (await page.get("/")).text
    assert "249 orders" in night  # the largest kind; one has another cause
    assert "LOST" in night
    assert "Kafka" in night or "broker" in night  # what cannot be known now, and why
    incident = (await page.get(f"/incidents/I-{number}")).text
    assert 'class="mark lost"' in incident
    assert "relay replay --incident I-" in incident


async def test_an_order_is_found_by_whatever_it_is_called(pg, visit) -> None:
    order = "b7f4b2f0-3c0a-4d0e-8a53-3f1f5a0d2d11"
    await pg.execute(
        "INSERT INTO public.orders (order_id, customer_id, items, total, currency)"
        " VALUES ($1, 'c', '[]', 1, 'EUR')", order,
    )  # fmt: skip
    row = await pg.fetchrow(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
        " VALUES ('order', $1, 'order.placed', '{}') RETURNING id, event_id", order,
    )  # fmt: skip
    page = await visit()
    for asked in (order, str(row["event_id"]), str(row["id"])):
        sent = await page.get("/search", params={"q": f" {asked} "})
        assert sent.headers["location"] == f"/orders/{asked}"
        shown = await page.get(f"/orders/{asked}")
        assert shown.status_code == 200
        assert order in shown.text
        same = (await page.get(f"/diagnose/{asked}")).json()["orders"][0]
        assert same["order_id"] == order
    listed = await page.get("/orders", params={"q": f"{order}, nobody\n{row['event_id']}"})
    assert listed.text.count("unknown</span>") == 1
    assert (await page.get("/orders/nobody%2F..%2Fx")).status_code == 404


async def test_an_order_is_found_by_customer_and_key_and_by_the_place_of_its_record(
    pg, visit, login
) -> None:
    order = "b7f4b2f0-3c0a-4d0e-8a53-3f1f5a0d2d11"
    await pg.execute(
        "INSERT INTO public.orders (order_id, customer_id, idempotency_key, items, total, currency)"
        " VALUES ($1, 'c 17', 'k&1', '[]', 1, 'EUR')", order,
    )  # fmt: skip
    row = await pg.fetchval(
        "INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload)"
        " VALUES ('order', $1, 'order.placed', '{}') RETURNING id", order,
    )  # fmt: skip
    await pg.execute(
        "INSERT INTO relay.delivery_ledger (epoch, topic, partition, base_offset, record_count,"
        " outbox_ids, id_range) VALUES (1, 'orders.events', 3, 7, 1, ARRAY[$1::bigint],"
        " int8range($1, $1, '[]'))", row,
    )  # fmt: skip
    page = await visit()
    refused = await page.get("/orders", params={"customer": "c 17", "key": "k&1"})
    assert refused.status_code == 409
    assert "ask as relay_operator" in refused.text
    page = await visit(RELAY_WEB_OPERATOR_URL=await login("relay_operator"))
    shown = await page.get("/orders", params={"customer": "c 17", "key": "k&1"})
    assert f'href="/orders/{order}"' in shown.text
    nobody = await page.get("/orders", params={"customer": "c 17", "key": "k2"})
    assert "unknown</span>" in nobody.text
    assert (await page.get("/orders?customer=c")).status_code == 404
    sent = await page.get("/search", params={"q": "orders.events[3]@7"})
    shown = await page.get(sent.headers["location"])
    assert order in shown.text
    assert "place of a record" in shown.text
    nowhere = await page.get("/search", params={"q": "orders.events[3]@8"})
    assert (await page.get(nowhere.headers["location"])).status_code == 200
    complaint = "\n".join([order, "orders.events[3]@7", *(f"nobody-{n}" for n in range(230))])
    listed = await page.get("/orders", params={"q": complaint})
    assert "32 more ids were not looked up" in listed.text
    assert listed.text.count(f'href="/orders/{order}"') == 1


async def test_an_incident_says_whether_its_cause_is_gone_and_what_must_not_be_done(
    pg, visit
) -> None:
    number = await fill(pg, evil="plain", cases=5)
    page = await visit()
    before = (await page.get(f"/incidents/I-{number}")).text
    assert "not proven yet" in before  # nobody looked
    assert "would be lost in the same way" in before
    assert "5 sent again, 0 left alone" in before
    assert "the groups that read the topics" in before  # Kafka is away: said, not left out


async def test_a_list_is_read_page_by_page_whatever_comes_and_goes(pg, visit) -> None:
    await fill(pg, evil="plain", cases=250)
    page = await visit()
    seen: list[str] = []
    path = "/unreturned"
    while path:
        text = (await page.get(path)).text
        seen += [one.split("&")[0] for one in text.split('href="/orders/')[1:]]
        following = text.partition('rel="next" href="')[2].partition('"')[0]
        path = following.replace("&amp;", "&")
        # Between two pages one that was shown goes, and another one comes at the end.
        await pg.execute("UPDATE relay.overdue SET closed_at = now() WHERE event_id = 'e3'")
    ids = [one.partition('"')[0] for one in seen]
    assert len(ids) == len(set(ids)) == 250
    assert ids[0] == "plain"
    told = (await page.get("/unreturned.json?hop=return")).json()
    assert len(told["orders"]) == 249


async def test_a_spreadsheet_computes_nothing_of_what_others_wrote(pg, visit) -> None:
    await fill(pg, evil='=cmd|"/c calc"!A1', cases=3)
    page = await visit()
    rows = list(csv.DictReader(StringIO((await page.get("/unreturned.csv")).text)))
    assert rows[0]["order_id"] == '\'=cmd|"/c calc"!A1'
    assert len(rows) == 3


async def test_nothing_is_overdue_is_not_said_where_nobody_looks(visit) -> None:
    page = await visit()
    for path in ("/", "/unreturned", "/incidents"):
        text = (await page.get(path)).text
        assert "No order is overdue." not in text
        assert "None is open." not in text


async def test_without_the_database_the_last_page_is_shown_under_a_banner(
    private_database, visit, private_postgres, template_database
) -> None:
    page = await visit(DATABASE_URL=private_database)
    before = await page.get("/audit")
    private_postgres.kill()
    after = await page.get("/audit")
    assert before.status_code == after.status_code == 200
    assert "The database cannot be read." in after.text
    never = await page.get("/quarantine")
    assert never.status_code == 503
    assert "The database cannot be read." in (await page.get("/")).text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/incidents/I-999", 404), ("/incidents/x", 404), ("/quarantine/9" + "9" * 40, 404),
        ("/replays/%25", 404), ("/unreturned?after=x", 404), ("/unreturned?hop=x", 404),
        ("/static/..%2fapp.py", 404), ("/static/../../runtime/settings.py", 404), ("/nope", 404),
        ("/unreturned?after=2026-01-01T00:00:00~x", 404),
    ],
)  # fmt: skip
async def test_an_address_that_leads_nowhere_is_a_page_and_no_failure(visit, path, status) -> None:
    page = await visit()
    answer = await page.get(path)
    assert answer.status_code == status
    assert "Traceback" not in answer.text


async def test_settings_are_shown_with_their_source_and_without_secrets(visit) -> None:
    page = await visit(RELAY_LOG_LEVEL="warning")
    text = (await page.get("/processes")).text
    assert ":x@" not in text  # the password of DATABASE_URL
    row = text.partition("RELAY_LOG_LEVEL")[2].partition("</tr>")[0]
    assert "warning" in row
    assert "environment" in row


async def test_the_language_is_the_browsers_until_somebody_chooses(visit) -> None:
    page = await visit({"accept-language": "zh-CN,zh;q=0.9", "origin": "http://localhost"})
    assert "夜班" in (await page.get("/")).text
    chosen = await page.client.post("/language/en", data={"next": "//evil.example"})
    assert chosen.headers["location"] == "/"
    assert "夜班" not in (await page.get("/")).text


async def test_whoever_may_not_look_sees_nothing(pg, visit) -> None:
    await fill(pg, evil="secret-order", cases=3)
    page = await visit(RELAY_WEB_AUTH="proxy")
    for path in (*PATHS, "/unreturned.json", "/diagnose/order-2", "/live"):
        answer = await page.get(path)
        assert answer.status_code == 401, path
        assert "secret-order" not in answer.text
