"""Hops 2 and 5: named points at which a test may stop, delay or kill the relay or the consumer.

Invariant: nothing happens here unless a test passed its own function to the service; no setting and
no environment variable reaches it.
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
    "after_commit",
]
TestPoint = Callable[[Point], Awaitable[None]]


async def nothing(_point: Point) -> None:
    """Do nothing: what every process outside the tests does at these points."""
