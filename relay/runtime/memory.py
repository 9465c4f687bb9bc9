"""Hops 2 and 5: tells the C library and the garbage collector that batches come one after another.

Invariant: only speed depends on it. What is kept is bounded by what the batches in flight take.

glibc gives large blocks back to the kernel as soon as they are freed, and the kernel zeroes each
page of the next one: 1.1 us a row, a fifth of all the relay's time. The collector looks through a
page's rows again and again, which are in no cycle: another tenth (benchmarks/drain).
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

# mallopt's parameters, malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

_KEPT_BYTES: Final = 32 * 1024 * 1024
_STEP_BYTES: Final = 1024 * 1024

# A page makes some 20,000 objects that are collectable, all of them gone three pages later.
_COLLECT_AFTER_OBJECTS: Final = 100_000


def share_freed_memory() -> bool:
    """Let all threads allocate from one arena; to be called before the first of them begins.

    Each thread that decompresses a batch would keep what it freed for itself: 50 MB a thread.
    """
    return _understood((_M_ARENA_MAX, 1))


def keep_freed_memory() -> bool:
    """Keep up to 32 MiB of freed memory; tell whether it was understood (it is glibc's own)."""
    return _understood(
        (_M_MMAP_THRESHOLD, _KEPT_BYTES),
        (_M_TRIM_THRESHOLD, _KEPT_BYTES),
        (_M_TOP_PAD, _STEP_BYTES),
    )


def _understood(*settings: tuple[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)


def collect_rarely() -> None:
    """Leave what the process was started with alone, and look for cycles now and then."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER_OBJECTS, 10, 10)
