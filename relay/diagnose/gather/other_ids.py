"""Hop 1: an id that is no order's: what else is it known as, and whose order does it lead to?

Invariant: reads only. What could not be looked at is said, so that nobody says "no such order" of
an id that was not looked for everywhere: columns that people ask by, events, traces, returns, what
is in quarantine, other aggregates.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import asyncpg

from relay.diagnose.causes import Cause
from relay.diagnose.evidence.order import Evidence
from relay.diagnose.evidence.system_state import Missing
from relay.diagnose.gather.database import read_orders
from relay.diagnose.gather.reading import part
from relay.orders.catalog import lookup_columns, orders_table
from relay.orders.keys import can_be_asked_for, canonical_event_id, canonical_order_id, is_uuid
from relay.runtime.flow import Flow

_TRACE: Final = re.compile(r"[0-9a-f]{32}")
_ROW: Final = re.compile(r"[0-9]{1,18}")
_PLACE: Final = re.compile(r"([A-Za-z0-9._-]{1,249})\[([0-9]{1,9})\]@([0-9]{1,18})")
# Tables without an index for these are read whole, once, for the few ids that nothing else knows.
_SLOW_MILLISECONDS: Final = 10_000
_SLOW_AT_MOST: Final = 100
_ORDERS_AT_MOST: Final = 100
_NOT_LOOKED_FOR: Final = Missing(
    "the ids of returns and traces",
    Cause.TIMED_OUT,
    "more unknown ids were asked about together than are looked for there",
    "relay diagnose for fewer ids",
)


@dataclass(frozen=True, slots=True)
class KnownAs:
    """What an id is known as.

    Attributes:
        what: in words: `order_number`, `event id`, `aggregate of type customer`.
        order_id: the order that it leads to; None: it leads to none.
        event_id: the event that it is, or belongs to.
    """

    what: str
    order_id: str | None = None
    event_id: str | None = None


@dataclass(slots=True)
class OtherIds:
    """What was found, by the id that was given.

    Attributes:
        missing: where nobody could look.
        left_out: ids that were not looked for everywhere: too many were asked about together.
    """

    found: dict[str, list[KnownAs]] = field(default_factory=dict)
    missing: Missing | None = None
    left_out: frozenset[str] = frozenset()

    def orders(self, given: Sequence[str]) -> list[str]:
        """Return the orders that are meant; an id that leads to none stays."""
        found: list[str] = []
        for one in given:
            known = [each.order_id for each in self.found.get(one, ()) if each.order_id is not None]
            found += known or [one]
        return found

    def events(self) -> dict[str, str]:
        """Return the event that was asked for, by order."""
        known = (one for each in self.found.values() for one in each)
        return {one.order_id: one.event_id for one in known if one.order_id and one.event_id}

    def beside(self, evidence: Evidence) -> Evidence:
        """Add what an order's id is known as, or that nobody could look."""
        known = self.found.get(evidence.order_id, ())
        what = next((one.what for one in known if one.order_id is None), None)
        unlooked = _NOT_LOOKED_FOR if evidence.order_id in self.left_out else None
        searched = evidence.searched or self.missing or unlooked
        return replace(evidence, known_as=what, searched=searched)

    def asked_as(self, order_id: str) -> tuple[str, str] | None:
        """Return the id that was given for an order, and what that id is; None: its own."""
        for given, known in self.found.items():
            for one in known:
                if one.order_id == order_id and given != order_id:
                    return given, one.what
        return None


# id, aggregate id, whether it is an order's event, its aggregate's type, event id.
_EVENTS: Final = """
SELECT %s, aggregate_id, aggregate_type = $2 OR event_type = ANY ($3::text[]), aggregate_type,
       event_id::text
  FROM relay.%s WHERE %s"""


def _events(given: str, condition: str) -> str:
    return " UNION ALL ".join(
        _EVENTS % (given, view, condition) for view in ("outbox_summary", "kept_summary")
    )


