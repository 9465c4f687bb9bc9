"""Hops 1 and 5: whether returns can be applied to the orders that the settings name.

Invariant: pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from relay.diagnose.check.orders_facts import OrdersFacts
from relay.diagnose.check.result import Result, failed, ok, warning
from relay.runtime.flow import ApplyColumns, ApplyFunction, Flow

_LITERAL = re.compile(r"'((?:[^']|'')*)'")


def judge_orders(facts: OrdersFacts, flow: Flow) -> list[Result]:
    """Return every check of the orders' table, the SQL function, and the grants on both."""
    results = [*_writer(facts), *_service_grants(facts)]
    if isinstance(flow.apply, ApplyFunction):
        results.append(_function(facts, flow.apply.function))
    if flow.orders_columns is not None:
        results.extend(_orders_columns(facts, flow, flow.orders_columns))
    else:
        results.append(
            warning(
                "orders.table",
                "no setting names it: an order without an event is found by nobody",
                "name it in [flow.NAME.columns] (table, key_column, ...): it is only looked at",
            )
        )
    return results


def _writer(facts: OrdersFacts) -> Iterator[Result]:
    grants = facts.writer_grants
    name = "place.grants:relay_writer"
    if not (grants.get("schema") and grants.get("insert")):
        yield failed(
            name,
            "may not insert into relay.outbox: every order would fail",
            "relay migrate --verify names what is missing; then grant it as in 0002_roles.sql",
        )
    elif grants["forge"]:
        yield warning(
            name,
            "may write txid: a wrong one hides an event for ever",
            "REVOKE INSERT ON relay.outbox FROM relay_writer, then grant the columns as in "
            "0002_roles.sql",
        )
    else:
        yield ok(name, "may append, and no more")


def _service_grants(facts: OrdersFacts) -> Iterator[Result]:
    for row in facts.relay_grants:
        name = f"publish.grants:{row['username']}"
        if row["own_tables"]:
            yield ok(name, "has what the relay needs")
        else:
            yield failed(
                name,
                "lacks rights on the relay's tables",
                f"GRANT relay_publisher TO {row['username']}",
            )
    for row in facts.confirm_grants:
        name = f"confirm.grants:{row['username']}"
        if row["hidden"]:
            yield failed(
                name,
                "row-level security applies: orders that a policy hides look unknown",
                f"ALTER ROLE {row['username']} BYPASSRLS, or a policy that shows it every order",
            )
        elif row["own_tables"] and row["orders"]:
            yield ok(name, "has what the confirmation consumer needs")
        else:
            lacking = "the orders' columns" if row["own_tables"] else "the relay's tables"
            yield failed(
                name,
                f"lacks rights on {lacking}: returns are not applied",
                f"GRANT relay_confirmer TO {row['username']}; and UPDATE of the status columns",
            )


def _row_versions(facts: OrdersFacts, table: str) -> Iterator[Result]:
    """Whoever watches has to tell a writer that bypasses the outbox from a row that was deleted."""
    for row in (*facts.relay_grants, *facts.confirm_grants):
        if row["row_versions"] is False:
            yield warning(
                f"watch.grants:{row['username']}",
                f"may not read xmin of {table}: why an order has no event stays unknown",
                f"GRANT SELECT (xmin) ON {table} TO {row['username']}",
            )


def _function(facts: OrdersFacts, function: str) -> Result:
    if facts.function_refusal is None:
        return ok("confirm.function", f"{function} can be called")
    return failed(
        "confirm.function",
        facts.function_refusal,
        "create it with these arguments (docs/adopting.md), or correct flow.orders.function",
    )


def _orders_columns(facts: OrdersFacts, flow: Flow, apply: ApplyColumns) -> Iterator[Result]:
    table = facts.table
    if table is None:
        yield failed(
            "orders.table",
            f"{apply.table} does not exist, or is not visible to this user",
            "correct flow.orders.columns.table, or grant USAGE on its schema",
        )
        return
    yield ok("orders.table", f"{apply.table} exists")
    yield from _row_versions(facts, apply.table)
    yield from _named_columns(facts, apply)
    if table["is_view"]:
        yield ok("orders.key", f"{apply.table} is a view: the indexes are those of its tables")
    else:
        yield _key(table, apply)
        yield _overdue_index(table, apply, flow)
    yield _row_security(table, apply)
    if isinstance(flow.apply, ApplyColumns):
        yield from _statuses(facts, flow, apply)


