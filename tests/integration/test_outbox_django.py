"""Hop 1 in Django: `append` inside `atomic`, the model, the migration, the example's own tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "django"


def run(folder: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program of the shop's, against `url`."""
    env = {**os.environ, "DATABASE_URL": url, "DJANGO_SETTINGS_MODULE": "shop.settings"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_an_event_goes_with_djangos_transaction(database: str, driver: str) -> None:
    said = json.loads(run(HERE, database, "django_writers.py", driver).stdout)
    assert said["driver"] == driver
    assert said["autocommit"][0] == "NotInTransactionError"
    assert "transaction.atomic()" in said["autocommit"][2]
    assert said["sqlite"][0] == "TypeError"
    assert said["bad"][:2] == ["NotJsonError", "/lines/0/of"]
    events = dict(said["events"])
    assert list(events) == ["first", "kept", "types", "by hand", "orm", "bulk0", "bulk1", "avro"]
    assert json.loads(events["types"]) == {
        "money": "9.90", "lazy": "name", "id": "00000000-0000-0000-0000-000000000001",
        "at": "2026-01-02T03:04:05Z",
    }  # fmt: skip
    assert events["bulk0"] == '{ "c": 2}', "text stays as it is"
    assert said["avro"] == ["000000000778", "application/vnd.confluent.avro", None]
    assert said["read"] == [["orm", {"b": 1}], ["bulk0", {"c": 2}]]


def test_the_example_migrates_checks_and_tests_itself(empty_database: str) -> None:
    before = run(EXAMPLE, empty_database, "manage.py", "check", "--database", "default")
    assert "relay_outbox.W003" in before.stderr
    run(EXAMPLE, empty_database, "manage.py", "migrate")
    run(EXAMPLE, empty_database, "manage.py", "migrate")
    after = run(EXAMPLE, empty_database, "manage.py", "check", "--database", "default")
    assert "W00" not in after.stderr
    drift = run(EXAMPLE, empty_database, "manage.py", "makemigrations", "--check", "--dry-run")
    assert "No changes" in drift.stdout
    with psycopg.connect(empty_database) as connection:
        kind = connection.execute("SELECT kind FROM relay.installation").fetchone()
    assert kind == ("production",)
    assert "Ran 2 tests" in run(EXAMPLE, empty_database, "manage.py", "test").stderr
