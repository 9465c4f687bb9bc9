"""A foreign reader (librdkafka) of both topics: every record, as anybody else would see it."""

import contextlib
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

_NEW_PARTITIONS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A record."""

    partition: int
    offset: int
    key: str
    record_id: str
    version: int | None
    epoch: int
    status: str | None
    seen_at: float


@dataclass
class Log:
    """A topic as read so far; appended by the reader's thread, read by anybody."""

    topic: str
    records: list[Seen] = field(default_factory=list)
    next_offsets: dict[int, int] = field(default_factory=dict)

    def ids(self) -> set[str]:
        return {one.record_id for one in self.records}


class Reader:
    """Follows topics in a thread of its own, from their beginning."""

    def __init__(self, bootstrap_servers: str, *topics: str) -> None:
        self.logs = {topic: Log(topic) for topic in topics}
        self.errors: list[str] = []
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"foreign-{uuid.uuid4().hex}",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                # An end says how far was read where the last records are not for readers.
                "enable.partition.eof": True,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(20)

    def _run(self) -> None:
        try:
            self._follow()
        except Exception as error:  # noqa: BLE001 - a blind oracle must not find everything well
            self.errors.append(f"the reader itself: {error!r}")
        finally:
            self._consumer.close()

    def _follow(self) -> None:
        look_at = 0.0
        while not self._stop.is_set():
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + _NEW_PARTITIONS_SECONDS
                with contextlib.suppress(KafkaException):
                    self._assign()
            for one in self._consumer.consume(1000, 0.02):
                self._take(one)

    def _assign(self) -> None:
        known = {(log.topic, number) for log in self.logs.values() for number in log.next_offsets}
        there = {
            (topic, number)
            for topic in self.logs
            for number in self._consumer.list_topics(topic, 5).topics[topic].partitions
        }
        if there - known:
            for topic, number in there - known:
                self.logs[topic].next_offsets[number] = 0
            self._consumer.assign(
                [
                    TopicPartition(topic, number, at)
                    for topic, log in self.logs.items()
                    for number, at in log.next_offsets.items()
                ]
            )

    def _take(self, one: Any) -> None:
        error = one.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            if not error.retriable() and not error.code() < 0:
                self.errors.append(str(error))
            return
        log = self.logs[one.topic()]
        if error is not None:
            log.next_offsets[one.partition()] = one.offset()
            return
        log.records.append(_seen(one))
        log.next_offsets[one.partition()] = one.offset() + 1


def _seen(one: Any) -> Seen:
    headers = {
        name: (value or b"").decode("utf-8", "replace") for name, value in one.headers() or []
    }
    try:
        body = orjson.loads(one.value() or b"")
    except orjson.JSONDecodeError:
        body = None
    said = body if isinstance(body, dict) else {}
    place = f"{one.partition()}-{one.offset()}"
    return Seen(
        partition=one.partition(),
        offset=one.offset(),
        key=(one.key() or b"").decode("utf-8", "replace"),
        record_id=headers.get("ce_id", place),
        version=said.get("version"),
        epoch=int(headers.get("relay_epoch", 0)),
        status=said.get("status"),
        seen_at=time.monotonic(),
    )
