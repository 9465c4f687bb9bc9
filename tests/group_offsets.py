"""What a group has committed, asked of a broker that may still be loading its offsets."""

import time
from collections.abc import Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

_PATIENCE_SECONDS = 20
_NOT_YET = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}


def committed_offsets(consumer: Consumer, asked: Sequence[TopicPartition]) -> dict[int, int]:
    """Return the offsets of `consumer`'s group by partition, those that there are."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            found = consumer.committed(list(asked), timeout=10)
        except KafkaException as error:
            # The group's first request makes the offsets topic.
            if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return {one.partition: one.offset for one in found if one.offset >= 0}
