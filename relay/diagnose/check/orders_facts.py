"""Hops 1 and 5: reads what a check needs to know of the orders' own table and its users.

Invariant: reads the catalogs only. Identifiers come from the settings and are resolved by the
server (`to_regclass`), never pasted into a statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from relay.orders.catalog import FlowTableError, orders_table
from relay.orders.rights import function_name
from relay.runtime.flow import ApplyColumns, ApplyFunction, Flow

_TABLE: Final = """
SELECT c.oid::regclass::text AS name, c.relrowsecurity AS row_security,
       c.relforcerowsecurity AS forced,
       (SELECT count(*)::int FROM pg_policy p WHERE p.polrelid = c.oid) AS policies,
       -- The roles of ours to which no policy shows every order, or of which one takes some away.
       ARRAY(SELECT r.rolname::text FROM pg_roles r
              WHERE r.rolname IN ('relay_confirmer', 'relay_publisher', 'relay_operator',
                                  'relay_observer')
                AND (SELECT bool_or(p.polpermissive AND p.polcmd IN ('r', '*')
                                    AND pg_get_expr(p.polqual, p.polrelid) = 'true')
                            AND bool_and(p.polpermissive)
                       FROM pg_policy p
                      WHERE p.polrelid = c.oid
                        AND (p.polroles = '{0}' OR r.oid = ANY (p.polroles))) IS NOT TRUE
              ORDER BY 1) AS blind_roles,
       c.relkind = 'v' AS is_view, c.relkind = 'p' AS is_partitioned,
       -- PostgreSQL demands in each unique index of a partitioned table what it is divided by.
       EXISTS (SELECT FROM pg_index i JOIN pg_attribute a
                 ON a.attrelid = c.oid AND a.attname = $2 AND i.indkey[0] = a.attnum
                WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
                  AND NOT EXISTS (
                      SELECT FROM unnest((i.indkey::int2[])[1:i.indnkeyatts - 1]) AS k (num)
                        JOIN pg_attribute b ON b.attrelid = c.oid AND b.attnum = k.num
                       WHERE b.attname <> ALL (ARRAY(
                             SELECT d.attname FROM pg_partition_tree(c.oid) t
                               JOIN pg_partitioned_table p ON p.partrelid = t.relid
                               JOIN pg_attribute d ON d.attrelid = p.partrelid
                                AND d.attnum = ANY (p.partattrs::int2[]))))
              ) AS key_is_unique,
       -- Of the unreturned alone, by time: all orders by time would be read through to find them.
       EXISTS (SELECT FROM pg_index i
                 JOIN pg_attribute t ON t.attrelid = c.oid AND t.attname = $3
                 JOIN pg_attribute s ON s.attrelid = c.oid AND s.attname = $4
                WHERE i.indrelid = c.oid AND i.indisvalid
                  AND (i.indkey[0] = t.attnum
                       AND pg_get_expr(i.indpred, i.indrelid) LIKE '%' || quote_ident($4) || '%'
                       OR i.indkey[0] = s.attnum AND i.indkey[1] = t.attnum)
              ) AS unreturned_are_indexed
  FROM pg_class c WHERE c.oid = to_regclass($1)
"""

_COLUMNS: Final = """
SELECT attname::text AS name, format_type(atttypid, atttypmod) AS type
  FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
"""

_CHECKS: Final = """
SELECT conname::text AS name, pg_get_constraintdef(oid) AS definition
  FROM pg_constraint WHERE conrelid = to_regclass($1) AND contype = 'c'
"""

# What each user that a service came as may do; superusers may do everything.
_CONFIRM_GRANTS: Final = """
SELECT u.name AS username,
       has_column_privilege(u.name, 'relay.inbox', 'event_id', 'INSERT')
         AND has_column_privilege(u.name, 'relay.consumer_offset', 'next_offset', 'UPDATE')
             AS own_tables,
       has_column_privilege(u.name, to_regclass($2), $3, 'UPDATE')
         AND has_column_privilege(u.name, to_regclass($2), $4, 'SELECT') AS orders,
       has_column_privilege(u.name, to_regclass($2), 'xmin', 'SELECT') AS row_versions,
       row_security_applies.value AS hidden
  FROM unnest($1::text[]) AS u(name),
       LATERAL (SELECT c.relrowsecurity
                       AND NOT (SELECT rolsuper OR rolbypassrls
                                  FROM pg_roles WHERE rolname = u.name)
                       AND (c.relforcerowsecurity OR pg_get_userbyid(c.relowner) <> u.name)
                       -- A policy that shows it every order, and none that takes some away.
                       AND NOT (bool_or(p.polpermissive AND p.polcmd IN ('r', '*')
                                        AND pg_get_expr(p.polqual, p.polrelid) = 'true')
                                AND bool_and(p.polpermissive)) IS TRUE AS value
                  FROM pg_class c
                  LEFT JOIN pg_policy p ON p.polrelid = c.oid
                   AND (p.polroles = '{0}'
                        OR EXISTS (SELECT FROM unnest(p.polroles) AS r
                                    WHERE pg_has_role(u.name, r, 'USAGE')))
                 WHERE c.oid = to_regclass($2)
                 GROUP BY c.oid) AS row_security_applies
