"""The topic that is measured: the broker's own append times, and what is really in it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import orjson
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

PARTITIONS = 6


@dataclass(frozen=True, slots=True)
class Appended:
    """One record. Times in milliseconds; `at` is when the row was written."""

    appended_ms: int
    key: bytes
    seq: int
    version: int
    at_ms: float


class Topic:
    """A new topic with the broker's append time as the records' timestamp."""

    def __init__(self, bootstrap_servers: str, name: str, partitions: int = PARTITIONS) -> None:
        self.name = name
        self.partitions = partitions
        # Below errors: the servers go first when a benchmark fails.
        client: dict[str, str | int | float | bool] = {
            "bootstrap.servers": bootstrap_servers,
            "log_level": 2,
        }
        self._admin = AdminClient(client)
        self._make()
        self._consumer = Consumer(
            {
                **client,
                "group.id": "bench-reader",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.max.bytes": 16 << 20,
                "queued.max.messages.kbytes": 262_144,
            }
        )

    def _make(self) -> None:
        if self.name in self._admin.list_topics(timeout=10).topics:
            self._admin.delete_topics([self.name])[self.name].result()
        new = NewTopic(
            self.name, self.partitions, 1, config={"message.timestamp.type": "LogAppendTime"}
        )
        for attempt in range(100):
            try:
                self._admin.create_topics([new])[self.name].result()
                break
            except KafkaException:  # the old one is still being deleted
                if attempt == 99:
                    raise
                time.sleep(0.1)
        while not self._is_led():
            time.sleep(0.05)

    def _is_led(self) -> bool:
        known = self._admin.list_topics(self.name, timeout=10).topics[self.name].partitions
        return len(known) == self.partitions and all(one.leader >= 0 for one in known.values())

    def count(self) -> int:
        """Return how many records are in it."""
        return sum(self._ends())

    def _ends(self) -> list[int]:
        return [self._end(TopicPartition(self.name, p)) for p in range(self.partitions)]

    def _end(self, partition: TopicPartition) -> int:
        for attempt in range(100):  # a topic made just now is not led everywhere at once
            try:
                return int(self._consumer.get_watermark_offsets(partition, timeout=10)[1])
            except KafkaException:
                if attempt == 99:
                    raise
                time.sleep(0.05)
        raise AssertionError("unreachable")

    def wait_for(self, count: int, seconds: float, alive: Iterable[object] = ()) -> bool:
        """Wait until so many records are in it; False: in vain, or a program of `alive` ended."""
        deadline = time.monotonic() + seconds
        while self.count() < count:
            if time.monotonic() > deadline or not all(p.alive for p in alive):  # type: ignore[attr-defined]
                return False
            time.sleep(0.05)
        return True

    def read(self) -> list[Appended]:
        """Return everything, each partition in the order of its offsets."""
        todo = {p: end for p, end in enumerate(self._ends()) if end}
        self._consumer.assign([TopicPartition(self.name, p, 0) for p in todo])
        found: list[Appended] = []
        while todo:
            for record in self._consumer.consume(10_000, 1.0):
                if record.error():
                    raise KafkaException(record.error())
                found.append(_appended(record))
                partition, offset = record.partition(), record.offset()
                assert partition is not None
                assert offset is not None
                if offset + 1 >= todo.get(partition, 0):
                    todo.pop(partition, None)
        self._consumer.unassign()
        return found

    def close(self) -> None:
        """Remove the topic and its records."""
        self._consumer.close()
        self._admin.delete_topics([self.name])[self.name].result()


def _appended(record: Message) -> Appended:
    key, document = record.key(), record.value()
    assert key is not None
    assert document is not None
    value = orjson.loads(document)
    appended_ms = record.timestamp()[1]
    return Appended(appended_ms, key, value["seq"], value["v"], value["at"] / 1000)


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of the events. Order: per key, first deliveries only, versions must rise."""

    missing: int
    duplicates: int
    order_violations: int


def verify(records: Iterable[Appended], expected: Iterable[int]) -> Verified:
    """Compare a topic's records with the numbers that were committed."""
    seen: set[int] = set()
    newest: dict[bytes, int] = {}
    duplicates = violations = 0
    for record in records:
        if record.seq in seen:
            duplicates += 1
            continue
        seen.add(record.seq)
        if record.version < newest.get(record.key, record.version):
            violations += 1
        newest[record.key] = max(record.version, newest.get(record.key, record.version))
    return Verified(sum(seq not in seen for seq in expected), duplicates, violations)
