"""Hop 5: how a consumer takes part in its group, with safe defaults.

Invariant: options that contradict each other are never built.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from relay.runtime.backoff import Backoff
from relay.runtime.process import client_id


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a consumer takes part in its group.

    Attributes:
        client_id: what the broker's logs and metrics call it.
        batch_records: handled in one transaction at most.
        connections: batches handled at once, each of its own partitions.
        together_records: so few are one batch, of all partitions. 0: a batch that is slow keeps no
            partitions waiting but its own.
        poll_seconds: the longest wait for records before duties that do not wait are done.
        commit_seconds: Kafka's committed offset (for lag tools only) is at most this old.
        session_timeout_seconds: Kafka gives a silent consumer's partitions away after this long.
        drain_seconds: how long a rebalance, or a stop, waits for the batch that is being handled;
            longer than that, and the compare-and-set of the offset decides whose batch counts.
        start_seconds: how long joining the group may take before it is tried anew.
        stall_seconds: a consumer whose fetches get no answer for so long is thrown away for a new
            one (seen after broker restarts); doubled each time that this did not help.
        topic_check_seconds: how often Kafka is asked whether the topic is still the same one.
        truncated_seconds: a log that ends before what was handled is read again after this long.
        stop_seconds: how long leaving the group may take (20 s and more with the broker away).
        fetch_min_bytes: a broker that has less lets half a second go by before it answers a fetch:
            whoever is in no hurry lets it gather. 1: it answers at once.
        max_partition_fetch_bytes: what one fetch takes of one partition, compressed.
        max_fetch_bytes: what one fetch takes of all of them.
        backoff: between attempts to reach the broker, without end.
    """

    client_id: str = field(default_factory=lambda: client_id("relay-confirm"))
    batch_records: int = 2000
    connections: int = 3
    together_records: int = 0
    poll_seconds: float = 1.0
    commit_seconds: float = 1.0
    session_timeout_seconds: float = 8.0
    drain_seconds: float = 5.0
    start_seconds: float = 30.0
    request_seconds: float = 15.0
    stall_seconds: float = 10.0
    topic_check_seconds: float = 30.0
    truncated_seconds: float = 10.0
    stop_seconds: float = 5.0
    fetch_min_bytes: int = 1
    max_partition_fetch_bytes: int = 1024 * 1024
    max_fetch_bytes: int = 8 * 1024 * 1024
    backoff: Backoff = field(default_factory=lambda: Backoff(0.2, 5.0))

    def __post_init__(self) -> None:
        if min(self.batch_records, self.connections) < 1:
            raise ValueError("batch_records and connections must be 1 or more")
        if self.drain_seconds >= self.session_timeout_seconds:
            raise ValueError("drain_seconds must be less than session_timeout_seconds")
