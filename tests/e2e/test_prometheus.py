"""A real Prometheus over a system that goes through every state: each metric, alert and panel."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import psycopg
import pytest
import yaml

from relay.diagnose.watch.completeness import MINUTE, minutes
from relay.embedded.ports import free_port
from relay.runtime.flow import EventRoute, Flow
from tests.corpus.wiring import Wiring
from tests.every_metric import every_metric

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
BUILD_SCRIPT = ROOT / "tools" / "build_prometheus.sh"
RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "outbox-relay.json").read_text())
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((RULES / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
}
# Where somebody else publishes: their rules are tested by promtool, a witness by tests of its own.
OF_A_WITNESS = "relay_witness_"
for _name in [one for one, rule in ALERTS.items() if OF_A_WITNESS in rule["expr"]]:
    del ALERTS[_name]
LABELS = {"namespace": "shop", "job": "relay", "installation": "orders"}
QUICK = {
    "RELAY_WATCH_ROUND_SECONDS": "0.5",
    "RELAY_WATCH_POSITION_SECONDS": "1",
    "RELAY_METRICS_ENABLED": "true",
    "RELAY_METRICS_PORT": "0",
}
# A record that no consumer and no quarantine takes: both are asked for a place in vain.
REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'full up'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON relay.quarantine FOR EACH ROW EXECUTE FUNCTION refuse();
"""
WITHOUT_EVENT = """
UPDATE orders SET status = 'confirmed'
 WHERE order_id::text NOT IN (SELECT aggregate_id FROM relay.outbox)
"""
STEAL = """
UPDATE relay.lease SET owner = 'somebody', epoch = epoch + 1, released_at = NULL,
       expires_at = clock_timestamp() + interval '1 hour'
"""
GIVE_BACK = "UPDATE relay.lease SET released_at = clock_timestamp() WHERE owner = 'somebody'"


def shortened(text: str) -> str:
    """The rules with seconds for minutes, days and thresholds: the expressions are the same."""
    text = re.sub(r"\bfor: \d+m\b", "for: 1s", text)
    text = re.sub(r"\[(?!1d\])\d+[mhd]\]|(?<=missing:sum)\[\d+[mhd]\]", "[6s]", text)
    text = re.sub(r"(?<=sum)\[\d+[mhd]\]", "[6s]", text)
    text = re.sub(r"\boffset \d+m", "offset 6s", text)
    return text.replace(") > 30)", ") > 1)").replace("> 180", "> 4").replace("+ 60", "+ 1")


