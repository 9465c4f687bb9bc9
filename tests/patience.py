"""How much longer than on an idle machine a fact may take to come about.

A bound of a wait tells a fact that never comes from one that comes late. How late, depends on who
else uses the cores: on a machine with ten runnable processes a core, a process that starts within a
second needs ten. On an idle machine each bound is what the test says.
"""

import os

_AT_MOST = 6.0


def patience() -> float:
    """Return by what the bounds of waits are multiplied now: runnable processes a core."""
    load, *_ = os.getloadavg()
    return min(_AT_MOST, max(1.0, load / (os.cpu_count() or 1)))
