"""The languages in which people are spoken to: English, and what the catalogues have.

Invariant: the English sentence is its own key, so that a sentence without a translation is shown in
English and never as a code. JSON, logs and metrics are in English whatever the language.
"""

from __future__ import annotations

import gettext
import os
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from relay.runtime.phrases import Phrases

ENGLISH: Final = "en"
LANGUAGES: Final[Mapping[str, str]] = {ENGLISH: "English", "zh": "简体中文"}
"""Code -> its own name, as a switch shows it."""

FOLDER: Final = Path(__file__).with_name("languages")


@cache
def catalogue(language: str) -> gettext.NullTranslations:
    """Return a language's sentences; of one that is not known, English ones.

    Raises:
        ModuleNotFoundError: Babel is not installed (extra `web`); English needs none.
    """
    if language not in LANGUAGES or language == ENGLISH:
        return gettext.NullTranslations()
    from babel.messages.mofile import write_mo  # noqa: PLC0415 - only for other languages

    compiled = BytesIO()
    write_mo(compiled, _read(language))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


@cache
def phrases(language: str) -> Phrases:
    """Return what evidence, notes and headlines are put together of, in a language.

    Raises:
        ModuleNotFoundError: as of `catalogue`.
    """
    if language not in LANGUAGES or language == ENGLISH:
        return Phrases({})
    return Phrases({
        one.id: one.string
        for one in _read(language)
        if isinstance(one.id, str) and one.id and isinstance(one.string, str)
    })  # fmt: skip


@cache
def _read(language: str) -> Any:
    from babel.messages.pofile import read_po  # noqa: PLC0415 - only for other languages

    with (FOLDER / f"{language}.po").open("rb") as file:
        return read_po(file, locale=language)


def preferred(wanted: Sequence[str]) -> str:
    """Return the first of these that there is a catalogue for (`zh-CN`, `zh_CN.UTF-8`, `en`)."""
    for one in wanted:
        code = one.replace("_", "-").partition(".")[0].lower()
        base = code.partition("-")[0]
        # Traditional characters are another language to whoever reads them.
        if base == "zh" and any(part in code for part in ("hant", "-tw", "-hk", "-mo")):
            continue
        if base in LANGUAGES:
            return base
    return ENGLISH


def accepted(header: str) -> list[str]:
    """Return the languages of an Accept-Language header, the most wanted first (RFC 9110)."""
    found: list[tuple[float, int, str]] = []
    for number, part in enumerate(header[:1000].split(",")):
        name, _, quality = part.partition(";")
        text = quality.strip().removeprefix("q=")
        try:
            weight = float(text) if text else 1.0
        except ValueError:
            weight = 0.0
        if weight > 0:
            found.append((-weight, number, name.strip()))
    return [name for _weight, _number, name in sorted(found)]


def of_environment(environment: Mapping[str, str]) -> str:
    """Return the language of whoever types: RELAY_LANG, else what the locale's variables say.

    The C locale and POSIX are English, as all of it was written.
    """
    for name in ("RELAY_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        if environment.get(name):
            return preferred([environment[name]])
    return ENGLISH


def said(sentence: str, keep: Collection[str] = ()) -> str:
    """Return one of our own texts in the language of whoever types; `keep`: as in `in_language`.

    A sentence is looked up whole; a line of evidence, a note or a headline by its phrases. Where
    Babel is not installed, it stays in English.
    """
    return in_language(of_environment(os.environ), sentence, keep)


def in_language(language: str, sentence: str, keep: Collection[str] = ()) -> str:
    """Return one of our own texts in a language.

    Args:
        language: its code.
        sentence: in English.
        keep: other programs' words that stand in it, as an order's status does: they stay.
    """
    if not sentence or language == ENGLISH or sentence in keep:
        return sentence
    try:
        whole = catalogue(language).gettext(sentence)
        return whole if whole != sentence else phrases(language).tell(sentence, keep)
    except ModuleNotFoundError:
        return sentence
