r"""Hop 1's payload check: strict JSON, so that every reader of the record sees the same event.

Invariant: a text that passes is an object in plain I-JSON (RFC 7493), within the limits, and is
stored and published byte for byte as it was given. Anything else raises its own error, which names
the place, before a statement is sent. Pure functions: nothing here knows a database.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from relay.outbox.encoding import fault_of
from relay.outbox.errors import (
    DuplicateKeyError,
    EventRefusedError,
    LoneSurrogateError,
    NotAnObjectError,
    NotFiniteError,
    NotJsonError,
    NullCharacterError,
    NumberTooLargeError,
    PayloadTooLargeError,
    TooDeepError,
)

# Integers beyond 2^53 - 1 change in readers whose numbers are IEEE doubles (RFC 7493, 2.2).
LARGEST_INTEGER: Final = 2**53 - 1
_INTEGER_DIGITS: Final = len(str(-LARGEST_INTEGER))


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a payload may be.

    `max_bytes` stays well under Kafka's default record limit of 1 MB, so that what was accepted
    here is never parked by the relay for its size. `max_depth` counts nested objects and arrays.
    """

    max_bytes: int = 262_144
    max_depth: int = 32


DEFAULT_LIMITS: Final = Limits()

Payload = str | bytes | Mapping[str, Any]


def encode(payload: Payload, encoder: type[json.JSONEncoder] = json.JSONEncoder) -> str:
    """Turn the caller's payload into text: text and bytes stay as they are, a mapping is written.

    Args:
        payload: the caller's.
        encoder: writes a mapping; a framework's own knows more types.

    Raises:
        NotJsonError: not UTF-8, or a mapping with values that JSON has no form for.
        TooDeepError: nested without end.
    """
    if isinstance(payload, str):
        return payload
    if isinstance(payload, bytes):
        try:
            return payload.decode("utf-8")
        except UnicodeDecodeError as error:
            raise NotJsonError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    if isinstance(payload, Mapping):
        return _written(payload, encoder)
    raise NotAnObjectError(f"give an object, its JSON text or bytes, not {type(payload).__name__}")


def _written(payload: Mapping[str, Any], encoder: type[json.JSONEncoder]) -> str:
    try:
        return json.dumps(dict(payload), cls=encoder, ensure_ascii=False, separators=(",", ":"))
    except RecursionError as error:
        raise TooDeepError("nested too deep to be written as JSON") from error
    except (TypeError, ValueError) as error:
        path, reason = fault_of(payload, encoder)
        raise NotJsonError(reason or str(error), path) from error


def check(text: str, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Parse a payload's text strictly and return the object.

    Raises:
        EventRefusedError: its subclass for the first fault found, with the JSON Pointer to it.
    """
    # A character is a byte or more: refuse the hopeless before encoding it.
    if (
        len(text) > limits.max_bytes
        or len(text.encode("utf-8", "surrogatepass")) > limits.max_bytes
    ):
        raise PayloadTooLargeError(f"larger than {limits.max_bytes} bytes")
    value = _Walk(limits.max_depth).value(_parsed(text), "", 1)
    if not isinstance(value, dict):
        raise NotAnObjectError("the payload must be a JSON object")
    return value


class _Members(list[tuple[str, Any]]):
    """An object as it was written: every member, duplicates too."""


@dataclass(frozen=True, slots=True)
class _Fault:
    """A number that must be refused, kept in its place until its path is known."""

    error: type[EventRefusedError]
    reason: str


def _parsed(text: str) -> Any:
    try:
        return json.loads(
            text,
            object_pairs_hook=_Members,
            parse_int=_integer,
            parse_float=_fraction,
            parse_constant=_constant,
        )
    except RecursionError as error:
        raise TooDeepError("nested too deep to be parsed") from error
    except json.JSONDecodeError as error:
        raise NotJsonError(f"{error.msg} at character {error.pos}") from error


def _integer(digits: str) -> int | _Fault:
    # By length first: converting a million digits takes quadratic time.
    if len(digits) <= _INTEGER_DIGITS and abs(value := int(digits)) <= LARGEST_INTEGER:
        return value
    return _Fault(NumberTooLargeError, "an integer beyond 2^53 - 1: send it as a string")


def _fraction(digits: str) -> float | _Fault:
    value = float(digits)
    if math.isfinite(value):
        return value
    return _Fault(NumberTooLargeError, "beyond what a double can hold: send it as a string")


def _constant(name: str) -> _Fault:
    return _Fault(NotFiniteError, f"{name} is not JSON")


class _Walk:
    """Turns the parsed tree into plain values and refuses the first fault, with its path."""

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth

    def value(self, value: Any, path: str, depth: int) -> Any:
        if isinstance(value, str):
            _check_characters(value, path)
        elif isinstance(value, _Members):
            self._check_depth(path, depth)
            return self._object(value, path, depth)
        elif isinstance(value, list):
            self._check_depth(path, depth)
            return [self.value(one, f"{path}/{at}", depth + 1) for at, one in enumerate(value)]
        elif isinstance(value, _Fault):
            raise value.error(value.reason, path)
        return value

    def _object(self, members: _Members, path: str, depth: int) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key, value in members:
            member = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
            _check_characters(key, member)
            if key in plain:
                raise DuplicateKeyError("this key stands twice in its object", member)
            plain[key] = self.value(value, member, depth + 1)
        return plain

    def _check_depth(self, path: str, depth: int) -> None:
        if depth > self._max_depth:
            raise TooDeepError(f"nested deeper than {self._max_depth}", path)


def _check_characters(text: str, path: str) -> None:
    if "\x00" in text:
        raise NullCharacterError("the character U+0000 cannot be stored", path)
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise LoneSurrogateError("half of a surrogate pair is no character", path) from error
