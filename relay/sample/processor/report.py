"""Hops 3-4 of the sample: what a processor did so far, and how it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from relay.sample.processor.faults import Fault


@dataclass(slots=True)
class ProcessorReport:
    """What a processor did since its start.

    Attributes:
        processed: events that were decided.
        ignored: records that expect no return, or name no order.
        returns: acknowledged by the broker.
        faults: how many orders had each.
        waiting_for: what it cannot go on without; None: it works.
    """

    processed: int = 0
    ignored: int = 0
    returns: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)
    waiting_for: str | None = "the broker"

    def as_dict(self) -> Mapping[str, object]:
        """Give the report for `--json`."""
        faults = {fault.value: number for fault, number in self.faults.items()}
        return {
            "processed": self.processed,
            "ignored": self.ignored,
            "returns": self.returns,
            "faults": faults,
        }
