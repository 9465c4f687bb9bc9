"""Every hop: evidence, notes and headlines, which are put together out of phrases, in a language.

Invariant: pure; what no phrase of the catalogue fits stays as it is: names, numbers, places, other
programs' words. A phrase of the catalogue has `{}` where something is put in, and its translation
`{0}`, `{1}` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

BETWEEN: Final = re.compile(r"(; |, |: | - |\n)")
"""What stands between phrases."""
AROUND: Final = " ,;:().|"
_HOLE: Final = "{}"
_DEEPEST: Final = 3


def phrases_of(text: str) -> list[str]:
    """Return the phrases that a text, with `{}` for what is put in, is made of."""
    parts = (_HOLES.sub(_HOLE, one).strip(AROUND) for one in BETWEEN.split(text))
    return [one for one in parts if re.search(r"[A-Za-z]{2}", one.replace(_HOLE, ""))]


_HOLES: Final = re.compile(r"(\{\})+")


@dataclass(slots=True)
class Phrases:
    """The phrases of a language.

    Attributes:
        known: what English ones are in it.
    """

    known: Mapping[str, str]
    _patterns: list[tuple[re.Pattern[str], str]] = field(init=False)

    def __post_init__(self) -> None:
        # The one that says the most comes first: "{} stopped {}" before "{} stopped".
        made = sorted(self.known, key=lambda one: -len(one.replace(_HOLE, "")))
        self._patterns = [(_pattern(one), self.known[one]) for one in made if _HOLE in one]

    def tell(self, text: str, keep: Collection[str] = ()) -> str:
        """Return a text with every phrase that is known in the language.

        Args:
            text: made of phrases of ours, and of other programs' words.
            keep: such words that stay as they are, even where one of ours is spelled alike.
        """
        return self._tell(text, _DEEPEST, keep)

    def _tell(self, text: str, depth: int, keep: Collection[str]) -> str:
        if depth == 0 or not text:
            return text
        parts = BETWEEN.split(text)
        return "".join(
            part if number % 2 else self._phrase(part, depth, keep)
            for number, part in enumerate(parts)
        )

    def _phrase(self, part: str, depth: int, keep: Collection[str]) -> str:
        core = part.strip(AROUND)
        if core in keep:
            return part
        start = part.index(core)
        found = self.known.get(core) or self._fitting(core, depth, keep)
        return part[:start] + (found or core) + part[start + len(core) :]

    def _fitting(self, core: str, depth: int, keep: Collection[str]) -> str | None:
        for pattern, translated in self._patterns:
            fits = pattern.fullmatch(core)
            if fits is not None:
                told = (self._tell(one, depth - 1, keep) for one in fits.groups())
                return translated.format(*told)
        return None


def _pattern(phrase: str) -> re.Pattern[str]:
    """Return what a phrase fits; of one word alone ("{} orders"), before which one word stands."""
    words = phrase.split(_HOLE)
    fits = "(.*?)".join(map(re.escape, words))
    if not words[0] and len("".join(words).split()) == 1:
        fits = fits.replace("(.*?)", r"(\S+)", 1)
    return re.compile(fits, re.DOTALL)
