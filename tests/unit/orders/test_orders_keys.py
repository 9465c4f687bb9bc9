"""What an order id may be, and the one text that the database has for it."""

import pytest

from relay.consumers.returns.packing import storable
from relay.orders.keys import canonical_order_id, spellings
from relay.runtime.flow import ApplyColumns, Flow, KeyStorage, KeyType, Observe

ORDER = "0190a0c1-0000-7000-8000-0000000000aa"
BIGGEST = 2**63 - 1


def flow_of(key_type: KeyType, storage: KeyStorage = "", length: int | None = None) -> Flow:
    return Flow(apply=ApplyColumns(key_type=key_type, key_storage=storage, key_length=length))


@pytest.mark.parametrize(
    ("key_type", "storage", "text", "canonical"),
    [
        ("uuid", "", ORDER, ORDER),
        ("uuid", "", ORDER.upper(), ORDER),
        ("uuid", "", f"{{{ORDER}}}", ORDER),
        ("uuid", "", ORDER.replace("-", ""), ORDER),
        ("uuid", "", f" {ORDER}\n", ORDER),
        ("uuid", "", "urn:uuid:" + ORDER, ORDER),
        ("uuid", "", "", None),
        ("uuid", "", f"{{{ORDER}", None),
        ("uuid", "", ORDER + "0", None),
        ("uuid", "", "0190_a0c1_0000_7000_8000_0000_0000_00"[:32], None),
        ("uuid", "", "\N{FULLWIDTH DIGIT FIVE}" + ORDER[1:], None),
        ("bigint", "", "007", "7"),
        ("bigint", "", "-7", "-7"),
        ("bigint", "", "+7", "7"),
        ("bigint", "", " 7 ", "7"),
        ("bigint", "", "-0", "0"),
        ("bigint", "", str(BIGGEST), str(BIGGEST)),
        ("bigint", "", str(-BIGGEST - 1), str(-BIGGEST - 1)),
        ("bigint", "", str(BIGGEST + 1), None),
        ("bigint", "numeric", str(BIGGEST + 1), str(BIGGEST + 1)),
        ("bigint", "numeric", "9" * 5000, None),
        ("bigint", "", "1e3", None),
        ("bigint", "", "7.0", None),
        ("bigint", "", "- 7", None),
        ("bigint", "", "1_000", None),
        ("bigint", "", "", None),
        ("bigint", "", "\N{ARABIC-INDIC DIGIT SEVEN}", None),
        ("bigint", "", "9" * 5000, None),
        ("text", "", "anything at all", "anything at all"),
        ("text", "", " blanks ", " blanks "),
        ("text", "", "I-1", "I-1"),
        ("text", "", "--help", "--help"),
        ("text", "", "\N{PILE OF POO}\n", "\N{PILE OF POO}\n"),
        ("text", "", "a\0b", None),
        ("text", "", "a\x1fb", None),
        ("text", "", "a\ud800b", None),
        ("text", "", "\u00e4" * 512, "\u00e4" * 512),
        ("text", "", "\u00e4" * 513, None),
        ("text", "", "", None),
        ("text", "bpchar", "ORD-1       ", "ORD-1"),
        ("text", "bpchar", " ORD-1", " ORD-1"),
        ("text", "bpchar", "    ", None),
    ],
)
def test_ids_become_the_one_text_that_the_database_has(
    key_type: KeyType, storage: KeyStorage, text: str, canonical: str | None
) -> None:
    found = canonical_order_id(flow_of(key_type, storage))(text)
    assert found == canonical
    assert found is None or storable(found)


def test_without_a_table_an_id_is_text() -> None:
    assert canonical_order_id(Flow(apply=Observe()))("007") == "007"


@pytest.mark.parametrize(
    ("flow", "order_id"),
    [
        (flow_of("uuid"), ORDER),
        (flow_of("bigint"), "7"),
        (flow_of("text"), "a"),
        (flow_of("text", "bpchar", 12), "ORD-1"),
        (Flow(apply=Observe()), "a"),
    ],
)
def test_every_spelling_is_of_the_same_order(flow: Flow, order_id: str) -> None:
    found = spellings(flow, order_id)
    assert found[0] == order_id
    assert {canonical_order_id(flow)(one) for one in found} == {order_id}


def test_a_padded_key_is_looked_for_with_its_blanks() -> None:
    assert spellings(flow_of("text", "bpchar", 8), "ORD-1") == ("ORD-1", "ORD-1   ")
