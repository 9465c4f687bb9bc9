"""A Kafka of the imagination: logs, idempotent producers, and a network that delays requests."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

PARTITIONS = 3


class Published(NamedTuple):
    """A record of the events topic."""

    row_id: int
    order: int
    version: int
    epoch: int


class Returned(NamedTuple):
    """A record of the returns topic, as the program's own decisions want it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


@dataclass
class Request:
    """A batch on the wire. Its sender may be gone when it arrives."""

    producer: int
    partition: int
    sequence: int
    records: list[Published]
    answer: Any = None


@dataclass
class Broker:
    """Both topics; `network` holds requests that were sent and did not arrive yet."""

    events: list[list[Published]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    returns: list[list[Returned]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    network: deque[Request] = field(default_factory=deque)
    producers: int = 0
    _sequences: dict[tuple[int, int], int] = field(default_factory=dict)

    def new_producer(self) -> int:
        self.producers += 1
        return self.producers

    def deliver(self, request: Request) -> int | None:
        """Append a batch, once; return its offset, None for one that is known already.

        A gap in the sequence is refused, as a broker does: `-1`.
        """
        key, log = (request.producer, request.partition), self.events[request.partition]
        expected = self._sequences.get(key, 0)
        if request.sequence < expected:
            return None
        if request.sequence > expected:
            return -1
        self._sequences[key] = expected + len(request.records)
        offset = len(log)
        log += request.records
        return offset

    def send_return(self, order: int, status: str, number: int) -> None:
        """A processor sends a return; `number` is its id: a copy has the same."""
        partition = order % PARTITIONS
        log = self.returns[partition]
        headers = (("ce_source", b"/p"), ("ce_id", str(number).encode()))
        log.append(
            Returned(
                "returns", partition, len(log), 0, str(order).encode(), status.encode(), headers
            )
        )
