"""Which table holds the orders, which columns are which, and what the status words mean."""

import tomllib

import pytest

from relay.setup.proposal import UnclearTableError, choose_table, likelihood, propose_orders
from relay.setup.settings_text import Decisions, settings_text
from relay.setup.survey import ColumnSeen, TableSeen
from relay.setup.vocabulary import UnclearStatusError, listed_words, propose


def column(name, type_name="text", *, unique=False, default=None, labels=()):
    kind = {"text": "S", "character varying": "S", "bigint": "N", "uuid": "U", "numeric": "N"}
    kinds = kind.get(type_name, "E" if labels else "D")
    return ColumnSeen(name, f'"{name}"', type_name, kinds, default, tuple(labels), unique)


def table(name, columns, *, key="id", references=0, checks=()):
    return TableSeen(
        f"public.{name}", name, key, -1, references, "shop", True, tuple(columns), tuple(checks)
    )


KEY = column("id", "bigint", unique=True)
STATUS, PLACED = column("status"), column("created_at", "timestamp with time zone")
ORDERS = table("order_order", [KEY, STATUS, PLACED], references=4)
OSCAR = [
    table("basket_basket", [KEY, STATUS, column("date_created", "timestamp with time zone")]),
    table("order_line", [KEY, STATUS], references=3),
    ORDERS,
    table("order_orderstatuschange", [KEY, column("new_status")]),
    table("order_paymentevent", [KEY]),
]


def test_the_orders_are_found_among_a_shops_tables() -> None:
    assert choose_table(OSCAR, None) is ORDERS
    spring = table("Order", [column("id", "uuid"), column("state"), PLACED])
    assert choose_table([table("OrderItem", [KEY]), spring], None) is spring
    typeorm = table("purchaseOrders", [KEY, STATUS, PLACED])
    assert choose_table([typeorm, table("users", [KEY])], None) is typeorm


def test_two_that_are_equally_likely_are_asked_for() -> None:
    twice = [
        ORDERS,
        TableSeen("b2b.order_order", "order_order", "id", -1, 4, "shop", True, ORDERS.columns, ()),
    ]
    with pytest.raises(UnclearTableError, match=r"--table.*b2b\.order_order, public\.order_order"):
        choose_table(twice, None)
    with pytest.raises(UnclearTableError, match="more than one"):
        choose_table(twice, "order_order")
    assert choose_table(twice, "b2b.order_order").name == "b2b.order_order"
    with pytest.raises(UnclearTableError, match=r"no such table.*order_line"):
        choose_table(OSCAR, "ordres")


def test_a_table_without_a_key_of_one_column_is_not_proposed() -> None:
    assert likelihood(table("orders", [STATUS, PLACED], key=None)) == 0
    assert likelihood(table("orders", [column("id", "bytea"), STATUS])) == 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"key": "no"}, "--key no: public.o has id, status, created_at"),
        ({"key": "status"}, "no unique index"),
        ({"status": "state"}, "--status-column state"),
        ({"submitted_at": "at"}, "--time-column at"),
        ({"lookup": ["nr"]}, "--lookup nr"),
    ],
)
def test_what_is_named_and_not_there_is_refused_with_what_there_is(given, says) -> None:
    with pytest.raises(UnclearTableError, match=says):
        propose_orders(table("o", [KEY, STATUS, PLACED]), **given)


def test_columns_that_nobody_can_tell_are_asked_for() -> None:
    with pytest.raises(UnclearTableError, match="--status-column"):
        propose_orders(table("o", [KEY, PLACED]))
    with pytest.raises(UnclearTableError, match="--time-column"):
        propose_orders(table("o", [KEY, STATUS, column("paid_at", "date")]))
    with pytest.raises(UnclearTableError, match="--key"):
        propose_orders(table("o", [STATUS, PLACED], key=None))


def test_columns_are_told_by_name_and_type() -> None:
    found = propose_orders(
        table(
            "Orders",
            [
                KEY,
                column("orderNumber", unique=True),
                column("paymentStatus"),
                column("status"),
                column("updatedAt", "timestamp without time zone"),
                column("createdAt", "timestamp without time zone"),
                column("version", "bigint"),
            ],
        )
    )
    assert (found.status.name, found.submitted_at.name) == ("status", "createdAt")
    assert not found.time_has_zone
    assert (found.lookup, found.version) == (("orderNumber",), "version")


def test_a_closed_list_gives_its_own_words_and_the_processors_are_aliases() -> None:
    words = ["NEW", "IN_PROGRESS", "ACCEPTED", "DECLINED", "SHIPPED"]
    found = propose(words, closed=True, default=None)
    assert (found.initial, found.steps, found.final) == (
        "NEW",
        ("IN_PROGRESS",),
        ("ACCEPTED", "DECLINED"),
    )
    assert found.later == ("SHIPPED",)
    assert found.ranks == {"NEW": 0, "IN_PROGRESS": 10, "ACCEPTED": 20, "DECLINED": 20}
    assert found.aliases == {
        "confirmed": "ACCEPTED",
        "rejected": "DECLINED",
        "processing": "IN_PROGRESS",
    }


def test_an_open_column_gets_the_words_that_it_lacks() -> None:
    found = propose(["paid", "pending"], closed=False, default="pending")
    assert (found.initial, found.final, found.later) == (
        "pending",
        ("confirmed", "rejected"),
        ("paid",),
    )
    assert propose([], closed=False, default=None).initial == "submitted"


def test_words_that_tell_nothing_are_asked_for() -> None:
    with pytest.raises(UnclearStatusError, match=r"--initial.*'10', '20'"):
        propose(["10", "20"], closed=False, default=None)
    with pytest.raises(UnclearStatusError, match="--final"):
        propose(["new", "a"], closed=True, default=None)
    found = propose(["10", "20", "30"], closed=True, default=None, initial="10", final=["20"])
    assert (found.ranks, found.later) == ({"10": 0, "20": 10}, ("30",))


def test_a_check_on_another_column_lists_no_status() -> None:
    checks = [
        "CHECK ((status = ANY (ARRAY['new'::text, 'it''s done'::text])))",
        "CHECK ((kind_status = 'x'::text))",
        "CHECK ((currency = 'EUR'::text))",
    ]
    assert listed_words("status", checks) == ["new", "it's done"]


def test_odd_names_and_words_are_read_back_as_they_are() -> None:
    word = 'a "b" \\ \u00e9\x7f'
    orders = propose_orders(table('My"T', [KEY, column('st"atus'), PLACED]), status='st"atus')
    vocabulary = propose([word], closed=False, default=word)
    made = Decisions(
        orders,
        vocabulary,
        "wei rd",
        "order",
        ["order.placed", "x y"],
        60.0,
        "e",
        "r",
        ["p"],
        "c",
        "columns",
        None,
        "UTC",
        None,
    )
    flow = tomllib.loads(settings_text(made))["flow"]["wei rd"]
    assert flow["initial_status"] == word
    assert flow["status_ranks"] == vocabulary.ranks
    assert flow["events"] == {"order.placed": {"deadline_seconds": 60.0}, "x y": {}}
    assert flow["columns"]["status_column"] == 'st"atus'
