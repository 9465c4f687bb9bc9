"""Setup: which of a shop's tables holds the orders, and which of its columns are which.

Invariant: pure. What the user names is taken, or refused with what there is; the rest is guessed by
name and type, and shown. Nothing is guessed where two tables are equally likely.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from relay.runtime.flow import KeyType
from relay.setup.survey import ColumnSeen, TableSeen

_KEY_TYPES: Final[dict[str, KeyType]] = {
    "uuid": "uuid",
    "bigint": "bigint",
    "integer": "bigint",
    "smallint": "bigint",
    "numeric": "bigint",
    "text": "text",
    "character varying": "text",
    "character": "text",
}
_ZONED: Final = "timestamp with time zone"
_TIMES: Final = (_ZONED, "timestamp without time zone", "date")
_TIME_NAMES: Final = (
    "submitted_at", "placed_at", "date_placed", "ordered_at", "order_date", "created_at",
    "created", "created_on", "date_created", "creation_date", "inserted_at",
)  # fmt: skip
_ORDER_WORDS: Final = (
    "order", "orders", "purchase", "purchases", "bestellung", "bestellungen", "commande",
    "commandes", "pedido", "pedidos", "ordine", "ordini",
)  # fmt: skip
# A table about a part of an order, or about what happened to it.
_PARTS: Final = re.compile(
    r"line|item|position|history|change|log|note|event|outbox|payment|discount|address|quantit|price"
    r"|return|refund|attribute|meta|tag|detail"
)
_LOOKUP_WORDS: Final = re.compile(r"(^|_)(number|no|nr|reference|ref|code)$")


class UnclearTableError(ValueError):
    """No table, or column, can be told to be the one; the message names the option."""


@dataclass(frozen=True, slots=True)
class OrdersProposal:
    """Where the orders stand; names unquoted but for the table's.

    Attributes:
        table: what was seen of it.
        time_has_zone: False: `time_zone` has to be right.
    """

    table: TableSeen
    key: ColumnSeen
    key_type: KeyType
    status: ColumnSeen
    submitted_at: ColumnSeen
    time_has_zone: bool
    version: str | None
    returned_at: str | None
    reason: str | None
    lookup: tuple[str, ...]


def choose_table(tables: Sequence[TableSeen], named: str | None) -> TableSeen:
    """Return the orders' table.

    Raises:
        UnclearTableError: the named one is not there, or no table (or more than one) is likely.
    """
    if named is not None:
        alike = [one for one in tables if named in (one.name, one.bare_name) or _bare(one) == named]
        if len(alike) != 1:
            parts = any(one.divided_by for one in tables)
            raise UnclearTableError(
                f"--table {named}: there is {'more than one' if alike else 'no such table'};"
                f" there are {_listed(one.name for one in tables)}"
                + (" (a partition goes by the name of its table)" if parts else "")
            )
        return alike[0]
    tables = [one for one in tables if not one.is_view]
    ranked = sorted(((likelihood(one), one.name, one) for one in tables), reverse=True)
    likely = [one for score, _, one in ranked if score > 0 and score == ranked[0][0]]
    if len(likely) == 1:
        return likely[0]
    seen = likely or tables
    raise UnclearTableError(
        f"which table holds the orders? Say it with --table; there are"
        f" {_listed(sorted(one.name for one in seen)) or 'no tables that this login may see'}"
    )


def likelihood(table: TableSeen) -> int:
    """Return how much a table looks like the orders'; 0 or less: not at all."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", table.bare_name).lower())
    if not words or not set(words) & set(_ORDER_WORDS) or _key_type(table) is None:
        return 0
    score = 10 - 2 * len(set(words) - set(_ORDER_WORDS))
    score -= 8 * bool(_PARTS.search(table.bare_name.lower()))
    score += 4 * (_status(table) is not None) + 2 * (_time(table) is not None)
    return score + min(table.references, 4)


def _key_type(table: TableSeen) -> KeyType | None:
    column = None if table.key is None else table.column(table.key)
    return None if column is None else _KEY_TYPES.get(column.type_name)


