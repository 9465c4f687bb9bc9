"""Hop 2: see `relay.runtime.memory`, which hop 5 uses too."""

from relay.runtime.memory import collect_rarely, keep_freed_memory

__all__ = ["collect_rarely", "keep_freed_memory"]
