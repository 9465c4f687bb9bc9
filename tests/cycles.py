"""Whether what a service makes for a page goes by itself, or waits for the collector of cycles.

Our services let the collector come rarely (relay/runtime/memory.py): a cycle for each page, with
its bytes, is a leak of hundreds of megabytes.
"""

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def counted_cycles() -> Iterator[Counter[str]]:
    """Count what of ours is left to the collector meanwhile, by type; known at the end."""
    found = Counter[str]()
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found.update(
            type(one).__qualname__
            for one in gc.garbage
            if type(one).__module__.startswith("relay.")
        )
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.collect()
