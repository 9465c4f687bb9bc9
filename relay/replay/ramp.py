"""How fast a replay goes after so long.

Invariant: pure; the rate doubles every second until it is the limit.
"""

from __future__ import annotations

from typing import Final

FIRST_RATE: Final = 10.0
_LONGEST_CLIMB_SECONDS: Final = 60.0


def rate_after(seconds: float, limit: float) -> float:
    """Return events a second, `seconds` after the first few had returned; `limit` is above 0."""
    return min(limit, FIRST_RATE * 2 ** min(seconds, _LONGEST_CLIMB_SECONDS))
