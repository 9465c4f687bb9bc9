"""Hops 3 to 5: an open transaction in words: where it begins, whose it is, and since when: pure."""

from __future__ import annotations

from relay.diagnose.evidence.system_state import TransactionSeen
from relay.kafka.partition import Partition


def transaction_text(partition: Partition, seen: TransactionSeen) -> str:
    """Say where a transaction begins, who has it open and since when, as far as anybody says."""
    topic, number = partition
    text = f"open transaction at {topic}[{number}]@{seen.offset}"
    if seen.producer_id is None:
        return f"{text}; the broker does not say whose"
    text += f" of producer {seen.producer_id}"
    if seen.transactional_id is not None:
        text += f" ({seen.transactional_id})"
        return text if seen.started_at is None else f"{text} since {seen.started_at:%H:%M:%S}"
    if seen.last_record_at is not None:
        text += f", last record {seen.last_record_at:%H:%M:%S}"
    return f"{text}; no coordinator names it: it hangs, or its name may not be seen"
