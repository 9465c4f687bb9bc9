"""Hop 5: named points at which a test may stop, delay or kill the consumer.

Invariant: nothing happens here unless a test passed its own function to `ConfirmService`; no
setting and no environment variable reaches it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

Point = Literal["after_commit"]
TestPoint = Callable[[Point], Awaitable[None]]


async def nothing(_point: Point) -> None:
    """Do nothing: what every consumer outside the tests does at these points."""
