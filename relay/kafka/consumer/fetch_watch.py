"""Hop 5: notices a consumer whose fetches get no answer.

Invariant: pure but for the clock it is given. An idle topic is no stall: Kafka answers a fetch of
nothing twice a second, and each answer moves the partition's time of last poll.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from relay.kafka.partition import Partition


@dataclass(slots=True)
class FetchWatch:
    """Remembers when each partition's fetch was last answered, by a monotonic clock."""

    _answers: dict[Partition, tuple[int | None, float]] = field(default_factory=dict)

    def observe(self, polled_at: Mapping[Partition, int | None], now: float) -> float:
        """Return for how many seconds the most neglected partition has had no answer.

        Args:
            polled_at: what aiokafka says of each assigned partition (wall clock, milliseconds; None
                before the first answer): only whether it changes counts.
            now: monotonic seconds.
        """
        for partition, answer in polled_at.items():
            known = self._answers.get(partition)
            if known is None or known[0] != answer:
                self._answers[partition] = (answer, now)
        for gone in self._answers.keys() - polled_at.keys():
            del self._answers[gone]
        return max((now - since for _, since in self._answers.values()), default=0.0)

    def answered(self, partitions: Iterable[Partition], now: float) -> None:
        """Note that records of these partitions came, however long they lay in the buffer."""
        for partition in partitions:
            answer, _ = self._answers.get(partition, (None, now))
            self._answers[partition] = (answer, now)
