"""An order processor that knows nothing of this project: librdkafka, a group, and a key."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

_SECONDS = 60


@contextmanager
def foreign_processor(
    wiring: Any,
    group: str,
    *,
    answers: Callable[[str], bool] = lambda _key: True,
    from_the_end: bool = False,
    clock_seconds: float = 0.0,
    **config: Any,
):
    """Run one beside the test, from its assignment to the end of the block.

    It commits what it has come past every tenth of a second, and on leaving. `from_the_end` is what
    `auto.offset.reset=latest` comes to for a new group, at the moment of its assignment. Its clock
    is ahead by `clock_seconds`.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": wiring.bootstrap,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "auto.commit.interval.ms": 100,
            "log_level": 0,
            **config,
        }
    )
    producer = Producer({"bootstrap.servers": wiring.bootstrap, "log_level": 0})
    assigned, leave = threading.Event(), threading.Event()

    def on_assign(_consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for one in partitions if from_the_end else ():
            one.offset = consumer.get_watermark_offsets(one, 10)[1]
        consumer.assign(partitions)
        assigned.set()

    consumer.subscribe([wiring.events], on_assign=on_assign)

    def work() -> None:
        while not leave.is_set():
            record = consumer.poll(0.1)
            if record is None or record.error() is not None:
                continue
            key = record.key().decode()
            if answers(key):
                body = json.dumps({"order_id": key, "status": "confirmed"})
                at = int((time.time() + clock_seconds) * 1000)
                producer.produce(wiring.returns, key=key, value=body, timestamp=at)
                producer.flush(10)
        consumer.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert assigned.wait(_SECONDS), f"{group} was assigned nothing"
        yield
    finally:
        leave.set()
        thread.join(_SECONDS)
