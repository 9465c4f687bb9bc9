"""What others wrote, on somebody's terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.repair.held import Held, by_bytes
from relay.runtime.printable import printable, printable_bytes


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b'{"a": "caf\xc3\xa9"}', '{"a": "café"}'),
        (b"\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        (b"\x9b31m", "\\x9b31m"),  # no UTF-8
        ("\x9b31m".encode(), "\\x9b31m"),  # the C1 control itself
        (b"a\nb\r\tc\0\x7f", "a\\nb\\r\\tc\\0\\x7f"),
        ("\u202egnp.exe\u2066".encode(), "\\u202egnp.exe\\u2066"),
        ("zero\u200bwidth\u2028line".encode(), "zero\\u200bwidth\\u2028line"),
        (b"\xff\xfe\x00", "\\xff\\xfe\\0"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),  # a surrogate, encoded
        ("\U000e0041".encode(), "\\U000e0041"),  # an invisible tag
        (b"", ""),
    ],
)
def test_bytes_are_shown_and_not_obeyed(data: bytes, shown: str) -> None:
    assert printable_bytes(data) == shown


def test_a_character_cut_in_two_is_left_out_of_a_first_part_only() -> None:
    euro = "€".encode()
    assert printable_bytes(b"1 " + euro[:2], cut=True) == "1 "
    assert printable_bytes(b"1 " + euro[:2]) == "1 \\xe2\\x82"


@given(st.one_of(st.binary(), st.text().map(lambda text: text.encode(errors="surrogatepass"))))
def test_nothing_that_a_terminal_obeys_is_left(data: bytes) -> None:
    for shown in (printable_bytes(data), printable_bytes(data, cut=True)):
        assert shown.isprintable()
        assert not any(unicodedata.category(char).startswith("C") for char in shown)
    assert printable_bytes(data, lines=True).replace("\n", "").isprintable()


@given(st.text())
def test_text_is_shown_likewise(text: str) -> None:
    assert printable(text).isprintable()


def held(size: int | None) -> Held:
    return Held(*[None] * 13, size, *[None] * 9)  # type: ignore[arg-type]


@given(st.lists(st.one_of(st.none(), st.integers(0, 100))))
def test_what_is_read_at_once_is_bounded_and_nothing_is_left_out(sizes: list[int | None]) -> None:
    rows = [held(size) for size in sizes]
    groups = by_bytes(rows, 60)
    assert [id(row) for group in groups for row in group] == [id(row) for row in rows]
    for group in groups:
        assert group
        assert len(group) == 1 or sum(row.value_bytes or 0 for row in group) <= 60
