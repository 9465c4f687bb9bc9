"""Setup: relay.toml as `relay init` writes it: what was decided, with the reason beside it.

Invariant: pure; what comes out is read back by the settings' own reader before it is written
anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from relay.setup.proposal import OrdersProposal
from relay.setup.vocabulary import Vocabulary

Mode = Literal["columns", "function", "observe"]


@dataclass(frozen=True, slots=True)
class Decisions:
    """Everything that a settings file is made of.

    Attributes:
        mode: how returns are applied.
        function: for `function`.
        time_zone: of a time column without a zone.
        bootstrap_servers: None: the environment says.
        events_since: orders placed earlier have no event; None: since the first event.
    """

    orders: OrdersProposal
    words: Vocabulary
    flow_name: str
    aggregate_type: str
    event_types: Sequence[str]
    deadline_seconds: float
    events_topic: str
    returns_topic: str
    processor_groups: Sequence[str]
    confirm_group: str
    mode: Mode
    function: str | None
    time_zone: str
    bootstrap_servers: str | None
    events_since: datetime | None = None


_HEAD: Final = """\
# Written by `relay init`. Passwords stay in the environment: DATABASE_URL, and KAFKA_SASL_PASSWORD
# where the brokers ask for one. Every setting: docs/settings.md.
"""


def settings_text(made: Decisions) -> str:
    """Return the file."""
    parts = [_HEAD]
    if made.bootstrap_servers is not None:
        parts.append(_table("kafka", {"bootstrap_servers": made.bootstrap_servers}))
    return "\n".join([*parts, flow_text(made)])


def flow_text(made: Decisions) -> str:
    """Return the flow's part of it."""
    name = f"flow.{_key(made.flow_name)}"
    parts = [_table(name, _flow(made))]
    events = {
        event_type: {"deadline_seconds": made.deadline_seconds} if at == 0 else {}
        for at, event_type in enumerate(made.event_types)
    }
    parts.append(
        "# The first expects a return, and is overdue after so long; the others expect none.\n"
        + _table(f"{name}.events", events)
    )
    parts.append(
        "# A status only moves to a higher rank; those of the highest end an order's wait.\n"
        + _table(f"{name}.status_ranks", made.words.ranks)
    )
    if made.words.aliases:
        parts.append(
            "# What the processor may say, and the shop's own word for it.\n"
            + _table(f"{name}.status_aliases", made.words.aliases)
        )
    parts.append(_table(f"{name}.columns", _columns(made)))
    return "\n".join(parts)


def _flow(made: Decisions) -> dict[str, Any]:
    flow: dict[str, Any] = {
        "aggregate_type": made.aggregate_type,
        "events_topic": made.events_topic,
        "returns_topic": made.returns_topic,
        "processor_groups": list(made.processor_groups),
        "confirm_group": made.confirm_group,
        "initial_status": made.words.initial,
    }
    if made.events_since is not None:
        flow["events_since"] = made.events_since.isoformat(timespec="seconds")
    if made.words.later:
        flow["later_statuses"] = list(made.words.later)
    if made.mode != "columns":
        flow["apply"] = made.mode
    if made.function is not None:
        flow["function"] = made.function
    return flow


def _columns(made: Decisions) -> dict[str, Any]:
    orders = made.orders
    columns: dict[str, Any] = {
        "table": orders.table.name,
        "key_column": orders.key.name,
        "key_type": orders.key_type,
        "status_column": orders.status.name,
        "submitted_at_column": orders.submitted_at.name,
    }
    if not orders.time_has_zone:
        columns["time_zone"] = made.time_zone
    if orders.lookup:
        columns["lookup_columns"] = list(orders.lookup)
    if made.mode == "columns":
        written = {
            "version_column": orders.version,
            "returned_at_column": orders.returned_at,
            "reason_column": orders.reason,
        }
        columns |= {name: column for name, column in written.items() if column is not None}
    return columns


def _table(name: str, values: Mapping[str, Any]) -> str:
    lines = (f"{_key(key)} = {_value(value)}\n" for key, value in values.items())
    return f"[{name}]\n{''.join(lines)}"


def _key(name: str) -> str:
    bare = name.replace("-", "").replace("_", "")
    return name if bare.isascii() and bare.isalnum() else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, Iterable):
        return f"[{', '.join(map(_value, value))}]"
    return str(value)


def _text(text: str) -> str:
    # JSON's escapes are TOML's, but that TOML wants DEL escaped, too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
