"""The shops of `examples/`, as their readers run them: an order and its event, or neither."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from relay.runtime.migrations import migrate
from tests.foreign_processor import foreign_processor

EXAMPLES = Path(__file__).parents[2] / "examples"
CALL_FASTAPI = """
import sys
import app
from fastapi.testclient import TestClient

app.Base.metadata.create_all(app.engine)
lines = [{"sku": "tea", "quantity": 2, "price": "4.95"}]
answer = TestClient(app.app, raise_server_exceptions=False).post(
    "/orders", json={"number": sys.argv[1], "lines": lines})
print(answer.json()["id"] if answer.status_code == 201 else answer.text)
sys.exit(answer.status_code != 201)
"""
# The shops' own drivers read times in this style only, whatever the server's is.
SHOP = {"PGOPTIONS": "-c datestyle=ISO"}
Run = Callable[..., subprocess.CompletedProcess[str]]
RelayCommand = Run


@pytest.fixture
def shop(request: pytest.FixtureRequest, tmp_path: Path, empty_database: str) -> tuple[Run, Path]:
    """A copy of the example's folder, and how to run a program in it."""
    folder = tmp_path / request.param
    ignored = shutil.ignore_patterns("node_modules", "target", "__pycache__")
    shutil.copytree(EXAMPLES / request.param, folder, ignore=ignored)

    def run(*arguments: str, env: Mapping[str, str] | None = None, ok: bool = True):
        done = subprocess.run(
            arguments, cwd=folder, capture_output=True, text=True, timeout=200, check=False,
            env={**os.environ, **SHOP, "DATABASE_URL": empty_database, **(env or {})},
        )  # fmt: skip
        assert (done.returncode == 0) == ok, (arguments, done.stdout, done.stderr)
        return done

    return run, folder


def program(name: str, run: Run) -> tuple[str, ...]:
    """Build an example, as its README says, and return the command that places an order."""
    match name:
        case "node":
            run("npm", "ci", "--no-audit", "--no-fund")
            return ("node", "order.mjs")
        case "spring" | "jpa":
            build = ("compile", "dependency:build-classpath", "-Dmdep.outputFile=target/classpath")
            run("mvn", "-q", "-B", *build)
            return ("sh", "-c", 'java -cp "target/classes:$(cat target/classpath)" shop.Shop "$0"')
        case "go":
            run("go", "build", "-o", "shop", ".")
            return ("./shop",)
    return (sys.executable, "-c", CALL_FASTAPI)


@pytest.mark.parametrize("shop", ["fastapi", "node", "spring", "jpa", "go"], indirect=True)
@pytest.mark.timeout(400)
async def test_order_and_event_are_one_transaction(
    shop: tuple[Run, Path], empty_database: str, relay_command: RelayCommand
) -> None:
    run, folder = shop
    tool = {"node": "npm", "spring": "mvn", "jpa": "mvn", "go": "go"}.get(
        folder.name, sys.executable
    )
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not on this machine")
    if folder.name == "jpa":  # Flyway makes the schema, as the page says
        made = relay_command(
            "migrate", "--sql", "--within-transaction", env={"DATABASE_URL": empty_database}
        )
        (folder / "src/main/resources/db/migration/V2__relay.sql").write_text(made.stdout)
    else:
        await migrate(empty_database, sample=False)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        if folder.name not in {"fastapi", "jpa"}:
            connection.execute((EXAMPLES / "schema.sql").read_text())
        place = program(folder.name, run)
        order_id = run(*place, "A-1").stdout.strip()
        run(*place, "A-1", ok=False)  # the number is taken
        if folder.name == "jpa":
            verified = relay_command("migrate", "--verify", env={"DATABASE_URL": empty_database})
            assert verified.returncode == 0, verified.stdout
        found = connection.execute(
            "SELECT o.id::text, e.aggregate_type, e.event_type, e.payload::text"
            " FROM public.orders o FULL JOIN relay.outbox e ON e.aggregate_id = o.id::text"
        ).fetchall()
    ((order, aggregate_type, event_type, payload),) = found
    assert (order, aggregate_type, event_type) == (order_id, "order", "order.placed")
    told = json.loads(payload)
    assert (str(told["order_id"]), told["number"], told["total"]) == (order_id, "A-1", "9.90")


async def test_a_new_shop_goes_from_nothing_to_its_first_returned_order(
    empty_database: str,
    kafka_bootstrap: str,
    topics: Any,
    relay_command: RelayCommand,
    relay_process: Callable[..., Any],
    eventually: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """As docs/adopting.md tells it, with the Django shop."""
    env = {
        "DATABASE_URL": empty_database,
        "RELAY_CONFIG": str(tmp_path / "relay.toml"),
        "RELAY_METRICS_PORT": "0",
    }

    def manage(*arguments: str) -> None:
        subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=EXAMPLES / "django", env={**os.environ, **SHOP, **env}, timeout=120, check=True,
        )  # fmt: skip

    manage("migrate", "-v", "0")
    events, returns = topics.create("events", partitions=2), topics.create("returns", partitions=2)
    group = f"p-{topics.suffix}"
    done = relay_command(
        "--config", env["RELAY_CONFIG"], "init", "--yes", "--apply", "--events-topic", events,
        "--returns-topic", returns, "--processor-group", group,
        "--confirm-group", f"c-{topics.suffix}", env=env,
    )  # fmt: skip
    assert "Say your own with --initial and --final" in done.stderr  # Django has no default there
    assert "public.shop_order, id id (bigint), status status, placed created_at" in done.stderr
    assert done.stdout.count("\n NO") == 1, done.stdout  # database.fsync, of the tests' server
    for service in ("run", "confirm"):
        relay_process(service, env=env)
    wiring = SimpleNamespace(bootstrap=kafka_bootstrap, events=events, returns=returns)
    with foreign_processor(wiring, group):
        lines = [{"sku": "tea", "quantity": 2, "price": "4.95"}]
        call = f"from shop.orders import place_order; place_order('A-1', 'a@b.example', {lines!r})"
        manage("shell", "-v", "0", "-c", call)
        with psycopg.connect(empty_database, autocommit=True) as connection:
            status = "SELECT status FROM shop_order"
            await eventually(lambda: connection.execute(status).fetchone() == ("confirmed",), 60)
    traced = relay_command("trace", "A-1", env=env)
    assert "RETURNED" in traced.stdout, traced.stdout
