"""Hops 1 to 5: the orders table as SQL: what its columns are compared with, and written as.

Invariant: pure; the only place that knows how a column of the user's own is cast. Every identifier,
type and literal was quoted by PostgreSQL itself (`relay.orders.catalog`); no value of an order ever
becomes part of a statement. A cast stands on the parameter's side, explicitly: never is a
parameter's type taken from a column, and the column's index serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CHAR: Final = "pg_catalog.bpchar"
"""`char(n)` of any length: `character` alone, in a cast, means `character(1)`."""


@dataclass(frozen=True, slots=True)
class TimeColumn:
    """A column that holds a time.

    Attributes:
        name: quoted.
        type_name: of the type under its domain.
        zone: a literal: whose time it is that a type without zone holds; None: it has one.
    """

    name: str
    type_name: str
    zone: str | None = None

    def value(self, row: str = "o") -> str:
        """Return it as `timestamptz`."""
        column = f"{row}.{self.name}"
        if self.zone is None:
            return column
        if self.type_name == "date":
            # A date reaches further than a timestamp does.
            beyond = f"{column} > '294276-12-31'::date"
            column = f"CASE WHEN {beyond} THEN 'infinity' ELSE {column}::timestamp END"
        return f"({column} AT TIME ZONE {self.zone})"

    def since(self, at: str, row: str = "o") -> str:
        """Return the condition that it is not before a `timestamptz`; the column's index serves.

        A date is of any time of its day: the whole of the first one counts.
        """
        bound = f"({self.written(at)})::date" if self.type_name == "date" else self.written(at)
        return f"{row}.{self.name} >= {bound}"

    def before(self, at: str, row: str = "o") -> str:
        """Return the condition that it is before a `timestamptz`; the column's index serves."""
        return f"{row}.{self.name} < {self.written(at)}"

    def written(self, at: str) -> str:
        """Return a `timestamptz` as what the column holds of it."""
        return f"({at})" if self.zone is None else f"(({at}) AT TIME ZONE {self.zone})"


@dataclass(frozen=True, slots=True)
class OrdersTable:
    """Where orders stand, in identifiers that are quoted already.

    Attributes:
        key_type: what ids are compared as: the widest type of the key's family, so that an id that
            no row can have is an order that is not there, and no error.
        key_length: of a `char(n)`, or what is cut to a length.
        status_type: without a length: nothing is cut where it is compared or written.
        reason_type: with its length: what is too long for the column is cut.
        history: the table that gets a row for each step.
        history_key_type: the type of its `order_id`.
        history_types: those of its columns old_status, new_status and reason.
        has_places: a row has one (`ctid`) that its lock keeps and that no other row has, and this
            login may see it.
    """

    table: str
    key: str
    key_type: str
    status: str
    status_type: str
    submitted: TimeColumn
    key_length: int | None = None
    version: str | None = None
    returned: TimeColumn | None = None
    reason: str | None = None
    reason_type: str | None = None
    history: str | None = None
    history_key_type: str | None = None
    history_types: tuple[str, str, str] | None = None
    has_places: bool = True

    def id_of(self, row: str = "o") -> str:
        """Return the order's id, in its canonical text (`relay.orders.keys`)."""
        column = f"{row}.{self.key}"
        return f"{'trim_scale' if self.key_type == 'numeric' else ''}({column})::text"

    def as_key(self, text: str) -> str:
        """Return a canonical id's text as what the key column compares with."""
        return f"{text}::text::{self.key_type}"

    def as_keys(self, texts: str) -> str:
        """Return an array of canonical ids as keys."""
        return f"{texts}::text[]::{self.key_type}[]"

    def spellings(self, text: str) -> str:
        """Return an array of the ways to write a canonical id, as `relay.orders.keys.spellings`."""
        if self.key_type == "uuid":
            plain = f"replace({text}, '-', '')"
            others = f", upper({text}), {plain}, upper({plain}), '{{' || {text} || '}}'"
        elif self.key_type == CHAR and self.key_length is not None:
            others = f", rpad({text}, {self.key_length})"
        else:
            others = ""
        return f"ARRAY[{text}{others}]"

    def status_of(self, row: str = "o") -> str:
        """Return the status as text, without the blanks of a `char(n)`."""
        return f"{row}.{self.status}::text"

    def as_status(self, text: str) -> str:
        """Return a status' text as what the column takes, and compares with."""
        return f"{text}::{self.status_type}"

    def as_statuses(self, texts: str) -> str:
        """Return an array of statuses as what the column compares with."""
        return f"{texts}::text[]::{self.status_type}[]"

    def returned_of(self, row: str = "o") -> str:
        """Return when the return came, as `timestamptz`; NULL where no column holds it."""
        return "NULL::timestamptz" if self.returned is None else self.returned.value(row)
