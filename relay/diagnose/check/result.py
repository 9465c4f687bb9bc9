"""The outcome of one check, and what changed since the last healthy run.

Invariant: pure; a check that is not ok says what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

CLOCK_TOLERANCE_SECONDS: Final = 1.0
"""Clocks that differ by more are reported."""


class State(StrEnum):
    """How a check came out, worst last."""

    OK = "ok"
    UNKNOWN = "unknown"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """One check.

    Attributes:
        name: stable between runs: `area.what` or `area.what:subject`.
        found: what is the case, with the value that was read.
        fix: what to do, best a command; "" when ok.
    """

    name: str
    state: State
    found: str
    fix: str = ""

    def __post_init__(self) -> None:
        if self.state is not State.OK and not self.fix:
            raise ValueError(f"{self.name}: a check that is not ok says what to do")


@dataclass(frozen=True, slots=True)
class Change:
    """A check whose finding differs from the last healthy run's."""

    name: str
    before: str
    now: str


def ok(name: str, found: str) -> Result:
    """Say that all is well."""
    return Result(name, State.OK, found)


def warning(name: str, found: str, fix: str) -> Result:
    """Say that nothing is lost yet, and something could be."""
    return Result(name, State.WARNING, found, fix)


def failed(name: str, found: str, fix: str) -> Result:
    """Say that orders are, or will be, held up or lost."""
    return Result(name, State.FAILED, found, fix)


def unknown(name: str, found: str, fix: str) -> Result:
    """Say that it cannot be told, and how it could be."""
    return Result(name, State.UNKNOWN, found, fix)


def is_healthy(results: Iterable[Result]) -> bool:
    """Tell whether nothing failed and nothing is unknown; warnings are allowed."""
    return all(result.state in (State.OK, State.WARNING) for result in results)


def changes(before: Sequence[Mapping[str, Any]], now: Sequence[Result]) -> tuple[Change, ...]:
    """Compare with a stored run: what is new, gone, or found otherwise, in the order of names.

    Findings that vary by themselves (a measured time) are compared by state only: their text
    stands in brackets.
    """
    then = {str(row["name"]): (str(row["state"]), str(row["found"])) for row in before}
    today = {result.name: (str(result.state), result.found) for result in now}
    return tuple(
        Change(name, _shown(then.get(name)), _shown(today.get(name)))
        for name in sorted(then.keys() | today.keys())
        if _steady(then.get(name)) != _steady(today.get(name))
    )


def _shown(finding: tuple[str, str] | None) -> str:
    return "not checked" if finding is None else f"{finding[0]}: {finding[1]}"


def _steady(finding: tuple[str, str] | None) -> tuple[str, str] | None:
    return None if finding is None else (finding[0], finding[1].partition(" [")[0])


def as_rows(results: Iterable[Result]) -> list[dict[str, str]]:
    """Return what is stored and printed as JSON."""
    return [asdict(result) for result in results]
