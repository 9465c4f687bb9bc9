"""How long something took or is ago, as people read it; pure."""

from __future__ import annotations

from typing import Final

_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_WITH_DECIMAL_SECONDS: Final = 10


def duration(seconds: float | None, *, exact: bool = False) -> str:
    """Return seconds as people read them at night: 0.4 s, 12 s, 3 min 7 s, 2 h 5 min, 3 d 4 h.

    Args:
        seconds: None: not known.
        exact: what is shorter than a minute is to be compared: 20 ms, 1.04 s.
    """
    if seconds is None:
        return "-"
    seconds = max(seconds, 0.0)
    whole, decimals = int(seconds), 2 if exact else 1
    if exact and seconds < 1:
        text = f"{seconds * 1000:.0f} ms"
    elif seconds < (_MINUTE if exact else _WITH_DECIMAL_SECONDS):
        text = f"{seconds:.{decimals}f} s"
    elif whole < _MINUTE:
        text = f"{whole} s"
    elif whole < _HOUR:
        text = f"{whole // _MINUTE} min {whole % _MINUTE} s"
    elif whole < _DAY:
        text = f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    else:
        text = f"{whole // _DAY} d {whole % _DAY // _HOUR} h"
    return text
