"""The users that the services are connected as: what each lacks is named, by what it asks of it."""

from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest


@pytest.fixture
async def login(pg, database):
    """Connect as a new user under a service's name; what it may do is up to the test."""
    opened, users = [], []

    async def connect(application):
        user = f"user_{uuid4().hex[:12]}"
        await pg.execute(f"CREATE ROLE {user} LOGIN PASSWORD 'x'")
        users.append(user)
        where = urlsplit(database)
        port = where.netloc.rsplit("@", 1)[-1]
        url = urlunsplit(where._replace(netloc=f"{user}:x@{port}"))
        opened.append(await asyncpg.connect(url, server_settings={"application_name": application}))
        return user

    yield connect
    for one in opened:
        await one.close()
    for user in users:
        await pg.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")


async def test_a_relay_without_its_role_is_named_and_one_with_it_is_fine(check, pg, login):
    user = await login("relay-run-writer")
    name = f"publish.grants:{user}"
    checked = await check()
    assert checked.states[name] == "failed"
    assert checked.fix(name) == f"GRANT relay_publisher TO {user}"
    await pg.execute(checked.fix(name))
    assert (await check()).states[name] == "ok"


async def test_a_consumer_without_rights_on_the_orders_is_named(check, pg, login):
    user = await login("relay-confirm")
    name = f"confirm.grants:{user}"
    assert "the relay's tables" in (await check()).found(name)
    await pg.execute(f"GRANT relay_confirmer TO {user}")
    assert (await check()).states[name] == "ok"
    await pg.execute("REVOKE UPDATE (status) ON public.orders FROM relay_confirmer")
    checked = await check()
    assert checked.states[name] == "failed"
    assert "the orders' columns" in checked.found(name)


async def test_whoever_watches_without_the_right_to_see_who_wrote_an_order_is_named(
    check, pg, login
):
    user = await login("relay-run-writer")
    name = f"watch.grants:{user}"
    checked = await check()
    assert checked.states[name] == "warning"
    await pg.execute(checked.fix(name))
    assert name not in (await check()).states
    await pg.execute(f"REVOKE SELECT (xmin) ON public.orders FROM {user}")
    await pg.execute(f"GRANT relay_publisher TO {user}")
    assert name not in (await check()).states


async def test_row_level_security_that_hides_orders_from_the_consumer_is_named(check, pg, login):
    user = await login("relay-confirm")
    await pg.execute(f"GRANT relay_confirmer TO {user}")
    await pg.execute("ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY")
    name = f"confirm.grants:{user}"
    checked = await check()
    assert checked.states[name] == "failed"
    assert "row-level security" in checked.found(name)
    await pg.execute(f"ALTER ROLE {user} BYPASSRLS")
    assert (await check()).states[name] == "ok"
