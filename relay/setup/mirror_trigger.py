"""Hop 1: a trigger that copies an outbox table of Debezium's shape into the relay's, row by row.

Invariant: in the transaction of the row itself, at once: rows that their writer deletes in the same
transaction are copied all the same, and a row that cannot be copied fails its writer, loudly. The
id stays the event's identity where it is a uuid, so that consumers know copies of one event.

Source: the columns of Debezium's outbox event router (`id, aggregatetype, aggregateid, type,
payload`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import asyncpg

from relay.setup.order_trigger import NoSuchTableError, TriggerError

DEFAULTS: Final[Mapping[str, str]] = {
    "id": "id",
    "aggregatetype": "aggregatetype",
    "aggregateid": "aggregateid",
    "type": "type",
    "payload": "payload",
}
_TARGETS: Final = {
    "id": "event_id",
    "aggregatetype": "aggregate_type",
    "aggregateid": "aggregate_id",
    "type": "event_type",
    "payload": "payload",
    "headers": "headers",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
    "content_type": "content_type",
}

_PAYLOADS: Final = ("json", "jsonb", "bytea")
_CONTENT_TYPE: Final = re.compile(r"[\w.+-]+/[\w.+-]+(; ?[\w.+-]+=[\w.+-]+)*", re.ASCII)

_COLUMNS: Final = """
SELECT a.attname::text AS name, pg_catalog.quote_ident(a.attname) AS quoted,
       pg_catalog.format_type(a.atttypid, NULL) AS type, t.typcategory::text AS kind
  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
 WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
"""
_TABLE: Final = """
SELECT pg_catalog.quote_ident(n.nspname) AS schema,
       pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) AS name,
       pg_catalog.quote_ident(pg_catalog.left(c.relname || '_to_relay', 63)) AS trigger,
       c.relkind IN ('r', 'p') AS takes_triggers
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = pg_catalog.to_regclass($1) AND n.nspname <> 'relay'
"""


@dataclass(frozen=True, slots=True)
class CutOver:
    """What happens in the trigger's own transaction, so that each row is published once.

    Attributes:
        publication: Debezium's; it gives the table up at the very row from which the copies begin.
        backlog: which rows that are there are copied, as SQL over the table; None: none.
        order_by: the backlog's order, as SQL.
    """

    publication: str | None = None
    backlog: str | None = None
    order_by: str | None = None


async def mirror_trigger_sql(
    connection: asyncpg.Connection,
    table: str,
    columns: Mapping[str, str],
    cut_over: CutOver = CutOver(),
    content_type: str | None = None,
) -> str:
    """Return the statements, to be run in one transaction.

    Args:
        connection: any login that sees the table.
        table: the existing outbox table.
        columns: Debezium's name -> the table's own; those not named are called as Debezium's.
        cut_over: what else belongs to the moment.
        content_type: of payloads of type bytea that are not JSON; None: they are JSON, or a column
            says of each what it is.

    Raises:
        TriggerError: no such table, or it lacks a column that is needed.
    """
    if content_type is not None and not _CONTENT_TYPE.fullmatch(content_type):
        raise TriggerError(f"--content-type {content_type!r} is none, as application/avro")
    unknown = sorted(columns.keys() - _TARGETS.keys())
    if unknown:
        raise TriggerError(
            f"--column {unknown[0]}=...: the names are {', '.join(_TARGETS)}, and the table's own"
            " stands behind the ="
        )
    found = await _table(connection, table)
    seen = {row["name"]: row for row in await connection.fetch(_COLUMNS, table)}
    values = _values(found["name"], seen, columns)
    payload = seen[columns.get("payload", DEFAULTS["payload"])]
    if payload["kind"] != "S" and payload["type"] not in _PAYLOADS:
        raise TriggerError(
            f"{found['name']}.{payload['name']} is of type {payload['type']}: text, json, jsonb or"
            " bytea is needed; another column is named by --column payload=ITS_NAME"
        )
    values = _as_bytes(values, payload, content_type)
    if "payload_bytes" not in values:
        await _require_json(connection, found["name"], payload)
    made = _SQL.format(
        function=f"{found['schema']}.{found['trigger']}",
        trigger=found["trigger"],
        table=found["name"],
        into=", ".join(values),
        values=",\n            ".join(one.format(row="NEW") for one in values.values()),
    )
    if cut_over.publication is not None:
        name = await _publication(connection, cut_over.publication, table, has_table=True)
        made += _GIVE_UP.format(publication=name, table=found["name"])
    if cut_over.backlog is not None:
        made += _BACKLOG.format(
            into=", ".join(values),
            values=", ".join(one.format(row="o") for one in values.values()),
            table=found["name"],
            condition=cut_over.backlog,
            order=f" ORDER BY {cut_over.order_by}" if cut_over.order_by else "",
        )
    return made


async def mirror_back_sql(connection: asyncpg.Connection, table: str, publication: str) -> str:
    """Return the statements that give the table back: its next row is the publication's.

    Raises:
        TriggerError: no such table or publication, the publication has it, or nothing copies it.
    """
    found = await _table(connection, table)
    if not await connection.fetchval(_COPIES, table, found["trigger"]):
        raise TriggerError(
            f"no trigger of `relay trigger mirror` is on {found['name']}: there is nothing to give"
            " back"
        )
    name = await _publication(connection, publication, table, has_table=False)
    return _BACK.format(
        function=f"{found['schema']}.{found['trigger']}",
        trigger=found["trigger"],
        table=found["name"],
        publication=name,
    )


async def _publication(
    connection: asyncpg.Connection, publication: str, table: str, *, has_table: bool
) -> str:
    row = await connection.fetchrow(_PUBLICATION, publication, table)
    if row is None:
        there = await connection.fetchval(_PUBLICATIONS)
        raise TriggerError(f"there is no publication {publication}; there are: {there}")
    name: str = row["name"]
    if row["puballtables"]:
        raise TriggerError(
            f"the publication {name} is FOR ALL TABLES and cannot give one up: make one that lists"
            " its tables, and have the connector read that"
        )
    if row["has_table"] != has_table:
        raise TriggerError(
            f"the publication {name} does not list {table}: it publishes nothing of it"
            if has_table
            else f"the publication {name} has {table} already: Debezium sends what the relay sends."
            f" ALTER PUBLICATION {name} DROP TABLE {table} first"
        )
    return name


async def _table(connection: asyncpg.Connection, table: str) -> asyncpg.Record:
    try:
        found = await connection.fetchrow(_TABLE, table)
    except (asyncpg.SyntaxOrAccessError, asyncpg.DataError) as error:
        raise TriggerError(f"{table!r} is no table's name: {error}") from error
    if found is None:
        raise NoSuchTableError(f"there is no table {table}, or it is the relay's own")
    if not found["takes_triggers"]:
        raise TriggerError(f"{table} is no table: name the one behind it, which gets the trigger")
    return found


def _values(
    table: str, seen: Mapping[str, asyncpg.Record], columns: Mapping[str, str]
) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, target in _TARGETS.items():
        column = columns.get(name, DEFAULTS.get(name))
        if column is None:
            continue
        if column not in seen:
            if name == "id" and name not in columns:
                continue  # the relay's table makes one
            raise TriggerError(
                f"{table} has no column {column} for {name}: say --column {name}=ITS_NAME;"
                f" it has {', '.join(seen)}"
            )
        value = _value(name, seen[column])
        if value is not None:
            values[target] = value
    return values


def _value(name: str, column: asyncpg.Record) -> str | None:
    quoted = column["quoted"].replace("{", "{{").replace("}", "}}")
    new = f"{{row}}.{quoted}"
    if name == "id":
        return new if column["type"] == "uuid" else None
    if name == "payload":
        text = f"convert_from({new}, 'UTF8')" if column["type"] == "bytea" else f"{new}::text"
        return f"coalesce({text}, 'null')::json"
    return f"{new}::text::json" if name == "headers" else f"{new}::text"


def _as_bytes(
    values: dict[str, str], payload: asyncpg.Record, content_type: str | None
) -> dict[str, str]:
    """Have the payload copied byte for byte, where somebody says what it is."""
    if content_type is None and "content_type" not in values:
        return values
    if payload["type"] != "bytea":
        raise TriggerError(
            f"the column {payload['name']} is {payload['type']}: a content type is for payloads of"
            " type bytea that are not JSON"
        )
    row = "{row}." + payload["quoted"].replace("{", "{{").replace("}", "}}")
    # Debezium's tombstone: a row without a payload.
    values["payload"] = f"CASE WHEN {row} IS NULL THEN 'null'::json END"
    values["payload_bytes"] = row
    if content_type is not None:
        values["content_type"] = f"'{content_type}'"
    return values


async def _require_json(
    connection: asyncpg.Connection, table: str, payload: asyncpg.Record
) -> None:
    """Refuse bytes that are no JSON: the trigger would fail their writers."""
    if payload["type"] != "bytea":
        return
    query = _FEW.format(column=payload["quoted"], table=table)
    for (data,) in await connection.fetch(query):
        try:
            json.loads(data)
        except ValueError:
            raise TriggerError(
                f"{table}.{payload['name']} holds bytes that are not JSON: say what they are, as"
                " --content-type application/vnd.confluent.avro"
            ) from None


_FEW: Final = "SELECT {column} FROM {table} WHERE {column} IS NOT NULL LIMIT 100"
_PUBLICATION: Final = """
SELECT pg_catalog.quote_ident(p.pubname) AS name, p.puballtables,
       EXISTS (SELECT FROM pg_catalog.pg_publication_rel r
                WHERE r.prpubid = p.oid AND r.prrelid = pg_catalog.to_regclass($2)) AS has_table
  FROM pg_catalog.pg_publication p WHERE p.pubname = $1
