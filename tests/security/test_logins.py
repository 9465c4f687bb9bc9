"""Each role by a login of its own: what it may do, what it is refused; services under their own.

The statements are those of tests/integration/test_roles.py; here nobody is a superuser who plays a
role: the server authenticates a login that is a member of one role and of nothing else.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from relay.outbox import Item, NewOrder, place_order

_SPEC = importlib.util.spec_from_file_location(
    "role_statements", Path(__file__).parents[1] / "integration" / "test_roles.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
STATEMENTS = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(STATEMENTS)

PASSWORD = "of-the-login"

Login = Callable[[str], str]


@pytest.fixture
async def logins(database: str, pg: asyncpg.Connection) -> AsyncIterator[dict[str, str]]:
    """Role -> the URL of a login that is a member of it alone."""
    parts, made, urls = urlsplit(database), [], {}
    for role in STATEMENTS.ALL:
        user = f"{role}_{uuid.uuid4().hex[:8]}"
        await pg.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}' IN ROLE {role}")
        made.append(user)
        address = f"{parts.hostname}:{parts.port}{parts.path}"
        urls[role] = f"postgresql://{user}:{PASSWORD}@{address}"
    yield urls
    for user in made:
        await pg.execute(f"DROP ROLE {user}")


async def outcome(connection: asyncpg.Connection, statement: str) -> str:
    """Run one statement and take it back: `done`, or the SQLSTATE it was refused with."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(statement)
    except asyncpg.PostgresError as error:
        return str(error.sqlstate)
    else:
        return "done"
    finally:
        await transaction.rollback()


@pytest.mark.parametrize("role", STATEMENTS.ALL)
async def test_a_login_may_what_its_role_may_and_nothing_else(
    pg: asyncpg.Connection, logins: dict[str, str], role: str
) -> None:
    await pg.execute(STATEMENTS.INSERT.format("", ""))
    connection = await asyncpg.connect(logins[role])
    try:
        for statement in STATEMENTS.MAY[role]:
            assert await outcome(connection, statement) == "done", statement
        for statement in STATEMENTS.MAY_NOT[role]:
            assert await outcome(connection, statement) == "42501", statement
        for other in {"relay_owner", *STATEMENTS.ALL} - {role}:
            assert await outcome(connection, f"SET ROLE {other}") == "42501", other
        for statement in ("CREATE TABLE relay.mine (a int)", "DROP TABLE relay.outbox"):
            assert await outcome(connection, statement) == "42501", statement
    finally:
        await connection.close()


async def test_every_program_works_under_its_own_login(
    logins: dict[str, str],
    topics: Any,
    kafka_bootstrap: str,
    relay_process: Callable[..., Any],
    relay_command: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    env = {
        "RELAY_FLOW_EVENTS_TOPIC": topics.create("orders.events", 1),
        "RELAY_FLOW_RETURNS_TOPIC": topics.create("orders.returns", 1),
        "RELAY_FLOW_PROCESSOR_GROUPS": f"p-{uuid.uuid4().hex}",
        "RELAY_FLOW_CONFIRM_GROUP": f"g-{uuid.uuid4().hex}",
        "RELAY_METRICS_ENABLED": "false",
    }

    def under(role: str) -> dict[str, str]:
        return env | {"DATABASE_URL": logins[role]}

    services = [
        relay_process("run", env=under("relay_publisher")),
        relay_process("confirm", env=under("relay_confirmer")),
        relay_process("sample", "processor", env=under("relay_observer")),
    ]
    writer = await asyncpg.connect(logins["relay_writer"])
    try:
        async with writer.transaction():
            order = await place_order(writer, NewOrder("c", [Item("tea", 1, "9.95")], "EUR"))
    finally:
        await writer.close()
    observer = await asyncpg.connect(logins["relay_observer"])
    try:

        async def returned() -> bool:
            assert all(one.is_running() for one in services), [one.stderr for one in services]
            return bool(await observer.fetchval("SELECT status FROM orders") == "confirmed")

        await eventually(returned, 60)
    finally:
        await observer.close()
    for role in ("relay_observer", "relay_operator"):
        for command in (("status", "--json"), ("diagnose", "--json", str(order.order_id))):
            done = await asyncio.to_thread(relay_command, *command, env=under(role))
            assert done.returncode in (0, 3), (role, command, done.stderr)
            found = json.loads(done.stdout)
            if "orders" in found:
                assert found["orders"][0]["verdict"] == "returned", (role, found)
    for one in services:
        assert one.terminate() == 0
        assert "permission denied" not in one.stderr


@pytest.mark.parametrize(
    ("command", "role"),
    [(("run",), "relay_observer"), (("confirm",), "relay_observer"), (("run",), "relay_writer")],
)
async def test_a_service_under_another_role_says_what_it_is_not_permitted(
    logins: dict[str, str],
    topics: Any,
    relay_process: Callable[..., Any],
    eventually: Callable[..., Any],
    command: tuple[str, ...],
    role: str,
) -> None:
    env = {
        "DATABASE_URL": logins[role],
        "RELAY_FLOW_EVENTS_TOPIC": topics.create("orders.events", 1),
        "RELAY_FLOW_RETURNS_TOPIC": topics.create("orders.returns", 1),
        "RELAY_METRICS_ENABLED": "false",
    }
    service = relay_process(*command, env=env)
    await eventually(lambda: "permission denied" in service.stderr, 30)
    assert PASSWORD not in service.stderr
