"""Hop 5: partitions whose next record cannot be handled, and when each is tried again.

Invariant: the other partitions go on. A blocked one is tried again by itself, less and less often:
each attempt that fails costs the group a rejoin.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from relay.kafka.partition import Partition
from relay.runtime.backoff import Backoff


@dataclass(frozen=True, slots=True)
class _Wait:
    until: float
    attempts: int
    why: str


@dataclass(slots=True)
class BlockedPartitions:
    """Remembers them, by a monotonic clock."""

    backoff: Backoff = field(default_factory=lambda: Backoff(2.0, 300.0))
    _waits: dict[Partition, _Wait] = field(default_factory=dict)
    _elsewhere: set[Partition] = field(default_factory=set)

    def block(self, partition: Partition, why: str) -> float:
        """Let a partition wait, longer than the last time; return for how many seconds."""
        known = self._waits.get(partition)
        attempts = 0 if known is None else known.attempts + 1
        seconds = self.backoff.ceiling_seconds(attempts)
        self._waits[partition] = _Wait(time.monotonic() + seconds, attempts, why)
        self._elsewhere.discard(partition)
        return seconds

    def assigned(self, partitions: Container[Partition]) -> None:
        """Note which partitions are ours now: of the others somebody else knows whether they wait.

        How often they were tried is remembered, for when they come back.
        """
        self._elsewhere = {one for one in self._waits if one not in partitions}

    def free(self, partitions: Iterable[Partition]) -> list[Partition]:
        """Return those that need not wait now."""
        now, waits = time.monotonic(), self._waits
        return [one for one in partitions if one not in waits or waits[one].until <= now]

    def handled(self, partition: Partition) -> None:
        """Note that a partition moved on."""
        self._waits.pop(partition, None)

    def reasons(self) -> dict[str, str]:
        """Return why each of ours waits, by `topic-partition`."""
        return {
            f"{one.topic}-{one.partition}": wait.why
            for one, wait in sorted(self._waits.items())
            if one not in self._elsewhere
        }
