"""What deploy/ names exists: commands, settings, metrics, labels, roles, files."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import psycopg
import yaml
from prometheus_client import generate_latest
from psycopg import sql

from relay.cli import root
from relay.diagnose.verdicts import Verdict
from relay.runtime.settings import Settings, load_settings
from relay.runtime.settings_sources import is_secret, variables
from relay.telemetry import metrics
from tests.every_metric import every_metric

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
ALERT_RULES, RECORDING_RULES = (
    [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]
    for file in (DEPLOY / "prometheus" / name for name in ("alerts.yaml", "recording.yaml"))
)
RECORDED = {rule["record"] for rule in RECORDING_RULES}
DASHBOARD = json.loads((DEPLOY / "grafana" / "outbox-relay.json").read_text())
EXPRESSIONS = [
    *(rule["expr"] for rule in (*ALERT_RULES, *RECORDING_RULES)),
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())),
]
# A line of the table in relay/telemetry/metrics.py: name, kind, labels.
DOCUMENTED = {
    name: {label for label in labels.replace(" ", "").split(",") if label}
    for name, _kind, labels in re.findall(
        r"^\| (relay_\w+) \| (\w+) \|([^|]*)\|", metrics.__doc__ or "", re.MULTILINE
    )
}
ADDED = {"namespace", "job", "installation", "instance", "le"}


def refuse_unknown_command(arguments: list[str]) -> None:
    """Parse as the program would; nothing is run."""
    command: click.Command = root
    context = click.Context(root, info_name="relay", obj={"config": None, "json": False})
    rest = list(arguments)
    while isinstance(command, click.Group):
        found = command.get_command(context, rest.pop(0))
        assert found is not None, arguments
        command = found
    command.make_context("relay", rest, parent=context)


def test_services_run_commands_and_settings_that_exist() -> None:
    known = variables(Settings)
    for name, service in COMPOSE["services"].items():
        refuse_unknown_command(service["command"])
        for variable in service["environment"]:
            plain = variable.removesuffix("_FILE")
            assert plain in known, (name, variable)
            if plain != variable:
                assert is_secret(known[plain][1]), variable
        for secret in service["secrets"]:
            assert secret in COMPOSE["secrets"]
        paths = [one for one in service["environment"].values() if "/run/secrets/" in str(one)]
        assert {path.removeprefix("/run/secrets/") for path in paths} <= set(service["secrets"])


def test_the_services_settings_do_not_contradict_each_other(tmp_path: Path) -> None:
    for name in ("relay", "confirm"):
        environment = dict(COMPOSE["services"][name]["environment"])
        environment["KAFKA_BOOTSTRAP_SERVERS"] = "kafka:9092"
        for variable, value in list(environment.items()):
            if variable.endswith("_FILE"):
                file = tmp_path / Path(value).name
                file.write_text("postgresql://u@h/d\n")
                environment[variable] = str(file)
        found = load_settings(None, environment)
        assert found.kafka.security_protocol == "SASL_SSL"
        assert found.metrics.host == "0.0.0.0"


def _names(expression: str) -> set[str]:
    return set(re.findall(r"(?<!:)\brelay_[a-z_]+", expression))


def test_every_metric_exists_with_its_labels() -> None:
    exposed = generate_latest(every_metric().registry).decode()
    for expression in EXPRESSIONS:
        for name in _names(expression):
            base = name.removesuffix("_bucket")
            assert base in DOCUMENTED, expression
            family = base.removesuffix("_total")
            assert re.search(rf"^# TYPE {family}(_total)? ", exposed, re.MULTILINE), name
        for record in re.findall(r"\binstallation:[a-z0-9_:]+", expression):
            assert record in RECORDED, expression
        labels = {
            label.strip()
            for group in re.findall(r"(?:by|on) \(([^)]*)\)", expression)
            for label in group.split(",")
        }
        known = [DOCUMENTED[name.removesuffix("_bucket")] for name in _names(expression)]
        assert labels <= set().union(*known) | ADDED, expression


def test_every_metric_is_read_by_an_alert_or_the_dashboard() -> None:
    """What nobody looks at is not worth its series; the rest is for those who look closer."""
    read = {name.removesuffix("_bucket") for one in EXPRESSIONS for name in _names(one)}
    assert (
        DOCUMENTED.keys() - read
        == {
            "relay_build_info",
            "relay_duty_completed_timestamp_seconds",
            "relay_epoch",
            "relay_incident_alerts_total",
            "relay_orders_set_aside",
            "relay_outage_seconds_total",
            "relay_polls_total",
            "relay_producer_rebuilds_total",
            "relay_spans_queue_bytes",
            "relay_spans_waiting",
            "relay_trace_continuity_total",
        }
        - read
    )


def test_every_alert_says_what_where_and_what_next() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    site, page = project["urls"]["Documentation"], (ROOT / "docs" / "alerts.md").read_text()
    for rule in ALERT_RULES:
        told = rule["annotations"]
        words = told["command"].split()
        assert words[0] == "relay"
        refuse_unknown_command(words[1:])
        assert told["summary"]
        assert told["description"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert f"### {rule['alert']}\n" in page
        path = told["runbook_url"].removeprefix(site)
        name = path.partition("#")[0].removesuffix(".html")
        if "{{" not in name:
            assert (ROOT / "docs" / f"{name}.md").exists(), rule["alert"]


def test_every_verdict_has_the_page_that_the_alert_links_to() -> None:
    for verdict in Verdict:
        assert (ROOT / "docs" / "verdicts" / f"{verdict.value}.md").exists()


def test_every_panel_says_what_it_shows() -> None:
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            assert len(panel["description"]) > 40, panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    names = [one["name"] for one in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "namespace", "job", "installation", "instance"]


def test_the_dockerfile_copies_what_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
    (command,) = re.findall(r"^CMD (\[.+\])$", text, re.MULTILINE)
    refuse_unknown_command(json.loads(command))
    # By number: "not root" can be seen without the image's own user table.
    ((user, group),) = re.findall(r"^USER (\d+):(\d+)$", text, re.MULTILINE)
    assert int(user) > 0
    assert int(group) > 0
    extras = re.findall(r"--extra (\w+)", text)
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(extras) <= set(project["project"]["optional-dependencies"])


def test_roles_sql_makes_the_roles_that_the_migration_grants_to(postgres_url: str) -> None:
    text = (DEPLOY / "roles.sql").read_text()
    named = set(re.findall(r"'(relay_\w+)'", text))
    migration = (ROOT / "schemas" / "sql" / "0002_roles.sql").read_text()
    assert named == set(re.findall(r"'(relay_\w+)'", migration))
    assert named == {
        "relay_owner",
        "relay_writer",
        "relay_publisher",
        "relay_confirmer",
        "relay_operator",
        "relay_observer",
    }
    # What psql does with it: the statements of \gexec, then the grant.
    query = text[text.index("SELECT format") : text.index("\\gexec")]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for (statement,) in connection.execute(query).fetchall():  # type: ignore[arg-type]
            connection.execute(statement)
        connection.execute("CREATE ROLE deploy_migrator NOLOGIN")
        try:
            grant = text[text.index("GRANT relay_owner TO :") :].replace(':"migrator"', "{}")
            connection.execute(sql.SQL(grant).format(sql.Identifier("deploy_migrator")))
        finally:
            connection.execute("DROP ROLE deploy_migrator")
