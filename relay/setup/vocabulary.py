"""Setup: which of a shop's status words begin an order's wait, which end it, and which come later.

Invariant: pure. A guess is only ever a proposal: `relay init` shows it, and every word can be said
by an option. A word that no rule knows is one that the shop gives later, by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

_INITIAL: Final = (
    "submitted", "new", "placed", "pending", "created", "open", "received", "waiting",
    "unconfirmed", "awaiting_confirmation", "ordered", "checkout", "draft",
)  # fmt: skip
_STEP: Final = ("processing", "in_progress", "being_processed", "in_process", "validating")
_ACCEPTED: Final = ("confirmed", "accepted", "approved", "acknowledged", "processed", "complete",
                    "completed")  # fmt: skip
_REFUSED: Final = ("rejected", "declined", "refused", "denied", "failed")
# What processors say, and the sample's own words.
_USUAL: Final = {"confirmed": _ACCEPTED, "rejected": _REFUSED, "processing": _STEP}

_CHECKED: Final = re.compile(r"'((?:[^']|'')*)'")


class UnclearStatusError(ValueError):
    """The words do not tell what begins or ends an order's wait; the message names the option."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words of a flow.

    Attributes:
        initial: of a new order.
        steps: between, in their order.
        final: those that end the wait.
        later: given by the shop afterwards.
        aliases: the processor's usual words, where the shop has others for the same.
    """

    initial: str
    steps: tuple[str, ...]
    final: tuple[str, ...]
    later: tuple[str, ...]
    aliases: Mapping[str, str]

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each, as `status_ranks` has it."""
        between = {word: 10 * (at + 1) for at, word in enumerate(self.steps)}
        last = 10 * (len(self.steps) + 1)
        return {self.initial: 0, **between, **dict.fromkeys(self.final, last)}


def listed_words(column: str, checks: Iterable[str]) -> list[str]:
    """Return the words that CHECK constraints on the column list."""
    return [
        word.replace("''", "'")
        for check in checks
        if re.search(rf'(?<!\w)"?{re.escape(column)}"?(?!\w)', check)
        for word in _CHECKED.findall(check)
        if word
    ]


def propose(
    words: Sequence[str],
    *,
    closed: bool,
    default: str | None,
    initial: str | None = None,
    steps: Sequence[str] = (),
    final: Sequence[str] = (),
    later: Sequence[str] = (),
) -> Vocabulary:
    """Sort the words.

    Args:
        words: in use, or listed by the column's type or its CHECK, without doubles.
        closed: the column can hold no others.
        default: the column's.
        initial: what the user said that a new order has; None: it is guessed, as what follows is.
        steps: what the user said of the way.
        final: what the user said that ends the wait.
        later: what the user said that comes afterwards.

    Raises:
        UnclearStatusError: no word can be told to begin, or to end, an order's wait.
    """
    first = initial or _first(words, closed=closed, default=default)
    ends = tuple(final) or _ends([w for w in words if w != first], closed=closed)
    said = {first, *ends, *later}
    between = tuple(steps) or tuple(w for w in words if _plain(w) in _STEP and w not in said)
    rest = (w for w in words if w.strip() and w not in {*said, *between})
    return Vocabulary(
        first, between, ends, tuple(dict.fromkeys((*later, *rest))), _aliases(first, between, ends)
    )


def _first(words: Sequence[str], *, closed: bool, default: str | None) -> str:
    if default and default.strip():
        return default
    for word in _INITIAL:
        for known in words:
            if _plain(known) == word:
                return known
    if not closed and not words:
        return "submitted"
    raise UnclearStatusError(
        f"which status has a new order? Say it with --initial; the column has"
        f" {', '.join(map(repr, words)) or 'none yet'}"
    )


def _ends(words: Sequence[str], *, closed: bool) -> tuple[str, ...]:
    accepted, refused = _known(words, _ACCEPTED), _known(words, _REFUSED)
    if not closed:
        return (accepted or "confirmed", refused or "rejected")
    found = tuple(word for word in (accepted, refused) if word is not None)
    if not found:
        raise UnclearStatusError(
            f"which status does a return give, when it ends the wait? Say it with --final;"
            f" the column can hold {', '.join(map(repr, words))}"
        )
    return found


def _known(words: Sequence[str], usual: Sequence[str]) -> str | None:
    return next((w for one in usual for w in words if _plain(w) == one), None)


def _aliases(first: str, steps: Sequence[str], final: Sequence[str]) -> dict[str, str]:
    ranked = {first, *steps, *final}
    return {
        usual: word
        for usual, alike in _USUAL.items()
        if usual not in ranked
        for word in [_known([*steps, *final], alike)]
        if word is not None
    }


def _plain(word: str) -> str:
    return re.sub(r"[\s-]+", "_", word.strip().lower())
