"""The users that the services are connected as: what each lacks is named, by what it asks of it."""

from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from relay.runtime.flow import ApplyColumns, ApplyFunction


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
    checked = await check()
    assert checked.states[name] == "ok"
    # What is said of the table is the policy of docs/adopting.md, for the roles that need one.
    assert checked.states["orders.row_security"] == "warning"
    await pg.execute(f"ALTER ROLE {user} NOBYPASSRLS")
    await pg.execute(checked.fix("orders.row_security"))
    checked = await check()
    assert (checked.states[name], checked.states["orders.row_security"]) == ("ok", "ok")
    await pg.execute("DROP POLICY relay_all ON public.orders")
    await pg.execute("CREATE POLICY own ON public.orders USING (customer_id = current_user)")
    assert (await check()).states["orders.row_security"] == "warning"


async def test_the_check_of_an_operator_knows_all_that_a_superusers_does(
    check, pg, login, database
):
    user = await login("somebody")
    await pg.execute(f"GRANT relay_operator TO {user}")
    where = urlsplit(database)
    port = where.netloc.rsplit("@", 1)[-1]
    mine = urlunsplit(where._replace(netloc=f"{user}:x@{port}"))
    by_superuser, by_operator = await check(), await check(dsn=mine)
    assert by_operator.report.not_stored is None
    differing = {
        name: by_operator.found(name)
        for name, state in by_operator.states.items()
        if by_superuser.states.get(name) is not state and not name.startswith("access.")
    }
    assert differing == {}


OTHER_LOGINS = """
SELECT count(*) FROM pg_roles WHERE rolcanlogin AND NOT rolsuper AND rolname <> $1
   AND pg_has_role(oid, 'relay_confirmer', 'MEMBER')
"""


async def test_what_a_role_lacks_on_the_orders_is_said_before_anything_runs(check, pg):
    user = f"user_{uuid4().hex[:12]}"
    await pg.execute(f"CREATE ROLE {user} LOGIN; GRANT relay_confirmer TO {user}")
    try:
        name = "orders.grants:relay_confirmer"
        assert (await check()).states[name] == "ok"
        await pg.execute("REVOKE UPDATE (status) ON public.orders FROM relay_confirmer")
        await pg.execute("REVOKE INSERT ON public.order_status_history FROM relay_confirmer")
        checked = await check()
        assert checked.states[name] == "failed"
        assert "UPDATE status of orders" in checked.found(name)
        assert "may not INSERT" in checked.found(name)
        await pg.execute(checked.fix(name))
        assert (await check()).states[name] == "ok"
        await pg.execute("REVOKE UPDATE (status) ON public.orders FROM relay_confirmer")
        assert (await check()).states[name] == "failed"
        await pg.execute(f"GRANT UPDATE (status) ON public.orders TO {user}")
        # Roles are the server's: another test's login may have this one and still lack the right.
        checked = await check()
        assert user not in checked.found(name)
        assert (checked.states[name] == "ok") == (await pg.fetchval(OTHER_LOGINS, user) == 0)
    finally:
        await pg.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")


async def test_a_function_of_another_signature_and_a_history_without_a_column_are_named(
    check, pg, flow
):
    await pg.execute(
        "CREATE FUNCTION public.apply_return(text, text, text, text, jsonb) RETURNS text"
        " LANGUAGE sql AS 'SELECT NULL::text'"
    )
    by_function = replace(flow, apply=ApplyFunction("public.apply_return"), orders=ApplyColumns())
    checked = await check(flow=by_function)
    assert checked.states["confirm.function"] == "failed"
    assert "(text, text, text, text, json)" in checked.found("confirm.function")
    await pg.execute("ALTER TABLE public.order_status_history RENAME event_id TO event")
    checked = await check()
    assert checked.states["orders.types"] == "failed"
    assert "event_id" in checked.found("orders.types")


async def test_a_policy_that_shows_every_order_is_enough(check, pg, login):
    user = await login("relay-confirm")
    await pg.execute(f"GRANT relay_confirmer TO {user}")
    await pg.execute("ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY")
    name = f"confirm.grants:{user}"
    await pg.execute("CREATE POLICY own ON orders FOR SELECT USING (customer_id = current_user)")
    assert (await check()).states[name] == "failed"
    await pg.execute("CREATE POLICY relay_all ON orders TO relay_confirmer USING (true)")
    assert (await check()).states[name] == "ok"
    await pg.execute("CREATE POLICY fewer ON orders AS RESTRICTIVE FOR SELECT USING (total > 0)")
    assert (await check()).states[name] == "failed"
