"""What a partition is called; pure."""

from typing import NamedTuple


class Partition(NamedTuple):
    """One partition of a topic; equal and hashed like aiokafka's TopicPartition, and any pair."""

    topic: str
    partition: int
