"""What is run from the page, on a real broker: a check, a canary, a comparison; and stale plans."""

import re
from dataclasses import replace
from typing import Any

import pytest

from relay.web.snapshot import Watcher
from tests.integration.web.test_acts import AUDITED, ORIGIN, acting, token
from tests.integration.web.test_pages import fill

__all__ = ["acting"]  # a fixture, used by its name


@pytest.fixture
async def page(visit, login, kafka_bootstrap: str, topics: Any) -> Any:
    return await visit(
        RELAY_WEB_OPERATOR_URL=await login("relay_operator"),
        KAFKA_BOOTSTRAP_SERVERS=kafka_bootstrap,
        RELAY_FLOW_PROBE_TOPIC=f"relay.probe.{topics.suffix}",
    )


async def run(page: Any, where: str, act: str, **fields: str) -> str:
    """Press a button and return the page that it leads to."""
    form = {"token": token((await page.get(where)).text, act), **fields}
    done = await page.client.post(f"/acts/{act}", data=form, headers=ORIGIN, timeout=120)
    assert done.status_code == 303, re.sub("<[^>]*>", " ", done.text)[-2500:]
    assert done.headers["location"] == where
    return (await page.get(where)).text


async def test_a_check_that_is_run_on_the_page_is_shown_and_audited(pg, page) -> None:
    assert "No check was ever run." in (await page.get("/checks")).text
    shown = await run(page, "/checks", "check")
    assert "not healthy" in shown  # no service runs here
    assert "No check was ever run." not in shown
    assert await pg.fetchval("SELECT count(*) FROM relay.check_run") == 1
    assert "check" in [row["action"] for row in await pg.fetch(AUDITED)]


async def test_a_canary_stops_at_its_hop_and_without_its_topic_none_is_sent(
    pg, page, topics: Any
) -> None:
    form = {"token": token((await page.get("/probes")).text, "probe")}
    refused = await page.client.post("/acts/probe", data=form, headers=ORIGIN)
    assert refused.status_code == 409
    assert "does not exist: relay probe --create-topic" in refused.text
    topics.create("relay.probe", 1)
    shown = await run(page, "/probes", "probe")  # no relay runs here
    assert "stopped" in shown
    assert "publish" in shown
    assert "probe" in [row["action"] for row in await pg.fetch(AUDITED)]


async def test_a_broker_that_is_away_is_said_and_is_no_failure_of_the_page(acting) -> None:
    page = await acting()
    form = {"token": token((await page.get("/probes")).text, "probe")}
    answer = await page.client.post("/acts/probe", data=form, headers=ORIGIN)
    assert answer.status_code == 503
    assert "127.0.0.1" in answer.text
    shown = await run(page, "/checks", "check")
    assert "not healthy" in shown


async def test_a_comparison_is_run_beside_the_page_and_shown(pg, page, eventually) -> None:
    shown = await run(page, "/reconcile", "reconcile", hours="6")
    assert "the last 6 hours" in shown

    async def done() -> str | None:
        text = (await page.get("/reconcile")).text
        return None if "under way" in text else text

    text = await eventually(done, 60)
    assert re.search("proven|incomplete", text)
    assert 'class="lostword"' not in text
    refused = await page.client.post(
        "/acts/reconcile", data={"token": token(text, "reconcile"), "hours": "9000"},
        headers=ORIGIN,
    )  # fmt: skip
    assert refused.status_code == 409


async def test_a_plan_is_not_run_once_a_hops_health_has_changed(pg, acting, monkeypatch) -> None:
    await fill(pg, evil="plain", cases=2)
    page = await acting()
    form = {"token": token((await page.get("/unreturned")).text, "plan"), "order": "order-2"}
    planned = await page.client.post("/acts/plan", data=form, headers=ORIGIN)
    await pg.execute(
        """UPDATE relay.replay_job
              SET plan = jsonb_set(plan, '{mended}', $1::jsonb), item_count = 1""",
        '{"publish": {"healthy": false, "run_by": "-", "note": null}}',
    )
    await page.get("/")
    watcher = page.service.site.watcher
    night = watcher.night
    where = planned.headers["location"]

    async def no_look(_watcher: Watcher) -> None:
        pass

    monkeypatch.setattr(Watcher, "_look", no_look)

    def publish_is(healthy: bool) -> None:
        hops = [replace(one, healthy=healthy) for one in night.status.hops]
        watcher.night = replace(night, status=replace(night.status, hops=hops))

    publish_is(False)  # as it was planned
    form = {"token": token((await page.get(where)).text, "run"), "reason": "as planned"}
    publish_is(True)
    refused = await page.client.post("/acts/run", data=form, headers=ORIGIN)
    assert refused.status_code == 409
    assert "publish changed since the plan: plan anew" in refused.text
    shown = (await page.get(where)).text
    assert "A hop changed since the plan" in shown
    assert 'action="/acts/run"' not in shown
