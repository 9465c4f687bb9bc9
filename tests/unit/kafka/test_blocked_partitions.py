"""Partitions that wait: who says so, and when they are tried again."""

from relay.kafka.consumer.blocked import BlockedPartitions
from relay.kafka.partition import Partition
from relay.runtime.backoff import Backoff

ONE, TWO = Partition("t", 1), Partition("t", 2)


def test_a_partition_that_went_to_another_consumer_is_no_longer_named_here() -> None:
    blocked = BlockedPartitions(Backoff(2.0, 300.0))
    first = blocked.block(ONE, "a trigger refuses it")
    assert blocked.reasons() == {"t-1": "a trigger refuses it"}
    assert blocked.free([ONE, TWO]) == [TWO]
    blocked.assigned([TWO])
    assert blocked.reasons() == {}
    blocked.assigned([ONE, TWO])
    assert blocked.reasons() == {"t-1": "a trigger refuses it"}
    assert blocked.block(ONE, "still") > first
    blocked.handled(ONE)
    assert blocked.reasons() == {}
    assert blocked.free([ONE, TWO]) == [ONE, TWO]