_BY_EVENT: Final = _events("event_id::text", "event_id = ANY ($1::text[]::uuid[])")
_BY_OUTBOX_ID: Final = _events("id::text", "id = ANY ($1::text[]::bigint[])")
_BY_TRACE: Final = _events(
    "substring(traceparent FROM 4 FOR 32)", "substring(traceparent FROM 4 FOR 32) = ANY ($1)"
)
_BY_AGGREGATE: Final = _events("aggregate_id", "aggregate_id = ANY ($1)")
# Of a topic that was made again, several batches were at one place.
_BY_PLACE: Final = """
WITH wanted AS MATERIALIZED (
    SELECT given, place[1] AS topic, place[2]::int AS partition, place[3]::bigint AS record_offset
      FROM unnest($1::text[]) AS given, regexp_match(given, $2) AS place
), sent AS MATERIALIZED (
    SELECT w.given, l.outbox_ids[(w.record_offset - l.base_offset + 1)::int] AS id
      FROM wanted AS w
     CROSS JOIN LATERAL (SELECT base_offset, record_count, outbox_ids
                           FROM relay.delivery_ledger
                          WHERE topic = w.topic AND partition = w.partition
                            AND base_offset <= w.record_offset
                          ORDER BY base_offset DESC LIMIT 10) AS l
     WHERE w.record_offset < l.base_offset + l.record_count
)
SELECT s.given, e.aggregate_id, e.aggregate_type = $3 OR e.event_type = ANY ($4::text[]),
       e.aggregate_type, e.event_id::text
  FROM sent AS s JOIN relay.outbox_summary AS e ON e.id = s.id
 UNION ALL
SELECT s.given, e.aggregate_id, e.aggregate_type = $3 OR e.event_type = ANY ($4::text[]),
       e.aggregate_type, e.event_id::text
  FROM sent AS s JOIN relay.kept_summary AS e ON e.id = s.id
 UNION ALL
SELECT w.given, q.aggregate_id, true, NULL, NULL
  FROM wanted AS w JOIN relay.quarantine_summary AS q
    ON q.topic = w.topic AND q.partition = w.partition AND q.record_offset = w.record_offset
 WHERE q.aggregate_id IS NOT NULL
"""
_BY_RETURN_PLACE: Final = """
SELECT given, i.aggregate_id, true, NULL::text, i.causation_id
  FROM unnest($1::text[]) AS given, regexp_match(given, $2) AS place
  JOIN relay.inbox AS i ON i.topic = place[1] AND i.partition = place[2]::int
                       AND i.record_offset = place[3]::bigint
 WHERE i.outcome <> 'canary'
"""
_SET_ASIDE: Final = """
SELECT given, aggregate_id, true, NULL::text, CASE WHEN kind = 'event' THEN event_id END
  FROM relay.quarantine_summary
 CROSS JOIN LATERAL unnest(ARRAY[event_id, quarantine_id::text,
                                 substring(traceparent FROM 4 FOR 32)]) AS given
 WHERE given = ANY ($1) AND aggregate_id IS NOT NULL AND (given <> quarantine_id::text OR $2)
 UNION ALL
SELECT event_id, aggregate_id, true, NULL, event_id FROM relay.overdue WHERE event_id = ANY ($1)
"""
# An identity is its source and the id that its sender gave it.
_RETURNS: Final = """
SELECT CASE WHEN causation_id = ANY ($1) THEN causation_id
            WHEN substring(traceparent FROM 4 FOR 32) = ANY ($1)
            THEN substring(traceparent FROM 4 FOR 32)
            ELSE (SELECT g FROM unnest($1::text[]) AS g
                   WHERE event_id = g OR right(event_id, length(g) + 1) = '/' || g LIMIT 1)
       END, aggregate_id, true, NULL::text, causation_id
  FROM relay.inbox
 WHERE outcome <> 'canary'
   AND (event_id = ANY ($1) OR causation_id = ANY ($1)
        OR substring(traceparent FROM 4 FOR 32) = ANY ($1)
        OR EXISTS (SELECT FROM unnest($1::text[]) AS g
                    WHERE right(event_id, length(g) + 1) = '/' || g))
"""


async def find_other_ids(
    connection: asyncpg.Connection, flow: Flow, ids: Sequence[str]
) -> OtherIds:
    """Find what ids are known as that are no order's, or some order's and another's number, too.

    Args:
        connection: outside a transaction.
        flow: names the orders' table and the columns that people ask by.
        ids: as they were given.
    """
    look = _Look(connection, flow)
    asked = [one for one in dict.fromkeys(ids) if can_be_asked_for(one)]
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await look.columns(asked)
        await look.everywhere(await look.not_known(asked))
    left_out = {key for one in look.left_out for key in (one, canonical_order_id(flow)(one))}
    return OtherIds(dict(look.found), look.missing, frozenset(key for key in left_out if key))


