"""What others wrote, so that a terminal shows it and obeys none of it.

Invariant: pure; what comes out has no control character, no escape sequence, nothing that turns the
direction of writing or takes no room, and no line end but those asked for. The bytes themselves are
in the export.
"""

from __future__ import annotations

import codecs
from typing import Final

_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}


def printable(value: object, *, lines: bool = False) -> str:
    r"""Return text with everything that is no plain character written out: `\n`, `\x1b`.

    Args:
        value: anybody's text, or what is to be shown as text.
        lines: whether line ends stay.
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or (lines and char == "\n") else _written_out(char)
        for char in text
    )


def _written_out(char: str) -> str:
    number = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    if number < 0x100:  # noqa: PLR2004 - one byte
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"  # noqa: PLR2004


def printable_bytes(data: bytes, *, cut: bool = False, lines: bool = False) -> str:
    r"""Return bytes as text; those that are no UTF-8 as `\xNN`.

    Args:
        data: anybody's, or the first part of it.
        cut: it is only the first part: a character that was cut in two is left out.
        lines: whether line ends stay.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    return printable(decoder.decode(data, final=not cut), lines=lines)
