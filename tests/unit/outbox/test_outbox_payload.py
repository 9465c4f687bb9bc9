"""Hop 1's payload check: every fault has its type and its path, whatever was sent."""

import json
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.outbox import errors
from relay.outbox.payload import LARGEST_INTEGER, Limits, check, encode

SMALL = Limits(max_bytes=64, max_depth=4)

FAULTS = [
    ('{"a": NaN}', errors.NotFiniteError, "/a"),
    ('{"a": [1, Infinity]}', errors.NotFiniteError, "/a/1"),
    ('{"a": -Infinity}', errors.NotFiniteError, "/a"),
    ('{"a": 1, "a": 1}', errors.DuplicateKeyError, "/a"),
    ('{"a": {"b/c": 1, "b\\u002fc": 2}}', errors.DuplicateKeyError, "/a/b~1c"),
    ('{"a": "\\ud800"}', errors.LoneSurrogateError, "/a"),
    ('{"a": "\\udc00\\ud800"}', errors.LoneSurrogateError, "/a"),
    ('{"a": "\ud83d"}', errors.LoneSurrogateError, "/a"),
    ('{"\\udfff": 1}', errors.LoneSurrogateError, "/\\udfff"),
    ('{"a": ["x", "\\u0000"]}', errors.NullCharacterError, "/a/1"),
    ('{"a\\u0000b": 1}', errors.NullCharacterError, "/a\\u0000b"),
    ('{"a": "\x00"}', errors.NotJsonError, ""),
    ('{"a": "\n"}', errors.NotJsonError, ""),
    ('{"a": 1e309}', errors.NumberTooLargeError, "/a"),
    ('{"a": -1e309}', errors.NumberTooLargeError, "/a"),
    ('{"a": {"b": 9007199254740992}}', errors.NumberTooLargeError, "/a/b"),
    ('{"a": -9007199254740992}', errors.NumberTooLargeError, "/a"),
    ('{"a": {"b": {"c": {"d": {}}}}}', errors.TooDeepError, "/a/b/c/d"),
    ('{"a": [[[[]]]]}', errors.TooDeepError, "/a/0/0/0"),
    ("[]", errors.NotAnObjectError, ""),
    ('"text"', errors.NotAnObjectError, ""),
    ("null", errors.NotAnObjectError, ""),
    ("1", errors.NotAnObjectError, ""),
    ("", errors.NotJsonError, ""),
    ("{", errors.NotJsonError, ""),
    ("{'a': 1}", errors.NotJsonError, ""),
    ('{"a": 1,}', errors.NotJsonError, ""),
    ('{"a": 01}', errors.NotJsonError, ""),
    ('{"a": +1}', errors.NotJsonError, ""),
    ('{"a": .5}', errors.NotJsonError, ""),
    ('{"a": 1} x', errors.NotJsonError, ""),
    ('\ufeff{"a": 1}', errors.NotJsonError, ""),
    ('{"a": "' + "x" * 64 + '"}', errors.PayloadTooLargeError, ""),
    ('{"a": "' + "é" * 30 + '"}', errors.PayloadTooLargeError, ""),
]


@pytest.mark.parametrize(("text", "error", "path"), FAULTS)
def test_a_fault_has_its_type_and_its_path(
    text: str, error: type[errors.EventRefusedError], path: str
) -> None:
    with pytest.raises(errors.EventRefusedError) as refused:
        check(text, SMALL)
    assert (type(refused.value), refused.value.path) == (error, path)
    str(refused.value).encode()  # what is logged has a UTF-8 form


@pytest.mark.parametrize(
    "text",
    [
        '{"a":9007199254740991,"b":-9007199254740991}',
        '{"a": 1.7976931348623157e308, "b": -0.0, "c": 1E+2}',
        '{"\\ud83d\\ude00": "\\ud83d\\ude00"}',
        ' \r\n\t{ "a" : [ { "b" : [ ] } ] }\n',
        "{}",
        '{"": ""}',
    ],
)
def test_plain_json_passes(text: str) -> None:
    assert check(text, SMALL) == json.loads(text)


def test_a_payload_at_the_limit_passes_and_a_byte_more_does_not() -> None:
    text = '{"a": "' + "é" * 27 + 'x"}'
    assert len(text.encode()) == SMALL.max_bytes
    check(text, SMALL)
    with pytest.raises(errors.PayloadTooLargeError):
        check(text + " ", SMALL)


@pytest.mark.parametrize("opener", ["[", '{"a":', '[{"a":'])
def test_nesting_without_end_is_refused_not_a_crash(opener: str) -> None:
    with pytest.raises(errors.TooDeepError):
        check('{"a":' + opener * 40_000)


def test_a_number_of_a_million_digits_is_refused_at_once() -> None:
    with pytest.raises(errors.NumberTooLargeError) as refused:
        check('{"a":' + "9" * 1_000_000 + "}", Limits(max_bytes=2_000_000))
    assert refused.value.path == "/a"


def test_a_long_hostile_key_is_cut_in_the_message() -> None:
    with pytest.raises(errors.NotFiniteError) as refused:
        check('{"' + "k" * 100_000 + '": NaN}')
    assert len(str(refused.value)) < 300


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(errors.NotJsonError, match="byte 6"):
        encode(b'{"a":"\xff"}')


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({"a": math.nan}, errors.NotFiniteError),
        ({"a": {"b": math.inf}}, errors.NotFiniteError),
        ({1: "x", "1": "y"}, errors.DuplicateKeyError),
        ({"a": "\ud800"}, errors.LoneSurrogateError),
        ({"a": "\x00"}, errors.NullCharacterError),
        ({"a": 2**53}, errors.NumberTooLargeError),
        ({"a": Decimal("1.5")}, errors.NotJsonError),
        ({"a": {1, 2}}, errors.NotJsonError),
        ({(1, 2): "x"}, errors.NotJsonError),
        ([{"a": 1}], errors.NotAnObjectError),
        (None, errors.NotAnObjectError),
    ],
)
def test_a_mapping_is_held_to_the_same_rules(
    payload: Any, error: type[errors.EventRefusedError]
) -> None:
    with pytest.raises(errors.EventRefusedError) as refused:
        check(encode(payload))
    assert type(refused.value) is error


def test_a_mapping_that_contains_itself_is_refused() -> None:
    payload: dict[str, Any] = {}
    payload["self"] = payload
    with pytest.raises(errors.NotJsonError):
        encode(payload)


def test_a_mapping_nested_without_end_is_refused() -> None:
    payload: dict[str, Any] = {}
    for _ in range(100_000):
        payload = {"a": payload}
    with pytest.raises(errors.TooDeepError):
        encode(payload)
    while payload:  # taken apart by hand: freeing it recursively is not what is tested
        payload = payload["a"]


characters = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-LARGEST_INTEGER, LARGEST_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(characters),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(characters), inner),
    max_leaves=20,
)


@given(
    st.dictionaries(st.text(characters), plain),
    st.booleans(),
    st.sampled_from([None, 1, "\t"]),
)
def test_every_plain_object_passes_as_it_is(
    payload: dict[str, Any], escaped: bool, indent: int | str | None
) -> None:
    text = json.dumps(payload, ensure_ascii=escaped, indent=indent)
    assert encode(text) == text
    assert encode(text.encode()) == text
    limits = Limits(max_bytes=1_000_000, max_depth=100)
    assert check(text, limits) == payload
    assert check(encode(payload), limits) == payload


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_text_passes_as_json_does_or_is_refused(text: str) -> None:
    try:
        value = check(text)
    except errors.EventRefusedError:
        return
    assert value == json.loads(text)
