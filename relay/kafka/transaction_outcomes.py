"""Hops 3 to 5: what became of transactions whose records were read: committed, aborted, or open.

Invariant: pure; a record of a transaction is no return, and no answer, before a marker says so.

Source: KIP-98: the first marker of a producer behind its record ends the record's transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from relay.kafka.partition import Partition


@dataclass(slots=True)
class Outcomes:
    """What became of transactions, by the markers that were read on each partition."""

    _markers: defaultdict[tuple[Partition, int], list[tuple[int, bool]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def note(self, partition: Partition, markers: Iterable[tuple[int, int, bool]]) -> None:
        """Note markers as offset, producer id, and whether it is a commit; in their order."""
        for offset, producer_id, committed in markers:
            self._markers[partition, producer_id].append((offset, committed))

    def committed(self, partition: Partition, producer_id: int, offset: int) -> bool | None:
        """Tell whether a record's transaction was committed; None: no marker was read after it."""
        markers = self._markers.get((partition, producer_id), ())
        return next((committed for at, committed in markers if at > offset), None)
