"""Hop 5: takes a batch apart to find the one return that the database refuses.

Invariant: pure. The two halves together are the whole, in the same order, and each can be handled
in a transaction of its own: the second starts where the first one ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from relay.kafka.consumer.handler import Part


def count_records(parts: Sequence[Part]) -> int:
    """Return how many records there are."""
    return sum(len(part.records) for part in parts)


def halves(parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
    """Split a batch of two records or more in the middle, within a part if need be."""
    wanted = count_records(parts) // 2
    first: list[Part] = []
    rest = list(parts)
    while wanted:
        part = rest.pop(0)
        if len(part.records) <= wanted:
            first.append(part)
            wanted -= len(part.records)
        else:
            head, tail = split(part, wanted)
            first.append(head)
            rest.insert(0, tail)
            wanted = 0
    return first, rest


def split(part: Part, count: int) -> tuple[Part, Part]:
    """Split a part behind its first `count` records; what it says of gaps stays with the tail."""
    head, tail = part.records[:count], part.records[count:]
    middle = head[-1].offset + 1
    return (
        replace(part, records=head, next_offset=middle, gap=None),
        replace(part, records=tail, start_offset=middle),
    )
