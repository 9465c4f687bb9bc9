"""Hop 2's own settings, with defaults that are safe and fast.

Invariant: a value that cannot work is refused when the options are made, and the error names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from relay.runtime.settings import Settings

Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """How the relay reads, sends and paces itself.

    Attributes:
        shard: whose checkpoint and lease; there is one shard now.
        source: `ce_source` of every record; None: `/` and the flow's name.
        dataschemas: `ce_dataschema` by event type; an event type without one has no such header.
        page_rows: rows read at a time.
        page_bytes: payload bytes read at a time, about.
        pages_in_flight: full pages sent and not yet covered by the checkpoint; that many rows are
            sent twice after a kill -9.
        batch_bytes: largest batch handed to a partition; a topic's own limit may be lower.
        largest_record_bytes: a larger payload is parked without being read.
        poll_seconds: pause between two reads while rows flow.
        idle_poll_seconds: longest pause between two reads; without rows it grows towards it, to a
            twenty-fifth of how long there were none.
        checkpoint_seconds: least pause between two writes of the checkpoint, unless a page is full.
        lease_seconds: a relay that died is replaced after so long.
        request_timeout_seconds: the broker's time to answer one request.
        drain_seconds: after SIGTERM, time for acknowledgements under way.
        wait_span_seconds: a row that waited longer has a span of its wait.
    """

    shard: int = 0
    source: str | None = None
    dataschemas: Mapping[str, str] = field(default_factory=dict)
    compression: Compression = "none"
    page_rows: int = 1600
    page_bytes: int = 4_000_000
    pages_in_flight: int = 3
    batch_bytes: int = 900_000
    largest_record_bytes: int = 32_000_000
    poll_seconds: float = 0.003
    idle_poll_seconds: float = 0.1
    checkpoint_seconds: float = 0.01
    lease_seconds: float = 3.0
    request_timeout_seconds: float = 15.0
    drain_seconds: float = 10.0
    wait_span_seconds: float = 1.0

    def __post_init__(self) -> None:
        positive = {
            "page_rows": self.page_rows,
            "page_bytes": self.page_bytes,
            "pages_in_flight": self.pages_in_flight,
            "batch_bytes": self.batch_bytes,
            "largest_record_bytes": self.largest_record_bytes,
            "poll_seconds": self.poll_seconds,
            "idle_poll_seconds": self.idle_poll_seconds,
            "checkpoint_seconds": self.checkpoint_seconds,
            "lease_seconds": self.lease_seconds,
            "request_timeout_seconds": self.request_timeout_seconds,
            "drain_seconds": self.drain_seconds,
        }
        for name, value in positive.items():
            if value <= 0:
                raise ValueError(f"publish.{name} must be more than 0, not {value}")
        if self.shard < 0:
            raise ValueError("publish.shard must not be negative")


def publish_options(settings: Settings) -> PublishOptions:
    """Return them as the settings say."""
    return PublishOptions(**dict(settings.publish), wait_span_seconds=settings.trace.wait_seconds)
