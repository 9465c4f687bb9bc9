"""Hop 2, witnessed: named points at which a test may stop, delay or kill a witness.

Invariant: nothing happens here unless a test passed its own function to `WitnessService`; no
setting and no environment variable reaches it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

Point = Literal["rows_found", "before_commit", "after_commit", "matched_late"]
TestPoint = Callable[[Point], Awaitable[None]]


async def nothing(_point: Point) -> None:
    """Do nothing: what every witness outside the tests does at these points."""