class Prometheus:
    """One that reads the targets of a file."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.targets: dict[str, str] = {}
        self.file = folder / "targets.json"
        self.write()
        for name in ("alerts.yaml", "recording.yaml"):
            (folder / name).write_text(shortened((RULES / name).read_text()))
        configuration = {
            "global": {
                "scrape_interval": "1s",
                "scrape_timeout": "1s",
                "evaluation_interval": "1s",
            },
            "rule_files": ["alerts.yaml", "recording.yaml"],
            "scrape_configs": [
                {
                    "job_name": "relay",
                    "file_sd_configs": [{"files": [str(self.file)], "refresh_interval": "1s"}],
                }
            ],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    program / "prometheus",
                    f"--config.file={folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--enable-feature=exemplar-storage",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.began = time.time()

    def add(self, name: str, port: str) -> None:
        self.targets[name] = port
        self.write()

    def write(self) -> None:
        groups = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {**LABELS, "process": name}}
            for name, port in self.targets.items()
        ]
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(groups))
        new.replace(self.file)

    def _get(self, path: str, **arguments: Any) -> Any:
        query = urllib.parse.urlencode(arguments)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]

    def now(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def ever(self, expression: str) -> list[dict[str, Any]]:
        """Every series that the expression has had since the start."""
        found: list[dict[str, Any]] = self._get(
            "query_range", query=expression, start=self.began, end=time.time(), step="1s"
        )["result"]
        return found

    def exemplars(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._get(
            "query_exemplars", query=name, start=self.began, end=time.time()
        )
        return found

    def alerts(self, state: str, *, ever: bool = False) -> set[str]:
        expression = f'ALERTS{{alertstate="{state}"}}'
        if ever:
            expression = f"count_over_time({expression}[1h])"
        return {one["metric"]["alertname"] for one in self.now(expression)}

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    found = subprocess.run(
        [BUILD_SCRIPT, "--cached"], capture_output=True, text=True, check=False, timeout=30
    )
    if found.returncode:
        why = "Prometheus is not cached (make prometheus builds it)"
        if shutil.which("go") or os.environ.get("RELAY_TEST_REQUIRE_JAEGER") == "1":
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    folder = tmp_path / "prometheus"
    folder.mkdir()
    started = Prometheus(Path(found.stdout.strip()), folder)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait(timeout=10)


class Stage:
    """The system, its Prometheus, and what is expected to fire."""

    def __init__(self, wiring: Wiring, prometheus: Prometheus, admin: str) -> None:
        self.wiring, self.prometheus, self.admin = wiring, prometheus, admin
        self.database = admin_name(wiring.database)
        self.seen: dict[str, set[str]] = {"firing": set(), "pending": set()}

    async def scraped(self, name: str, process: Any) -> Any:
        """Let Prometheus read a process."""

        def port() -> str | None:
            for line in process.stderr.splitlines():
                if line.startswith("{") and json.loads(line)["message"] == "listening":
                    return str(json.loads(line)["port"])
            return None

        self.prometheus.add(name, str(await self.wiring.eventually(port, 40)))
        return process

    async def fires(self, *names: str, within: float = 40) -> None:
        """Wait until each of these has fired."""
        missing = set(names)

        async def all_fire() -> bool:
            for state, seen in self.seen.items():
                now = await asyncio.to_thread(self.prometheus.alerts, state)
                seen.update(now)
                if state == "firing":
                    missing.difference_update(now)
            return not missing

        try:
            await self.wiring.eventually(all_fire, within)
        except AssertionError:
            pytest.fail(f"never fired: {sorted(missing)}")

    async def stops(self, *names: str, within: float = 40) -> None:
        """Wait until none of these fires, or is pending."""
        left: set[str] = set()

        async def none_left() -> bool:
            left.clear()
            for state in ("firing", "pending"):
                left.update(await asyncio.to_thread(self.prometheus.alerts, state))
            left.intersection_update(names)
            return not left

        try:
            await self.wiring.eventually(none_left, within)
        except AssertionError:
            pytest.fail(f"never stopped: {sorted(left)}")

    async def sql(self, statement: str) -> None:
        await asyncio.to_thread(self._sql, statement)

    def _sql(self, statement: str) -> None:
        with psycopg.connect(self.admin, autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[arg-type]

    async def database_away(self) -> None:
        await self.sql(f'ALTER DATABASE "{self.database}" ALLOW_CONNECTIONS false')
        await self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{self.database}'"
        )

    async def database_back(self) -> None:
        await self.sql(f'ALTER DATABASE "{self.database}" ALLOW_CONNECTIONS true')
        self.wiring.pg = await asyncpg.connect(self.wiring.database)


def admin_name(url: str) -> str:
    return urllib.parse.urlsplit(url).path.lstrip("/")


async def _backdated(wiring: Wiring, count: int, status: str) -> None:
    """Orders of the minutes whose deadline passes now and next, so that the test need not wait."""
    flow = Flow(events={"order.placed": EventRoute(wiring.events, wiring.deadline_seconds)})
    now = await wiring.pg.fetchval("SELECT clock_timestamp()")
    ends = minutes(now, flow)
    await wiring.pg.execute("UPDATE relay.installation SET watched_since = now() - interval '1 h'")
    for end in {one + after for one in ends.values() for after in (timedelta(0), MINUTE)}:
        for _ in range(count):
            await wiring.pg.execute(
                """WITH o AS (INSERT INTO orders (order_id, customer_id, items, total, currency,
                                                  status, submitted_at)
                              VALUES ($1, 'c', '[]', 1, 'EUR', $2,
                                      $3::timestamptz - interval '30 s'))
                   INSERT INTO relay.outbox (aggregate_type, aggregate_id, event_type, payload,
                                             created_at)
                   VALUES ('order', $1::text, 'order.placed', '{}',
                           $3::timestamptz - interval '30 s')""",
                uuid4(),
                status,
                end,
            )


async def _losses(stage: Stage, processor: Any) -> Any:
    """No processor, a writer that bypasses the outbox, returns that cannot be applied."""
    wiring = stage.wiring
    processor.terminate()
    await wiring.place(2)
    await wiring.insert_these([str(uuid4())])
    for _ in range(3):
        await asyncio.to_thread(wiring.send, wiring.returns, "k", b"no JSON")
    await stage.fires(
        "RelayHopUnserved",
        "RelayReturnsOverdue",
        "RelayIncidentOpen",
        "RelayHopStuck",
        "RelayOrdersWithoutEvent",
        "RelayQuarantine",
        "RelayQuarantineFull",
    )
    processor = wiring.processor(RELAY_METRICS_ENABLED="false")
    await stage.fires("RelayReturnsSlow")
    await wiring.pg.execute(WITHOUT_EVENT)
    await wiring.pg.execute("UPDATE relay.quarantine SET state = 'discarded'")
    await stage.stops(
        "RelayHopUnserved",
        "RelayHopStuck",
        "RelayReturnsOverdue",
        "RelayReturnsSlow",
        "RelayOrdersWithoutEvent",
        "RelayQuarantine",
    )
    return processor


async def _gaps(stage: Stage, consumer: Any) -> Any:
    """Returns that were deleted before anybody read them; a record that nothing takes."""
    wiring = stage.wiring
    consumer.kill()
    await asyncio.to_thread(wiring.send, wiring.returns, "k", b"no JSON")
    await asyncio.to_thread(wiring.delete_records, wiring.returns)
    await stage.fires("RelayTargetDown", "RelayNoConsumer")
    await wiring.pg.execute(REFUSE)
    consumer = await stage.scraped("confirm", wiring.consumer())
    await stage.fires("RelayOffsetGap")
    await asyncio.to_thread(wiring.send, wiring.returns, "k", b"no JSON")
    await stage.fires("RelayPartitionBlocked")
    await wiring.pg.execute("DROP TRIGGER refuse ON relay.quarantine")
    await stage.stops("RelayTargetDown", "RelayNoConsumer", "RelayOffsetGap")
    return consumer


async def _leases(stage: Stage, empty_database: str) -> None:
    """Somebody else holds the leases; rounds that fail; another database behind the name."""
    wiring = stage.wiring
    prometheus = stage.prometheus
    await wiring.pg.execute(STEAL)
    await wiring.place(1)
    await stage.fires("RelayNobodyActive", "RelayNoWatchdog")
    gone = prometheus.now("relay_overdue_orders or relay_hop_waiting or relay_incidents_open")
    assert gone == [], "what a watchdog measured goes with its lease"
    await wiring.pg.execute(GIVE_BACK)
    await stage.stops("RelayNobodyActive", "RelayNoWatchdog")
    await wiring.pg.execute("ALTER TABLE relay.maintenance RENAME TO mislaid")
    await stage.fires("RelayDutyFailing", "RelayNotMeasured")
    await wiring.pg.execute("ALTER TABLE relay.mislaid RENAME TO maintenance")
    assert wiring.command("migrate", "--sample", DATABASE_URL=empty_database).returncode == 0
    other = await stage.scraped("other", wiring.relay(DATABASE_URL=empty_database))
    await stage.fires("RelayTwoActive")
    other.terminate()
    del prometheus.targets["other"]
    prometheus.write()
    await stage.stops("RelayTwoActive", "RelayNotMeasured", "RelayDutyFailing")


async def _database_away(stage: Stage) -> None:
    """All that a database takes with it, and that all of it stops."""
    wiring = stage.wiring
    await stage.database_away()
    await stage.fires(
        "RelayDependencyAway", "RelayProbeStale", "RelayProbeStopped", "RelayNobodyActive",
        "RelayNoConsumer", "RelayNoWatchdog",
    )  # fmt: skip
    await stage.database_back()
    await wiring.pg.execute("UPDATE relay.quarantine SET state = 'discarded'")
    orders = await wiring.place(3)
    await wiring.until_returned(orders)
    await stage.fires("RelaySpansDropped", within=60)
    await stage.stops(*ALERTS.keys() - {"RelaySpansDropped"}, within=90)


async def test_every_metric_every_alert_and_every_panel(
    wiring: Wiring,
    prometheus: Prometheus,
    postgres_url: str,
    empty_database: str,
    eventually: Callable[..., Awaitable[Any]],
) -> None:
    stage = Stage(wiring, prometheus, postgres_url)
    wiring.environment |= QUICK
    wiring.environment["OTEL_TRACES_EXPORTER"] = "otlp"
    wiring.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
    wiring.environment["RELAY_CONFIRM_QUARANTINE_ROWS"] = "1"
    await eventually(prometheus.answers, 20)
    await stage.fires("RelayNothingScraped")
    await _backdated(wiring, 5, "submitted")  # missing, and long due
    relay = await stage.scraped("relay", wiring.relay())
    consumer = await stage.scraped("confirm", wiring.consumer())
    await stage.stops("RelayNothingScraped")
    await stage.fires("RelayReturnBurnFast", "RelayReturnBurnSlow")
    processor = wiring.processor(RELAY_METRICS_ENABLED="false")
    await wiring.until_up()

    # Orders that come in time, and a canary.
    await stage.scraped("probe", wiring.start("probe", "--create-topic", "--every", "1"))
    orders = await wiring.place(5)
    await wiring.until_returned(orders)
    processor = await _losses(stage, processor)
    consumer = await _gaps(stage, consumer)
    await _leases(stage, empty_database)
    await _database_away(stage)

    fired = await asyncio.to_thread(prometheus.alerts, "firing", ever=True)
    assert ALERTS.keys() - fired - stage.seen["firing"] == set()
    pending = await asyncio.to_thread(prometheus.alerts, "pending", ever=True)
    # What a Prometheus finds as it starts it does not write as pending; promtool's tests have that.
    waiting = {name for name, rule in ALERTS.items() if "for" in rule} - {"RelayNothingScraped"}
    assert waiting - pending - stage.seen["pending"] == set()
    await _everything_has_data(prometheus)
    for process in (relay, consumer, processor):
        assert process.is_running()
    await wiring.pg.close()  # the one that database_back opened


async def _everything_has_data(prometheus: Prometheus) -> None:
    never = set()
    for family in every_metric().registry.collect():
        for name in {sample.name for sample in family.samples}:
            if OF_A_WITNESS in name:
                continue
            if name.startswith("relay_") and not await asyncio.to_thread(prometheus.ever, name):
                never.add(name)
    empty = []
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            query = re.sub(r'=~"\$\w+"', '=~".*"', target["expr"])
            query = query.replace("$__rate_interval", "10s")
            if OF_A_WITNESS in query:
                continue
            if not await asyncio.to_thread(prometheus.ever, query):
                empty.append((panel["title"], query))
    assert (never, empty) == (set(), []), "metrics that were never set, queries without data"
    for hop in ("publish", "process", "return", "confirm", "end_to_end"):
        name = f"relay_{hop}_latency_seconds_bucket"
        found = await asyncio.to_thread(prometheus.exemplars, name)
        assert found, name
        assert len(found[0]["exemplars"][0]["labels"]["trace_id"]) == 32