"""
_PUBLICATIONS: Final = """
SELECT coalesce(string_agg(pg_catalog.quote_ident(pubname), ', ' ORDER BY pubname), 'none')
  FROM pg_catalog.pg_publication
"""
_COPIES: Final = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger
                WHERE tgrelid = pg_catalog.to_regclass($1)
                  AND pg_catalog.quote_ident(tgname) = $2)
"""
# The lock of DROP TRIGGER waits for the transactions that have written the table, and keeps others
# out until the commit.
_BACK: Final = """\
SET LOCAL lock_timeout = '3s';  -- writers are not to queue behind this

DROP TRIGGER {trigger} ON {table};
ALTER PUBLICATION {publication} ADD TABLE {table};
DROP FUNCTION {function}();
"""
# The trigger's lock waits for the transactions that have written the table, and keeps others out
# until the commit: what came before is the publication's, what comes after is copied.
_GIVE_UP: Final = """
ALTER PUBLICATION {publication} DROP TABLE {table};
"""
_BACKLOG: Final = """
INSERT INTO relay.outbox ({into})
SELECT {values}
  FROM {table} o WHERE {condition}{order};
"""
_SQL: Final = """\
SET LOCAL lock_timeout = '3s';  -- writers are not to queue behind this

CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $relay$
BEGIN
    INSERT INTO relay.outbox ({into})
    VALUES ({values});
    RETURN NULL;
END
$relay$;

DROP TRIGGER IF EXISTS {trigger} ON {table};
CREATE TRIGGER {trigger} AFTER INSERT ON {table}
    FOR EACH ROW EXECUTE FUNCTION {function}();
"""