"""

_RELAY_GRANTS: Final = """
SELECT u.name AS username,
       has_table_privilege(u.name, 'relay.outbox', 'SELECT')
         AND has_column_privilege(u.name, 'relay.checkpoint', 'prev', 'UPDATE')
         AND has_column_privilege(u.name, 'relay.lease', 'expires_at', 'UPDATE')
         AND has_column_privilege(u.name, 'relay.delivery_ledger', 'outbox_ids', 'INSERT')
         AND has_column_privilege(u.name, 'relay.quarantine', 'outbox_id', 'INSERT')
         AND has_function_privilege(u.name, 'relay.create_partition(date)', 'EXECUTE')
             AS own_tables,
       has_column_privilege(u.name, to_regclass($2), 'xmin', 'SELECT') AS row_versions
  FROM unnest($1::text[]) AS u(name)
"""

# The order service's own grants, by the role that deploy/roles.sql gives it.
_WRITER_GRANTS: Final = """
SELECT has_schema_privilege('relay_writer', 'relay', 'USAGE') AS schema,
       has_column_privilege('relay_writer', 'relay.outbox', 'payload', 'INSERT') AS insert,
       has_column_privilege('relay_writer', 'relay.outbox', 'txid', 'INSERT') AS forge
"""


@dataclass(frozen=True, slots=True)
class OrdersFacts:
    """What was read.

    Attributes:
        table: None where the flow names no table, or there is none.
        function_refusal: why the flow's function cannot be called; None: it can, or there is none.
        refusal: why the services would not start with these columns.
    """

    table: Mapping[str, Any] | None
    columns: Mapping[str, str]
    checks: Mapping[str, str]
    function_refusal: str | None
    confirm_grants: tuple[Mapping[str, Any], ...]
    relay_grants: tuple[Mapping[str, Any], ...]
    writer_grants: Mapping[str, Any]
    refusal: str | None = None


async def gather_orders(
    connection: asyncpg.Connection, flow: Flow, users: Mapping[str, tuple[str, ...]]
) -> OrdersFacts:
    """Read the facts; `users` are those that `relay` and `confirm` are connected as.

    Raises:
        asyncpg.PostgresError, OSError: the connection is lost, or the catalogs are not readable.
    """
    apply = flow.apply
    named = flow.orders_columns
    looked = None if named is None else named.table
    relay_grants = await connection.fetch(_RELAY_GRANTS, list(users.get("relay", ())), looked)
    writer = await connection.fetchrow(_WRITER_GRANTS)
    function_refusal = None
    if isinstance(apply, ApplyFunction):
        function_refusal = await _function_refusal(connection, apply.function)
    table, columns, checks, grants = None, {}, {}, []
    if named is not None:
        table = await connection.fetchrow(
            _TABLE,
            named.table,
            named.key_column,
            named.submitted_at_column,
            named.status_column,
        )
        columns = {r["name"]: r["type"] for r in await connection.fetch(_COLUMNS, named.table)}
    if isinstance(apply, ApplyColumns):
        checks = {r["name"]: r["definition"] for r in await connection.fetch(_CHECKS, apply.table)}
        if {apply.status_column, apply.key_column} <= columns.keys():
            grants = await connection.fetch(
                _CONFIRM_GRANTS,
                list(users.get("confirm", ())),
                apply.table,
                apply.status_column,
                apply.key_column,
            )
    return OrdersFacts(
        table=dict(table) if table else None,
        columns=columns,
        checks=checks,
        function_refusal=function_refusal,
        confirm_grants=tuple(map(dict, grants)),
        relay_grants=tuple(map(dict, relay_grants)),
        writer_grants=dict(writer or {}),
        refusal=await _refusal(connection, flow) if table else None,
    )


async def _function_refusal(connection: asyncpg.Connection, function: str) -> str | None:
    try:
        await function_name(connection, function)
    except FlowTableError as error:
        return str(error)
    return None


async def _refusal(connection: asyncpg.Connection, flow: Flow) -> str | None:
    try:
        await orders_table(connection, flow)
    except FlowTableError as error:
        return str(error)
    return None
