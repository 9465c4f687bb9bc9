"""Hop 1: any valid event is stored byte for byte; any other is refused and nothing is written."""

import json
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.outbox import Event, EventRefusedError, append, standard
from relay.outbox.payload import LARGEST_INTEGER

EACH_EXAMPLE = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
ANY = standard().with_type("order.changed", None)

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
texts = st.text(characters, max_size=40)
names = st.text(characters, min_size=1, max_size=255)
money = st.from_regex(
    r"(0|[1-9][0-9]{0,17})(\.[0-9]{1,6})?", fullmatch=True, alphabet=st.characters(codec="ascii")
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-LARGEST_INTEGER, LARGEST_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
spaces = st.text(" \t\r\n", max_size=3)


@st.composite
def json_texts(draw: st.DrawFn, payloads: st.SearchStrategy[Any]) -> str:
    """The same value as many texts: escapes, spaces, indents."""
    value = draw(payloads)
    separators = (draw(spaces) + "," + draw(spaces), draw(spaces) + ":" + draw(spaces))
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), separators=separators)
    return draw(spaces) + text + draw(spaces)


@st.composite
def placed_orders(draw: st.DrawFn) -> dict[str, Any]:
    item = st.fixed_dictionaries(
        {"sku": names, "quantity": st.integers(1, 10**6), "price": money},
        optional={"note": plain},
    )
    return draw(
        st.fixed_dictionaries(
            {
                "order_id": names,
                "customer_id": names,
                "items": st.lists(item, min_size=1, max_size=3),
                "total": money,
                "currency": st.text("ABCXYZ", min_size=3, max_size=3),
                "submitted_at": st.datetimes().map(
                    lambda at: at.strftime("%Y").zfill(4) + at.isoformat()[4:] + "Z"
                ),
            }
        )
    )


@given(text=json_texts(st.dictionaries(texts, plain, max_size=5)), order_id=names)
@EACH_EXAMPLE
async def test_any_object_round_trips_byte_for_byte(
    pg: asyncpg.Connection, text: str, order_id: str
) -> None:
    await pg.execute("BEGIN")
    try:
        stored = await append(pg, Event("order.changed", order_id, text), event_types=ANY)
        row = await pg.fetchrow(
            "SELECT payload::text, aggregate_id FROM relay.outbox WHERE id = $1", stored.outbox_id
        )
        assert (row[0], row[1]) == (text, order_id)
    finally:
        await pg.execute("ROLLBACK")


@given(text=json_texts(placed_orders()))
@EACH_EXAMPLE
async def test_any_placed_order_round_trips_byte_for_byte(
    pg: asyncpg.Connection, text: str
) -> None:
    await pg.execute("BEGIN")
    try:
        event = Event("order.placed", json.loads(text)["order_id"], text.encode())
        stored = await append(pg, event)
        query = "SELECT payload::text FROM relay.outbox WHERE id = $1"
        assert await pg.fetchval(query, stored.outbox_id) == text
    finally:
        await pg.execute("ROLLBACK")


MONEY_FAULTS = ["", "1.", ".1", "-1", "+1", "1e2", "01", " 1", "1\n", "NaN", "٣", "1,0"]


def open_end(text: str) -> str:
    return text.rstrip()[:-1]


def with_total(text: str, total: str) -> str:
    return json.dumps(json.loads(text) | {"total": total})


def without_a_member(text: str, at: int) -> str:
    order = json.loads(text)
    del order[sorted(order)[at % len(order)]]
    return json.dumps(order)


# Each makes one fault in an otherwise valid order.
FAULTS: dict[str, Callable[[str, int], str | bytes]] = {
    "missing": without_a_member,
    "money": lambda text, at: with_total(text, MONEY_FAULTS[at % len(MONEY_FAULTS)]),
    "number for money": lambda text, at: json.dumps(json.loads(text) | {"total": at}),
    "duplicate": lambda text, _: open_end(text) + ',"total":"1"}',
    "not finite": lambda text, _: open_end(text) + ',"x":[NaN]}',
    "surrogate": lambda text, at: open_end(text) + f',"x":"\\ud{800 + at % 200:03}"}}',
    "null character": lambda text, _: open_end(text) + ',"x":"\\u0000"}',
    "deep": lambda text, at: open_end(text) + ',"x":' + "[" * (32 + at % 5000),
    "large": lambda text, _: open_end(text) + ',"x":"' + "y" * 262_144 + '"}',
    "cut": lambda text, at: open_end(text)[: -(at % 20) or None],
    "not utf-8": lambda text, _: text.encode()[:-1] + b"\xc3",
    "array": lambda text, _: f"[{text}]",
    "another order": lambda text, _: json.dumps(json.loads(text) | {"order_id": "x" * 256}),
}


@given(
    text=json_texts(placed_orders()),
    how=st.sampled_from(sorted(FAULTS)),
    at=st.integers(0, 10_000),
)
@EACH_EXAMPLE
async def test_any_fault_is_refused_and_nothing_is_written(
    pg: asyncpg.Connection, text: str, how: str, at: int
) -> None:
    event = Event("order.placed", json.loads(text)["order_id"], FAULTS[how](text, at))
    async with pg.transaction():
        with pytest.raises(EventRefusedError):
            await append(pg, event)
        assert await pg.fetchval("SELECT count(*) FROM relay.outbox") == 0
