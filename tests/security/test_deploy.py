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
from relay.runtime.settings import Settings, load_settings
from relay.runtime.settings_sources import is_secret, variables
from relay.telemetry import metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana" / "outbox-relay.json").read_text())
EXPRESSIONS = [
    *(rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]),
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]),
]
# A line of the table in relay/telemetry/metrics.py: name, kind, labels.
DOCUMENTED = {
    name: {label for label in labels.replace(" ", "").split(",") if label}
    for name, _kind, labels in re.findall(
        r"^\| (relay_\w+) \| (\w+) \|([^|]*)\|", metrics.__doc__ or "", re.MULTILINE
    )
}
ADDED = {"instance", "job", "le"}


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
    return set(re.findall(r"\brelay_[a-z_]+", expression))


def test_every_metric_exists_with_its_labels() -> None:
    made = metrics.Metrics("relay", "1", lambda: metrics.ExportCounts(0, {}, 0, 0))
    exposed = generate_latest(made.registry).decode()
    for expression in EXPRESSIONS:
        for name in _names(expression):
            base = name.removesuffix("_bucket")
            assert base in DOCUMENTED, expression
            family = base.removesuffix("_total")
            assert re.search(rf"^# TYPE {family}(_total)? ", exposed, re.MULTILINE), name
        labels = {
            label.strip()
            for group in re.findall(r"by \(([^)]*)\)", expression)
            for label in group.split(",")
        }
        allowed = set.union(*(DOCUMENTED[n.removesuffix("_bucket")] for n in _names(expression)))
        assert labels <= allowed | ADDED, expression


def test_every_alert_names_a_command_that_exists() -> None:
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            words = rule["annotations"]["command"].split()
            assert words[0] == "relay"
            refuse_unknown_command(words[1:])
            assert rule["annotations"]["summary"]


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
