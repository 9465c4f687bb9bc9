"""Hop 2: how large a batch a topic takes, as far as that is known.

Invariant: pure; a refused batch of several records is bisected (the next ones are half as large)
until the record that alone is refused is found; the topic's batches are then as large as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from relay.publish.sending.batch import BATCH_HEADER_BYTES, Limit

# For what a record has besides payload, own headers and key.
_ROOM_BYTES: Final = 8192


@dataclass(slots=True)
class Sizing:
    """What topics take: said by the broker, or learned from its refusals.

    Attributes:
        default: for a topic whose limit is not known.
        compressed: sizes here are before compression, so no record is too large until refused.
        too_large: rows that the broker refused alone.
    """

    default: Limit
    compressed: bool = False
    too_large: set[int] = field(default_factory=set)
    _said: dict[str, int] = field(default_factory=dict)
    _learned: dict[str, Limit] = field(default_factory=dict)

    def set_limit(self, topic: str, largest_batch_bytes: int | None) -> None:
        """Note what the broker says that a topic takes; None: it does not say."""
        if self._said.get(topic) == largest_batch_bytes:
            return
        # What was learned from refusals belongs to the limit of then.
        self._learned.pop(topic, None)
        if largest_batch_bytes is None:
            self._said.pop(topic, None)
        else:
            self._said[topic] = largest_batch_bytes

    def largest_payload_bytes(self, topics: Iterable[str], most_bytes: int) -> int:
        """Return how large a payload may be to fit one of these topics; any, if one is unknown."""
        if self.compressed:
            return most_bytes
        limits = [self._said.get(topic, most_bytes) for topic in topics]
        return min(most_bytes, max(limits, default=most_bytes))

    def largest_known_bytes(self, topics: Iterable[str], most_bytes: int) -> int:
        """Return how large a payload may be to fit one of those of these topics that are known."""
        known = [topic for topic in topics if topic in self._said]
        return self.largest_payload_bytes(known, most_bytes)

    def doubtful(self, topic: str, size_bytes: int) -> bool:
        """Tell whether a payload of that size may be more than the topic is known to take."""
        said = self._said.get(topic)
        return said is not None and size_bytes + _ROOM_BYTES > said

    def limit(self, topic: str) -> Limit:
        """Return what a topic takes in one batch."""
        learned = self._learned.get(topic, self.default)
        said = self._said.get(topic, learned.batch_bytes)
        return Limit(min(learned.batch_bytes, said), learned.count)

    def refuses(self, topic: str, outbox_id: int, size_bytes: int) -> bool:
        """Tell whether a topic is known to refuse a record, even alone in a batch."""
        if outbox_id in self.too_large:
            return True
        said = self._said.get(topic)
        return said is not None and not self.compressed and size_bytes + BATCH_HEADER_BYTES > said

    def refused(self, topic: str, outbox_ids: Sequence[int], size_bytes: int) -> None:
        """Learn from a refused batch."""
        if len(outbox_ids) == 1:
            self.too_large.add(outbox_ids[0])
            self._learned.pop(topic, None)
        else:
            self._learned[topic] = self.limit(topic).halved(size_bytes, len(outbox_ids))

    def forget(self, outbox_ids: Sequence[int]) -> None:
        """Let rows be tried again: they are parked now, or were released."""
        self.too_large.difference_update(outbox_ids)