class _Look:
    """One look at everything; a part that cannot be read is Missing, and the others are read."""

    def __init__(self, connection: asyncpg.Connection, flow: Flow) -> None:
        self._connection = connection
        self._flow = flow
        self._kinds = flow.aggregate_type, flow.own_event_types
        self.found: defaultdict[str, list[KnownAs]] = defaultdict(list)
        self.missing: Missing | None = None
        self.left_out: Sequence[str] = ()

    async def columns(self, ids: Sequence[str]) -> None:
        columns = self._flow.orders_columns
        if columns is None or not columns.lookup_columns:
            return
        for given, known in await self._part("the orders", lambda: self._by_columns(ids)):
            self._add(given, known)

    async def _by_columns(self, ids: Sequence[str]) -> list[tuple[str, KnownAs]]:
        table = await orders_table(self._connection, self._flow)
        found: list[tuple[str, KnownAs]] = []
        for column in await lookup_columns(self._connection, self._flow):
            values = {value: one for one in ids if (value := column.value(one)) is not None}
            # So many of each value: a customer's orders leave room for the next one's.
            query = f"""
                SELECT key, value
                  FROM (SELECT {table.id_of()} AS key, o.{column.quoted}::text AS value,
                               row_number() OVER (PARTITION BY o.{column.quoted}
                                                  ORDER BY o.{table.submitted.name} DESC) AS place
                          FROM {table.table} o
                         WHERE o.{column.quoted} = ANY ({column.array("$1")})) AS own
                 WHERE place <= {_ORDERS_AT_MOST} ORDER BY value, place
            """  # noqa: S608 - identifiers from the catalog
            for key, text in await self._connection.fetch(query, list(values)):
                given = values.get(column.value(text) or "")
                found += [] if given is None else [(given, KnownAs(column.name, key))]
        return found

    async def not_known(self, ids: Sequence[str]) -> list[str]:
        """Return the ids of which neither an order nor an order's event knows, nor a column."""
        clean = canonical_order_id(self._flow)
        keys = {one: clean(one) or one for one in ids}
        orders = await self._part(
            "the orders", lambda: read_orders(self._connection, self._flow, list(keys.values()))
        )
        both = [one for pair in keys.items() if pair[1] not in orders for one in pair]
        rows = await self._part("the outbox", lambda: self._fetch(_BY_AGGREGATE, both, self._kinds))
        own = {*orders, *(row[0] for row in rows if row[2])}
        others = {row[0]: row[3] for row in rows if not row[2]}
        for one, key in keys.items():
            if one in own or key in own:
                self._beside(one, key)
            elif one in others or key in others:
                kind = others.get(one) or others[key]
                self._add(one, KnownAs(f"the id of an aggregate of type {kind}"))
        return [one for one, key in keys.items() if not (self.found[one] or {one, key} & own)]

    def _beside(self, given: str, key: str) -> None:
        """An order's own id may be another order's number: both are meant."""
        if any(one.order_id != key for one in self.found[given]):
            others = [one for one in self.found[given] if one.order_id != key]
            self.found[given] = [KnownAs("order id", key), *others]
        else:
            self.found[given] = []

    async def everywhere(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        spelt = {canonical_event_id(one): one for one in ids}
        events = [one for one in spelt if is_uuid(one)]
        kinds = self._kinds
        await self._look("event id", _BY_EVENT, {one: spelt[one] for one in events}, kinds)
        columns = self._flow.orders_columns
        numbers = [one for one in ids if _ROW.fullmatch(one)]
        # Where an order's id may be a number, one that is none's is not taken for a row's.
        rows = columns is not None and columns.key_type == "uuid"
        if rows:
            await self._look("outbox id", _BY_OUTBOX_ID, {one: one for one in numbers}, kinds)
        places = {one: one for one in ids if _PLACE.fullmatch(one)}
        where = f"^{_PLACE.pattern}$"
        await self._look("place of a record", _BY_PLACE, places, (where, *kinds))
        own = {one: one for one in ids} | spelt
        await self._look("id of what is in quarantine or overdue", _SET_ASIDE, own, (rows,))
        unknown = [one for one in ids if not self.found[one]]
        left, self.left_out = unknown[:_SLOW_AT_MOST], unknown[_SLOW_AT_MOST:]
        if not left:
            return
        await self._connection.execute(f"SET LOCAL statement_timeout = {_SLOW_MILLISECONDS}")
        lower = {one.lower(): one for one in left}
        await self._look("id of a return", _RETURNS, {one: one for one in left} | lower, ())
        traces = {low: one for low, one in lower.items() if _TRACE.fullmatch(low)}
        await self._look("trace id", _BY_TRACE, traces, kinds)
        await self._look("place of a return", _BY_RETURN_PLACE, places, (where,))
        for one in places:
            if not self.found[one]:
                self._add(one, KnownAs("the place of a record that nothing here knows"))

    async def _look(
        self, what: str, query: str, given: Mapping[str, str], more: tuple[object, ...]
    ) -> None:
        """Ask for ids as a table writes them, by how they were given."""
        if not given:
            return
        for row in await self._part(what, lambda: self._fetch(query, list(given), more)):
            asked = given.get(row[0])
            if asked is None:
                continue
            if row[2]:
                self._add(asked, KnownAs(what, row[1], row[4]))
            else:
                self._add(asked, KnownAs(f"{what} of an aggregate of type {row[3]}"))

    async def _fetch(self, query: str, ids: Sequence[str], more: tuple[object, ...]) -> list[Any]:
        rows: list[Any] = await self._connection.fetch(query, list(ids), *more)
        return rows

    async def _part(self, what: str, read: Any) -> Any:
        found = await part(self._connection, f"{what}, among which an id was looked for", read)
        if isinstance(found, Missing):
            self.missing = self.missing or found
            return []
        return found

    def _add(self, given: str, known: KnownAs) -> None:
        orders = [one.order_id for one in self.found[given]]
        if known.order_id is None or known.order_id not in orders:
            self.found[given].append(known)
