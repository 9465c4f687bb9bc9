"""Hop 2: named points at which a test may stop, delay or kill the relay.

Invariant: nothing happens here unless a test passed its own function to `RelayService`; no setting
and no environment variable reaches it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

Point = Literal[
    "after_read",
    "before_send",
    "after_send_before_checkpoint",
    "after_checkpoint",
    "producer_rebuilt",
]
TestPoint = Callable[[Point], Awaitable[None]]


async def nothing(_point: Point) -> None:
    """Do nothing: what every relay outside the tests does at these points."""
