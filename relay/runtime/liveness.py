"""When a process counts as alive: the one rule, for whoever asks.

Invariant: pure. A process that lives beats, or connects anew, every HEARTBEAT_SECONDS; three missed
heartbeats are silence. One that has no connection left is known to be gone earlier.
"""

from datetime import timedelta
from typing import Final

HEARTBEAT_SECONDS: Final = 5.0

SILENT_SECONDS: Final = 3 * HEARTBEAT_SECONDS
"""Without a heartbeat for so long, a process is down, or paused."""

GONE_SECONDS: Final = HEARTBEAT_SECONDS + 1
"""The same for one of whose connections none is left: one heartbeat, and the time to write it."""


def is_alive(age: timedelta, *, stopped: bool, connected: bool | None = None) -> bool:
    """Tell whether a process lives.

    Args:
        age: of its last heartbeat, by the database's clock.
        stopped: it said that it ended.
        connected: it has a connection to the database; None: that is not visible to us.
    """
    allowed = GONE_SECONDS if connected is False else SILENT_SECONDS
    return not stopped and age <= timedelta(seconds=allowed)
