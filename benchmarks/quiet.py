"""Waits until other people leave the cores alone: their work makes every figure worse."""

from __future__ import annotations

import time

import psutil

_QUIET_CORES = 0.4
_QUIET_SECONDS = 3


def machine_seconds() -> float:
    """Return the busy time of all cores; it is counted in ticks and so indicative."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def wait_for_quiet(patience_seconds: float) -> bool:
    """Wait for some quiet seconds; False: there were none for so long, measure all the same."""
    deadline = time.monotonic() + patience_seconds
    quiet = 0
    while quiet < _QUIET_SECONDS:
        if time.monotonic() > deadline:
            return False
        before = machine_seconds()
        time.sleep(1.0)
        quiet = quiet + 1 if machine_seconds() - before < _QUIET_CORES else 0
    return True