def _named_columns(facts: OrdersFacts, apply: ApplyColumns) -> Iterator[Result]:
    named = {
        "status_column": apply.status_column,
        "submitted_at_column": apply.submitted_at_column,
        "version_column": apply.version_column,
        "returned_at_column": apply.returned_at_column,
        "reason_column": apply.reason_column,
        "key_column": apply.key_column,
    }
    missing = [f"{key} = {c}" for key, c in named.items() if c and c not in facts.columns]
    if missing:
        yield failed(
            "orders.columns",
            f"{apply.table} has no column for {', '.join(missing)}",
            "correct [flow.orders.columns] in the settings",
        )
        return
    yield ok("orders.columns", "all that the settings name are there")
    if facts.refusal is None:
        yield ok("orders.types", "every column can hold what it is for")
    else:
        fix = "correct [flow.orders.columns] in the settings, or change the column"
        yield failed("orders.types", facts.refusal, fix)


def _row_security(table: Mapping[str, Any], apply: ApplyColumns) -> Result:
    name = "orders.row_security"
    if not table["row_security"]:
        return ok(name, "not enabled")
    blind = table["blind_roles"]
    if not blind:
        return ok(name, "enabled, and the relay's roles see every order")
    return warning(
        name,
        f"enabled, {table['policies']} policies: some users see only a part of the orders",
        f"CREATE POLICY relay_all ON {apply.table} TO {', '.join(blind)} USING (true)",
    )


def _key(table: Mapping[str, Any], apply: ApplyColumns) -> Result:
    if table["key_is_unique"]:
        return ok("orders.key", f"{apply.key_column} is unique")
    wanted = "UNIQUE INDEX CONCURRENTLY ON"
    if table["is_partitioned"]:
        wanted = "UNIQUE INDEX ON"  # PostgreSQL makes none of a partitioned table concurrently
    return failed(
        "orders.key",
        f"{apply.key_column} has no unique index: each return would scan the table",
        f"CREATE {wanted} {apply.table} ({apply.key_column})"
        + (", with the columns that it is divided by behind it" if table["is_partitioned"] else ""),
    )


def _overdue_index(table: Mapping[str, Any], apply: ApplyColumns, flow: Flow) -> Result:
    if table["unreturned_are_indexed"]:
        return ok("orders.overdue_index", "there is one for unreturned orders")
    # Of every status that is not final: one that the flow does not know is found by it, too.
    final = ", ".join(f"'{s}'" for s in sorted(flow.ended_statuses))
    of = f"({apply.submitted_at_column}) WHERE {apply.status_column} NOT IN ({final})"
    fix = f"CREATE INDEX CONCURRENTLY ON {apply.table} {of}"
    if table["is_partitioned"]:
        # PostgreSQL makes none of a partitioned table concurrently; it takes those that are there.
        fix = (
            f"CREATE INDEX CONCURRENTLY ON each partition {of}, and then"
            f" CREATE INDEX ON {apply.table} {of}, which takes them: relay init prints each"
        )
    return warning(
        "orders.overdue_index", "none: finding unreturned orders reads the whole table", fix
    )


def _statuses(facts: OrdersFacts, flow: Flow, apply: ApplyColumns) -> Iterator[Result]:
    """A CHECK that lists statuses must list every one that a return can set."""
    for name, definition in facts.checks.items():
        if apply.status_column not in definition:
            continue
        listed = {text.replace("''", "'") for text in _LITERAL.findall(definition)}
        missing = sorted(flow.status_ranks.keys() - listed) if listed else []
        if missing:
            yield failed(
                f"orders.statuses:{name}",
                f"refuses {', '.join(missing)}: such returns can never be applied",
                f"ALTER TABLE {apply.table} DROP CONSTRAINT {name}, and add it with every status",
            )
        else:
            yield ok(f"orders.statuses:{name}", "allows every status of the flow")
