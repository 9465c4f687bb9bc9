"""Hops 3-4 of the sample: what the sample order processor may be told, with safe defaults.

Invariant: without a fault asked for, every event that expects a return gets one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Literal

from relay.runtime.backoff import Backoff
from relay.runtime.process import client_id
from relay.sample.processor.faults import Fault, FaultRule

CrashAt = Literal["received", "sent", "committed"]
Corruption = Literal["truncated", "not_json", "no_status", "unknown_status", "any"]


@dataclass(frozen=True, slots=True)
class FaultOptions:
    """What is done wrong on purpose, to whom, and where it is written down.

    Args:
        rules: one rule per fault asked for.
        seed: draws by rate are the same for the same seed.
        crash_at: before the returns are sent, after their acknowledgement (the offset is not yet
            committed), or after the commit.
        corruption: how a corrupt return is broken; `any` takes all in turn.
        delay_seconds: how much later a delayed return leaves.
        on_replays: replayed events (a `replay_id` header) suffer too; by default they are spared,
            so that what was lost on purpose can be mended.
        journal: file of JSON lines, appended: what was done to whom. A restart reads it first.
    """

    rules: Mapping[Fault, FaultRule] = field(default_factory=dict)
    seed: int = 0
    crash_at: CrashAt = "sent"
    corruption: Corruption = "any"
    delay_seconds: float = 5.0
    on_replays: bool = False
    journal: Path | None = None


@dataclass(frozen=True, slots=True)
class ProcessorOptions:
    """How the sample processor decides and how it speaks to Kafka.

    Args:
        group: the consumer group; its committed offset is the proof of hop 3.
        source: the returns' `ce_source`.
        reject_above: orders with a larger total are rejected.
        processing_first: a `processing` return goes before each terminal one.
        batch_records: records taken from Kafka at once.
        request_seconds: how long Kafka may take to acknowledge before the connection is made anew.
        session_seconds: Kafka gives a dead processor's partitions away after this long.
        idle_check_seconds: how often an idle processor compares its position with the log's end.
    """

    group: str = "order-processor"
    source: str = "/outbox-relay/sample-processor"
    client_id: str = field(default_factory=lambda: client_id("sample-processor"))
    reject_above: Decimal = Decimal(10_000)
    processing_first: bool = False
    batch_records: int = 2000
    request_seconds: float = 15.0
    session_seconds: float = 10.0
    idle_check_seconds: float = 10.0
    backoff: Backoff = field(default_factory=Backoff)
    faults: FaultOptions = field(default_factory=FaultOptions)