def propose_orders(
    table: TableSeen,
    *,
    key: str | None = None,
    status: str | None = None,
    submitted_at: str | None = None,
    lookup: Sequence[str] = (),
) -> OrdersProposal:
    """Return which columns are which; those that the user named are taken.

    Raises:
        UnclearTableError: a named column is not there or of no use, or none can be told.
    """
    key_column = _key(table, key)
    status_column = _named(table, "--status-column", status) or _status(table)
    if status_column is None:
        raise _unclear(table, "an order's status", "--status-column", "text or enum")
    time = _named(table, "--time-column", submitted_at) or _time(table)
    if time is None:
        raise _unclear(table, "when an order was placed", "--time-column", "timestamptz")
    for name in lookup:
        _named(table, "--lookup", name)
    return OrdersProposal(
        table=table,
        key=key_column,
        key_type=_KEY_TYPES[key_column.type_name],
        status=status_column,
        submitted_at=time,
        time_has_zone=time.type_name == _ZONED,
        version=_first(table, ("version", "lock_version", "row_version"), "N"),
        returned_at=_first(table, ("returned_at",), "D"),
        reason=_first(table, ("return_reason", "status_reason"), "S"),
        lookup=tuple(lookup) or _lookup(table, key_column.name),
    )


def _key(table: TableSeen, name: str | None) -> ColumnSeen:
    column = _named(table, "--key", name or table.key)
    if column is None:
        raise _no_key(table)
    if column.type_name not in _KEY_TYPES:
        raise UnclearTableError(
            f"--key {column.name}: it is of type {column.type_name};"
            " uuid, a whole number or text is needed"
        )
    if column.name != table.key and not column.is_unique and not table.is_view:
        raise UnclearTableError(
            f"--key {column.name}: no unique index is on it alone. Where its values are unique:"
            f" CREATE UNIQUE INDEX CONCURRENTLY ON {table.name} ({column.quoted})"
        )
    return column


def _no_key(table: TableSeen) -> UnclearTableError:
    if len(table.primary_key) > 1:
        columns = [table.column(name) for name in table.primary_key]
        names = [one.quoted for one in columns if one is not None]
        made = " || '-' || ".join(f"{name}::text" for name in names)
        return UnclearTableError(
            f"the primary key of {table.name} is ({_listed(names)}): an event names its order by"
            " one value. Say --key with a column that is unique alone, or make one (the table is"
            f" rewritten): ALTER TABLE {table.name} ADD COLUMN order_key text GENERATED ALWAYS AS"
            f" ({made}) STORED, ADD UNIQUE ({_listed(['order_key', *table.divided_by])});"
            " then: --key order_key"
        )
    what = "is a view" if table.is_view else "has no primary key"
    return UnclearTableError(
        f"{table.name} {what}: which column holds an order's id (uuid, a whole number or text)?"
        f" Say it with --key; it has {_listed(one.name for one in table.columns)}"
    )


def _named(table: TableSeen, option: str, name: str | None) -> ColumnSeen | None:
    if name is None:
        return None
    found = table.column(name)
    if found is None:
        raise UnclearTableError(
            f"{option} {name}: {table.name} has {_listed(one.name for one in table.columns)}"
        )
    return found


def _unclear(table: TableSeen, what: str, option: str, kind: str) -> UnclearTableError:
    return UnclearTableError(
        f"which column of {table.name} holds {what} ({kind})? Say it with {option}; it has"
        f" {_listed(one.name for one in table.columns)}"
    )


def _status(table: TableSeen) -> ColumnSeen | None:
    texts = [one for one in table.columns if one.kind in {"S", "E"}]
    for fits in (r"^(order_?)?(status|state)$", r"status$", r"(^|_)state$"):
        found = [one for one in texts if re.search(fits, one.name.lower())]
        if found:
            return found[0]
    return None


def _time(table: TableSeen) -> ColumnSeen | None:
    times = [one for one in table.columns if one.type_name in _TIMES]
    for name in _TIME_NAMES:
        found = [one for one in times if _snake(one.name) == name]
        if found:
            return found[0]
    likely = [one for one in times if re.search(r"creat|plac|submit|order", one.name.lower())]
    return likely[0] if likely else None


def _first(table: TableSeen, names: Sequence[str], kind: str) -> str | None:
    return next(
        (one.name for name in names for one in table.columns
         if _snake(one.name) == name and one.kind == kind),
        None,
    )  # fmt: skip


def _lookup(table: TableSeen, key: str) -> tuple[str, ...]:
    return tuple(
        one.name
        for one in table.columns
        if one.is_unique and one.name != key and one.kind in {"S", "N"}
        and _LOOKUP_WORDS.search(_snake(one.name))
    )  # fmt: skip


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _bare(table: TableSeen) -> str:
    return table.name.replace('"', "")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
