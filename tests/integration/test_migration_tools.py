"""Somebody else's migration tool makes the schema `relay` as the docs say, and leaves it alone."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

RelayCommand = Callable[..., subprocess.CompletedProcess[str]]

DOCS = (Path(__file__).parents[2] / "docs/adopting.md").read_text("utf-8")
ENVIRONMENT = """
import os
from alembic import context
from sqlalchemy import MetaData, Table, Column, BigInteger, Text, create_engine

shop = MetaData()
Table("orders", shop, Column("id", BigInteger, primary_key=True), Column("state", Text))
INCLUDE = {include}
with create_engine(os.environ["SHOP_URL"]).connect() as connection:
    context.configure(connection, target_metadata=shop, include_schemas=INCLUDE is not None,
                      **(INCLUDE or {{}}))
    with context.begin_transaction():
        context.run_migrations()
"""
ORDERS = "CREATE TABLE IF NOT EXISTS orders (id bigint PRIMARY KEY, state text)"
REVISION = """
from pathlib import Path
from alembic import op
revision, down_revision = "relay1", None

{upgrade}
"""


def documented(name: str) -> str:
    """The code that the page shows under this heading."""
    section = DOCS.partition("## Your own migration tool")[2]
    found = re.findall(rf"# {name}\n(.*?)```", section, re.DOTALL)
    assert len(found) == 1
    return found[0]


def alembic(folder: Path, url: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=folder, env={"SHOP_URL": url, "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_alembic_makes_the_schema_and_its_autogenerate_leaves_it_alone(
    empty_database: str, relay_command: RelayCommand, tmp_path: Path, driver: str
) -> None:
    env = {"DATABASE_URL": empty_database}
    printed = relay_command("migrate", "--sql", "--within-transaction", env=env)
    assert printed.returncode == 0, printed.stderr
    (tmp_path / "relay.sql").write_text(printed.stdout)
    versions = tmp_path / "shop/versions"
    versions.mkdir(parents=True)
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = shop\n")
    (tmp_path / "shop/script.py.mako").write_text("upgrades: ${upgrades}\n")
    (versions / "relay1.py").write_text(REVISION.format(upgrade=documented("migration")))
    url = empty_database.replace("postgresql://", f"postgresql+{driver}://")
    for include in ("None", "dict(" + documented("env.py").strip() + ")"):
        (tmp_path / "shop/env.py").write_text(ENVIRONMENT.format(include=include))
        alembic(tmp_path, url, "upgrade", "head")
        verified = relay_command("migrate", "--verify", env=env)
        assert verified.returncode == 0, verified.stdout
        with psycopg.connect(empty_database) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS orders (id bigint PRIMARY KEY, state text)"
            )
        assert "No new upgrade operations detected" in alembic(tmp_path, url, "check")
