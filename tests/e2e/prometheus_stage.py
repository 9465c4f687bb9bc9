"""A real Prometheus, and a system that it reads: what is expected to fire, and to stop."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import yaml

from relay.embedded.ports import free_port
from tests.corpus.wiring import Wiring

ROOT = Path(__file__).parents[2]
BUILD_SCRIPT = ROOT / "tools" / "build_prometheus.sh"
RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "outbox-relay.json").read_text())
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((RULES / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
}
# What is there only where somebody else publishes.
OF_A_WITNESS = "relay_witness_"
LABELS = {"namespace": "shop", "job": "relay", "installation": "orders"}
Of = Callable[[str], bool]
Empty = tuple[set[str], list[tuple[str, str]]]
QUICK = {
    "RELAY_WATCH_ROUND_SECONDS": "0.5",
    "RELAY_WATCH_POSITION_SECONDS": "1",
    "RELAY_METRICS_ENABLED": "true",
    "RELAY_METRICS_PORT": "0",
}


def shortened(text: str) -> str:
    """The rules with seconds for minutes, days and thresholds: the expressions are the same."""
    text = re.sub(r"\bfor: \d+m\b", "for: 1s", text)
    text = re.sub(r"\[(?!1d\])\d+[mhd]\]|(?<=missing:sum)\[\d+[mhd]\]", "[6s]", text)
    text = re.sub(r"(?<=sum)\[\d+[mhd]\]", "[6s]", text)
    text = re.sub(r"\boffset \d+m", "offset 6s", text)
    text = text.replace(") > 500", ") > 5")
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


async def without_data(prometheus: Prometheus, names: Iterable[str], of: Of) -> Empty:
    """Return which metrics were never set, and which panels of the dashboard have no data."""
    never = {name for name in names if of(name) and not await _ever(prometheus, name)}
    empty = []
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            query = re.sub(r'=~"\$\w+"', '=~".*"', target["expr"])
            query = query.replace("$__rate_interval", "10s")
            if of(query) and not await _ever(prometheus, query):
                empty.append((panel["title"], query))
    return never, empty


async def _ever(prometheus: Prometheus, query: str) -> bool:
    return bool(await asyncio.to_thread(prometheus.ever, query))
